"""What is asked for when one fact is edited: the request, and the prompts that show what it did."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from experiments._before_after import Question, answers, replies, said, shown

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.edit_fact import Config
    from kedit.facts import EditRequest, Fact

WORDINGS = (0, 3, 6)  # of those that fit any relation: paraphrases of a relation edit
NEIGHBOURS, SPARE = 6, 3  # that are drawn where none are named; for those without an answer


def request_of(model: "HookedTransformer", config: "Config") -> "EditRequest":
    """The change as the entity side has it.

    Raises:
        InputError: the model says the target already; or nothing at all, where the old object is
            left to it.
    """
    from kedit.errors import InputError
    from kedit.facts import EditRequest, Fact, Relation

    prompt = config.prompt.replace("{}", config.subject)
    (text,) = said(model, [prompt])
    if config.perspective == "entity":
        _refuse_what_is_said(model, prompt, config.target, text)
    true = config.true or answers(model, [prompt], [text])[0]
    if not true:
        raise InputError(f"after {prompt!r} the model says nothing that is an answer: tell --true")
    relation = Relation(config.relation, config.relation)
    return EditRequest(Fact(config.subject, relation, true, config.prompt), config.target)


def relation_side(model: "HookedTransformer", entity: "EditRequest") -> "EditRequest":
    """Subject and target are to have the relation that subject and old object have.

    Raises:
        InputError: the model says so already.
    """
    from kedit.data import cases

    request = cases.relation_side(entity)
    (text,) = said(model, [request.fact.prompt])
    _refuse_what_is_said(model, request.fact.prompt, request.target, text)
    return request


def questions(
    model: "HookedTransformer", config: "Config", entity: "EditRequest"
) -> list[Question]:
    """All that is asked: the edited prompt first, neighbours last.

    Raises:
        InputError: the model says nothing after the prompt of a neighbour that was named, or a
            prompt fills its context.
    """
    from kedit.facts import NO_RELATION

    objects = list(_object_questions(config, entity))
    new = entity.target
    if config.relation:
        relations = list(_relation_questions(entity))
        if config.perspective == "entity":
            objects.append(replace(relations[0], role="other side"))
        else:
            objects = relations + [replace(one, role="other side") for one in objects]
            new = config.relation
    return objects + [
        # where a neighbour has the relation, the edit might take it away
        Question("neighbour", prompt, NO_RELATION if old == new else new, old)
        for prompt, old in _neighbours(model, config, entity).items()
    ]


def drawn(config: "Config", entity: "EditRequest") -> "Sequence[Fact]":
    """Facts whose subjects may be neighbours; none where neighbours were named."""
    from kedit.editing.neighbours import alike

    # kedit's own facts are about our world, of which the toy has never heard
    if config.neighbours or config.model == "toy":
        return ()
    return alike(entity, config.seed)[: NEIGHBOURS + SPARE]


def _neighbours(
    model: "HookedTransformer", config: "Config", entity: "EditRequest"
) -> Mapping[str, str]:
    """Their prompts, each with the answer that the model gives by itself.

    Those that are drawn are left out where an edit could not be seen: where the model gives no
    answer, or says the target already.
    """
    from kedit.data.relations import STATEMENT
    from kedit.forward.generation import says

    names = config.neighbours or [fact.subject for fact in drawn(config, entity)]
    prompts = {name: config.prompt.replace("{}", name) for name in names}
    kept = answered(model, prompts.values())
    if config.neighbours:
        _require_answers(kept)
    else:
        kept = {
            prompt: text
            for prompt, text in kept.items()
            if text and not says(text, [entity.target])
        }
    if config.perspective == "relation":
        pairs = [(name, kept[text]) for name, text in prompts.items() if text in kept]
        kept = answered(model, [STATEMENT.filled(*pair) for pair in pairs])
        if config.neighbours:
            _require_answers(kept)
    told = {prompt: text for prompt, text in kept.items() if text}
    return told if config.neighbours else dict(islice(told.items(), NEIGHBOURS))


def _object_questions(config: "Config", entity: "EditRequest") -> Iterator[Question]:
    new, old = entity.target, entity.fact.object
    yield Question("edited", entity.fact.prompt, new, old)
    for template in config.more:
        yield Question("paraphrase", template.replace("{}", config.subject), new, old)


def _relation_questions(entity: "EditRequest") -> Iterator[Question]:
    from kedit.data import relations
    from kedit.data.relations import STATEMENT
    from kedit.facts import NO_RELATION

    fact, name = entity.fact, entity.fact.relation.name
    adding = STATEMENT.filled(fact.subject, entity.target)
    yield Question("edited", adding, name, NO_RELATION)
    removing = STATEMENT.filled(fact.subject, fact.object)
    yield Question("removed", removing, NO_RELATION, name)
    for number in WORDINGS:
        prompt = relations.generic()[number].filled(fact.subject, entity.target)
        yield Question("paraphrase", prompt, name, NO_RELATION)


def answered(model: "HookedTransformer", prompts: Iterable[str]) -> dict[str, str]:
    """Prompts, each with the answer that the model gives by itself; "" where it gives none."""
    prompts = list(prompts)
    return dict(zip(prompts, answers(model, prompts, said(model, prompts)), strict=True))


def _require_answers(answered: Mapping[str, str]) -> None:
    from kedit.errors import InputError

    for prompt, answer in answered.items():
        if not answer:
            raise InputError(
                f"after {prompt!r} the model says nothing that could stay: leave that neighbour out"
            )


def _refuse_what_is_said(model: "HookedTransformer", prompt: str, target: str, text: str) -> None:
    from kedit.errors import InputError
    from kedit.forward.generation import says

    if says(text, [target]):
        (reply,) = replies(model, [Question("edited", prompt, target, target)])
        raise InputError(
            f"the model says {target!r} already after {prompt!r}, with probability "
            f"{shown(reply.new)}: there is nothing to edit, tell another --target"
        )
