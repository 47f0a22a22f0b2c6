"""What is asked of many facts, and a model's replies: all at once, where that is possible."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from experiments._asked import NEIGHBOURS, SPARE, answered
from experiments._before_after import Question, Reply, replies
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.facts import EditCase, EditRequest, Perspective

TOGETHER = 8  # records that are asked at once
PARAPHRASES = 3  # of each request that are asked, at most

Asked = dict["EditCase", dict["EditRequest", list[Question]]]


def asked_of(
    model: "HookedTransformer", cases: "Sequence[EditCase]", perspective: "Perspective", seed: int
) -> tuple[Asked, "dict[EditCase, list[Reply]]", dict[str, str]]:
    """What is asked of each request of each case, and the unedited model's replies; and why other
    cases are left out.
    """
    from kedit.forward.generation import says

    asked: Asked = {}
    before: dict[EditCase, list[Reply]] = {}
    skipped: dict[str, str] = {}
    with progress("facts") as bars:
        bar = bars.add_task("asking", total=len(cases))
        for some in chunks(cases):
            found, refused = _asked_together(model, some, perspective, seed)
            skipped |= refused
            bars.update(bar, advance=len(some))
            for case, (own, replied) in found.items():
                firsts = [replied[flat(own).index(ones[0])] for ones in own.values()]
                said = zip(own, firsts, strict=True)
                if all(says(reply.said, [request.target]) for request, reply in said):
                    skipped[case.id] = f"the model says {next(iter(own)).target!r} already"
                else:
                    asked[case], before[case] = own, replied
    return asked, before, skipped


Replied = tuple[dict["EditRequest", list[Question]], list[Reply]]


def _asked_together(
    model: "HookedTransformer", cases: "Sequence[EditCase]", perspective: "Perspective", seed: int
) -> "tuple[dict[EditCase, Replied], dict[str, str]]":
    """Questions and replies of cases, all at once; where that fails, by halves, so that a case that
    cannot be asked costs only itself.
    """
    from kedit.errors import InputError

    try:
        near = {
            request: _near(model, case, request, seed)
            for case in cases
            for request in case.requests(perspective)
        }
        answers = answered(model, dict.fromkeys(text for texts in near.values() for text in texts))
        asked = {
            case: {
                request: list(
                    _questions(case, request, {text: answers[text] for text in near[request]})
                )
                for request in case.requests(perspective)
            }
            for case in cases
        }
        replied = replies_of(model, {case: flat(own) for case, own in asked.items()})
        return {case: (own, replied[case]) for case, own in asked.items()}, {}
    except InputError as error:
        if len(cases) == 1:
            return {}, {cases[0].id: str(error)}
    middle = len(cases) // 2
    first, refused = _asked_together(model, cases[:middle], perspective, seed)
    second, also = _asked_together(model, cases[middle:], perspective, seed)
    return first | second, refused | also


def replies_of(
    model: "HookedTransformer", questions: "Mapping[EditCase, Sequence[Question]]"
) -> "dict[EditCase, list[Reply]]":
    """In one pass: many prompts at once are faster than one by one."""
    found = iter(replies(model, [one for own in questions.values() for one in own]))
    return {case: list(islice(found, len(own))) for case, own in questions.items()}


def flat(asked: "Mapping[EditRequest, Sequence[Question]]") -> list[Question]:
    return [one for own in asked.values() for one in own]


def chunks(cases: "Iterable[EditCase]") -> "list[list[EditCase]]":
    every = list(cases)
    return [every[start : start + TOGETHER] for start in range(0, len(every), TOGETHER)]


def _questions(
    case: "EditCase", request: "EditRequest", near: Mapping[str, str]
) -> Iterator[Question]:
    """The edited prompt, the old pair's, other wordings, and neighbours.

    Args:
        near: neighbours' prompts, each with the answer that the model gives by itself.
    """
    from kedit.facts import NO_RELATION
    from kedit.forward.generation import says

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
        if old and not (side == "entity" and says(old, [request.target]))
    }
    for prompt, old in islice(seen.items(), NEIGHBOURS):
        # where a neighbour has the relation, the edit might take it away
        new = NO_RELATION if old == request.target else request.target
        yield Question("neighbour", prompt, new, old)


def _near(
    model: "HookedTransformer", case: "EditCase", request: "EditRequest", seed: int
) -> list[str]:
    """Prompts of neighbours: the record's, else about subjects of kedit's own facts."""
    from kedit.editing.neighbours import alike

    side = request.perspective
    prompts = [
        probe.prompt
        for probe in case.probes
        if (probe.perspective, probe.group) == (side, "neighborhood")
    ]
    # kedit's own facts are about our world, of which the toy has never heard
    if not prompts and side == "entity" and model.cfg.model_name != "toy":
        template = request.fact.template
        prompts = [template.replace("{}", other.subject) for other in alike(request, seed)]
    return prompts[: NEIGHBOURS + SPARE]
