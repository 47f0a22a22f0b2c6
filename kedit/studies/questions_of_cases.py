"""What is asked of many facts: of each request its prompt, other wordings, and neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from transformer_lens import HookedTransformer

from kedit.facts import NO_RELATION, EditCase, EditRequest, Perspective
from kedit.forward.saying import opens_with_answer
from kedit.results.exchanges import Question
from kedit.studies.questions import NEIGHBOURS, SPARE, drawn_neighbours
from kedit.studies.replies import answered

PARAPHRASES = 3  # of each request that are asked, at most
CaseQuestions = Mapping[EditRequest, Sequence[Question]]


def questions_of_cases(
    model: HookedTransformer, cases: Sequence[EditCase], perspective: Perspective, seed: int
) -> dict[EditCase, CaseQuestions]:
    """By case and request, what is asked; the requests' own prompts first.

    Args:
        seed: of the neighbours that are drawn where a record has none.

    Raises:
        InputError: a prompt fills the model's context.
    """
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
    """The edited prompt, the old pair's, other wordings, and neighbours.

    Args:
        near: neighbours' prompts, each with the answer that the model gives by itself.
    """
    fact, side = request.fact, request.perspective
    yield Question("edited", fact.prompt, request.target, fact.object)
    if request.removal:
        yield Question("removed", request.removal.prompt, NO_RELATION, request.target)
    paraphrases = [
        Question("paraphrase", probe.prompt, probe.answer, probe.rival)
        for probe in case.probes
        if (probe.perspective, probe.group) == (side, "paraphrase")
        # of a record of several edits, each has its own
        and (not case.others or (probe.answer, probe.rival) == (request.target, fact.object))
    ]
    yield from paraphrases[:PARAPHRASES]
    seen = {
        # where a neighbour says the target already, a leak would not show
        prompt: old
        for prompt, old in near.items()
        if old and not (side == "entity" and opens_with_answer(old, [request.target]))
    }
    for prompt, old in islice(seen.items(), NEIGHBOURS):
        # where a neighbour has the relation, the edit might take it away
        new = NO_RELATION if old == request.target else request.target
        yield Question("neighbour", prompt, new, old)


def _near(model: HookedTransformer, case: EditCase, request: EditRequest, seed: int) -> list[str]:
    """Prompts of neighbours: the record's, else about subjects of kedit's own facts."""
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
