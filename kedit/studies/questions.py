"""What is asked for when one fact is edited: the request, and the prompts that show what it did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from transformer_lens import HookedTransformer

from kedit.data import cases, relations
from kedit.data.relations import STATEMENT
from kedit.editing.neighbours import alike
from kedit.errors import InputError
from kedit.facts import NO_RELATION, EditRequest, Fact, Perspective, Relation
from kedit.forward.saying import opens_with_answer
from kedit.results.exchanges import Question, probability
from kedit.studies.replies import answered, answers, replies, said, weighable

WORDINGS = (0, 3, 6)  # of those that fit any relation: paraphrases of a relation edit
NEIGHBOURS, SPARE = 6, 3  # that are drawn where none are named; for those without an answer


# six parameters: the fields of a fact and its change
def request_of(
    model: HookedTransformer,
    subject: str,
    template: str,
    target: str,
    *,
    old: str = "",
    relation: str = "",
) -> EditRequest:
    """The change of a fact to `target`, as the entity side has it.

    Args:
        template: of the prompt, with a {} for the subject.
        old: what the model shall no longer say; "" for whatever it says by itself.
        relation: its name; "" where nothing is asked from the relation side.

    Raises:
        InputError: the model says the target already, or nothing at all; the latter two only where
            `old` is left to it.
    """
    if not old:
        prompt = template.replace("{}", subject)
        (text,) = said(model, [prompt])
        if opens_with_answer(text, [target]):
            raise _says_already(model, prompt, target)
        (old,) = answers(model, [prompt], [text])
        if not old:
            raise InputError(
                f"after {prompt!r} the model says nothing that is an answer: tell --old"
            )
    return EditRequest(Fact(subject, Relation(relation, relation), old, template), target)


def seen_from(entity: EditRequest, side: Perspective) -> EditRequest:
    """The same change from one side; the relation's gives subject and target the relation."""
    return entity if side == "entity" else cases.relation_side(entity)


# six parameters: whom to ask, about what, from which side, in which words
def questions_of(
    model: HookedTransformer,
    entity: EditRequest,
    side: Perspective = "entity",
    paraphrases: Sequence[str] = (),
    neighbours: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Question]:
    """All that is asked of an edit from one side: the edited prompt first, neighbours last.

    Args:
        entity: the change as the entity side has it; where its relation has a name, the other side
            is asked too.
        paraphrases: other wordings of the prompt, with a {} for the subject.
        neighbours: other subjects; None for some that are drawn from kedit's own facts by `seed`.

    Raises:
        InputError: the model says the target already, or says nothing after the prompt of a
            neighbour that was named; a prompt fills its context; the relation has no name.
    """
    name = entity.fact.relation.name
    if side == "relation" and not name:
        raise InputError("an edit of the relation needs its name: location, say")
    _require_unsaid(model, seen_from(entity, side))
    asked, new = list(_object_questions(entity, paraphrases)), entity.target
    if name:
        relation_side = list(_relation_questions(entity))
        if side == "entity":
            asked.append(replace(relation_side[0], role="other side"))
        else:
            asked = relation_side + [replace(one, role="other side") for one in asked]
            new = name
    asked += [
        # where a neighbour has the relation, the edit might take it away
        Question("neighbour", prompt, NO_RELATION if old == new else new, old)
        for prompt, old in _neighbours(model, entity, side, neighbours, seed).items()
    ]
    for one in asked:
        weighable(model, one)  # raises where it is too long
    return asked


def drawn_neighbours(model: HookedTransformer, entity: EditRequest, seed: int) -> list[str]:
    """Subjects of kedit's own facts of the relation; none if it has no such facts."""
    # kedit's own facts are about our world, of which the toy has never heard
    if model.cfg.model_name == "toy":
        return []
    return [fact.subject for fact in alike(entity, seed)[: NEIGHBOURS + SPARE]]


def _neighbours(
    model: HookedTransformer,
    entity: EditRequest,
    side: Perspective,
    named: Sequence[str] | None,
    seed: int,
) -> Mapping[str, str]:
    """Their prompts, each with the answer that the model gives by itself.

    Those that are drawn are left out where an edit could not be seen: where the model gives no
    answer, or says the target already.
    """
    names = drawn_neighbours(model, entity, seed) if named is None else named
    prompts = {name: entity.fact.template.replace("{}", name) for name in names}
    kept = answered(model, prompts.values())
    if named is None:
        kept = {
            prompt: text
            for prompt, text in kept.items()
            if text and not opens_with_answer(text, [entity.target])
        }
    else:
        _require_answers(kept)
    if side == "relation":
        pairs = [(name, kept[text]) for name, text in prompts.items() if text in kept]
        kept = answered(model, [STATEMENT.filled(*pair) for pair in pairs])
        if named is not None:
            _require_answers(kept)
    told = {prompt: text for prompt, text in kept.items() if text}
    return dict(islice(told.items(), NEIGHBOURS)) if named is None else told


def _object_questions(entity: EditRequest, paraphrases: Sequence[str]) -> Iterator[Question]:
    fact, new, old = entity.fact, entity.target, entity.fact.object
    yield Question("edited", fact.prompt, new, old)
    for template in paraphrases:
        yield Question("paraphrase", template.replace("{}", fact.subject), new, old)


def _relation_questions(entity: EditRequest) -> Iterator[Question]:
    fact, name = entity.fact, entity.fact.relation.name
    adding = STATEMENT.filled(fact.subject, entity.target)
    yield Question("edited", adding, name, NO_RELATION)
    removing = STATEMENT.filled(fact.subject, fact.object)
    yield Question("removed", removing, NO_RELATION, name)
    for number in WORDINGS:
        prompt = relations.generic()[number].filled(fact.subject, entity.target)
        yield Question("paraphrase", prompt, name, NO_RELATION)


def _require_answers(answered: Mapping[str, str]) -> None:
    for prompt, answer in answered.items():
        if not answer:
            raise InputError(
                f"after {prompt!r} the model says nothing that could stay: leave that neighbour out"
            )


def _require_unsaid(model: HookedTransformer, request: EditRequest) -> None:
    (text,) = said(model, [request.fact.prompt])
    if opens_with_answer(text, [request.target]):
        raise _says_already(model, request.fact.prompt, request.target)


def _says_already(model: HookedTransformer, prompt: str, target: str) -> InputError:
    (reply,) = replies(model, [Question("edited", prompt, target, target)])
    return InputError(
        f"the model says {target!r} already after {prompt!r}, with probability "
        f"{probability(reply.new)}: there is nothing to edit, tell another --target"
    )
