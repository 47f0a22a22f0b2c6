"""Builds the request of an edit of one fact, and the questions that show what the edit did.

`request_of` builds the request. `questions_of` builds the questions: the edited prompt, other
wordings, the other side, and neighbours.
"""

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
from kedit.studies.replies import ANSWER_TOKENS, answered, answers, replies, said, weighable

WORDINGS = (0, 3, 6)  # indices of the general wordings that serve as paraphrases of a relation edit
NEIGHBOURS = 6  # number of neighbours that are asked about if none are given
SPARE = 3  # drawn in addition, because the model may give no answer for some neighbours


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
    """Returns the request to change a fact to `target`, seen from the entity side.

    Args:
        template: the prompt, with {} in the place of the subject.
        target: what the model should say after the edit.
        old: what the model should no longer say; "": the answer that the model gives now.
        relation: the relation's name; "" if the relation side is neither edited nor asked about.

    Raises:
        InputError: `old` is "", and the model says the target already or gives no answer.
    """
    if not old:
        prompt = template.replace("{}", subject)
        (text,) = said(model, [prompt], ANSWER_TOKENS)
        if opens_with_answer(text, [target]):
            raise _says_already(model, prompt, target)
        (old,) = answers(model, [prompt], [text])
        if not old:
            raise InputError(
                f"after {prompt!r} the model gives no answer that an edit could replace: name the "
                "old answer (--old)"
            )
    return EditRequest(Fact(subject, Relation(relation, relation), old, template), target)


def seen_from(entity: EditRequest, side: Perspective) -> EditRequest:
    """Returns the change as a request from `side`.

    From the relation side it is the request that subject and target have the relation.
    """
    return entity if side == "entity" else cases.relation_side(entity)


# six parameters: the model, the edit and its side, and the prompts
def questions_of(
    model: HookedTransformer,
    entity: EditRequest,
    side: Perspective = "entity",
    paraphrases: Sequence[str] = (),
    neighbours: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Question]:
    """Returns all questions about an edit from one side: the edited prompt first, neighbours last.

    Args:
        entity: the change, seen from the entity side. If its relation has a name, there are also
            questions from the side that is not edited.
        side: the side that is edited.
        paraphrases: other wordings of the prompt, with {} in the place of the subject.
        neighbours: other subjects; None: subjects of kedit's own facts, drawn by `seed`.

    Raises:
        InputError: the model says the target already, it gives no answer for a neighbour that was
            given, a prompt fills the model's context, or the side is "relation" and the relation
            has no name.
    """
    name = entity.fact.relation.name
    if side == "relation" and not name:
        raise InputError(
            "an edit from the relation side needs the name of the relation (--relation), for "
            "example location"
        )
    _require_unsaid(model, seen_from(entity, side))
    asked, new = list(_object_questions(entity, paraphrases)), entity.target
    if name:
        relation_side = list(_relation_questions(entity))
        if side == "entity":
            asked.append(replace(relation_side[0], role="other side"))
        else:
            asked = relation_side + [replace(question, role="other side") for question in asked]
            new = name
    asked += [
        # from the relation side, a neighbour may have the same relation: the edit must not remove
        # it, so that the answer to guard against is "None"
        Question("neighbour", prompt, NO_RELATION if old == new else new, old)
        for prompt, old in _neighbours(model, entity, side, neighbours, seed).items()
    ]
    for question in asked:
        weighable(model, question)  # raises InputError if the prompt is too long
    return asked


def drawn_neighbours(model: HookedTransformer, entity: EditRequest, seed: int) -> list[str]:
    """Draws subjects of kedit's own facts of the same relation; empty if there are none."""
    # kedit's own facts are about the real world, which the toy does not know
    if model.cfg.model_name == "toy":
        return []
    return [fact.subject for fact in alike(entity, seed)[: NEIGHBOURS + SPARE]]


def _neighbours(
    model: HookedTransformer,
    entity: EditRequest,
    side: Perspective,
    given: Sequence[str] | None,
    seed: int,
) -> Mapping[str, str]:
    """Returns prompts about neighbours, each with the answer that the model gives now.

    Drawn neighbours are left out if they could not show an effect of the edit, because the model
    gives no answer or says the target already. Given neighbours must have an answer.

    Args:
        given: subjects of neighbours; None: they are drawn.
    """
    names = drawn_neighbours(model, entity, seed) if given is None else given
    prompts = {name: entity.fact.template.replace("{}", name) for name in names}
    found = answered(model, prompts.values())
    if given is None:
        found = {
            prompt: answer
            for prompt, answer in found.items()
            if answer and not opens_with_answer(answer, [entity.target])
        }
    else:
        _require_answers(found)
    if side == "relation":
        pairs = [(name, found[prompt]) for name, prompt in prompts.items() if prompt in found]
        found = answered(model, [STATEMENT.filled(*pair) for pair in pairs])
        if given is not None:
            _require_answers(found)
    with_answer = {prompt: answer for prompt, answer in found.items() if answer}
    return dict(islice(with_answer.items(), NEIGHBOURS)) if given is None else with_answer


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
                f"after {prompt!r} the model gives no answer that the edit could keep: leave this "
                "neighbour out"
            )


def _require_unsaid(model: HookedTransformer, request: EditRequest) -> None:
    (text,) = said(model, [request.fact.prompt], ANSWER_TOKENS)
    if opens_with_answer(text, [request.target]):
        raise _says_already(model, request.fact.prompt, request.target)


def _says_already(model: HookedTransformer, prompt: str, target: str) -> InputError:
    (reply,) = replies(model, [Question("edited", prompt, target, target)])
    return InputError(
        f"the model says {target!r} already after {prompt!r}, with probability "
        f"{probability(reply.new)}: there is nothing to edit, choose another target (--target)"
    )
