"""Builds the questions about edits of many facts: for each request its prompt, other wordings,
and neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from transformer_lens import HookedTransformer

from kedit.facts import NO_RELATION, EditCase, EditRequest, Perspective
from kedit.forward.saying import opens_with_answer
from kedit.results.exchanges import Question
from kedit.studies.questions import NEIGHBOURS, SPARE, drawn_neighbours
from kedit.studies.replies import answered

PARAPHRASES = 3  # largest number of paraphrases that are asked per request
CaseQuestions = Mapping[EditRequest, Sequence[Question]]


def questions_of_cases(
    model: HookedTransformer, cases: Sequence[EditCase], perspective: Perspective, seed: int
) -> dict[EditCase, CaseQuestions]:
    """Returns the questions by case and request; the first question of a request is its prompt.

    Args:
        perspective: the side that is edited.
        seed: seed of the neighbours that are drawn for cases without neighbours.

    Raises:
        InputError: a prompt fills the model's context.
    """
    # for all cases at once: many prompts in one forward are faster than one by one
    near = {
        request: _near(model, case, request, seed)
        for case in cases
        for request in case.requests(perspective)
    }
    answers = answered(model, dict.fromkeys(text for texts in near.values() for text in texts))
    return {
        case: {
            request: list(
                _questions(case, request, {text: answers[text] for text in near[request]})
            )
            for request in case.requests(perspective)
        }
        for case in cases
    }


def _questions(case: EditCase, request: EditRequest, near: Mapping[str, str]) -> Iterator[Question]:
    """Yields the edited prompt, the prompt of the removal, other wordings, and neighbours.

    Args:
        near: prompts about neighbours, each with the answer that the model gives now.
    """
    fact, side = request.fact, request.perspective
    yield Question("edited", fact.prompt, request.target, fact.object)
    if request.removal:
        yield Question("removed", request.removal.prompt, NO_RELATION, request.target)
    paraphrases = [
        Question("paraphrase", probe.prompt, probe.answer, probe.rival)
        for probe in case.probes
        if (probe.perspective, probe.group) == (side, "paraphrase")
        # a record with several edits has the paraphrases of all of them
        and (not case.others or (probe.answer, probe.rival) == (request.target, fact.object))
    ]
    yield from paraphrases[:PARAPHRASES]
    usable = {
        # if the model says the target here already, an effect of the edit could not be seen
        prompt: old
        for prompt, old in near.items()
        if old and not (side == "entity" and opens_with_answer(old, [request.target]))
    }
    for prompt, old in islice(usable.items(), NEIGHBOURS):
        # from the relation side, a neighbour may have the same relation: the edit must not remove
        # it, so that the answer to guard against is "None"
        new = NO_RELATION if old == request.target else request.target
        yield Question("neighbour", prompt, new, old)


def _near(model: HookedTransformer, case: EditCase, request: EditRequest, seed: int) -> list[str]:
    """Returns prompts about neighbours: those of the case, or else about drawn subjects."""
    side = request.perspective
    prompts = [
        probe.prompt
        for probe in case.probes
        if (probe.perspective, probe.group) == (side, "neighborhood")
    ]
    if not prompts and side == "entity":
        names = drawn_neighbours(model, request, seed)
        prompts = [request.fact.template.replace("{}", name) for name in names]
    return prompts[: NEIGHBOURS + SPARE]
