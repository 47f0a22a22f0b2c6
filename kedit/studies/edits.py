"""Edits cases one by one: makes each edit, checks it, scores the edited model, and undoes the edit.

Every editor edits every case. Finished edits are kept in a journal, from which a study resumes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch.linalg import LinAlgError  # pyright: ignore[reportAttributeAccessIssue]
from transformer_lens import HookedTransformer

from kedit.editing.checks import checked, require_consistent
from kedit.editing.edit import Edit, PreparedEditor
from kedit.editing.provenance import unedited_part
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest
from kedit.forward.kept import KeptStates
from kedit.journal import Journal
from kedit.models.split import devices_of
from kedit.progress import progress
from kedit.records import require_finite, to_record
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.scoring.drift import Baseline
from kedit.scoring.score import Scoring, score
from kedit.studies.memory import peak_since_now
from kedit.studies.prepare import Arm, requests_of

# what an editor raises for facts that it cannot edit; they must not end the whole study
CANNOT_EDIT = (ValueError, LinAlgError)


@dataclass(frozen=True)
class Assessment:
    """How edits are assessed.

    Args:
        scoring: what is measured of each case.
        text: held-out text, with the unedited model's predictions on it.
        kept: states of the cases' prompts and of the text in the layers that no edit changes.
    """

    scoring: Scoring
    text: Baseline
    kept: KeptStates = field(default_factory=partial(KeptStates, unedited_part))


def edit_cases(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    arms: Sequence[Arm],
    assessment: Assessment,
    journal: Journal,
) -> dict[Arm, list[Outcome]]:
    """Edits every case by every arm.

    Returns the outcomes of each arm, in the order of the cases.

    Args:
        cases: the cases, with their scores before any edit.
    """

    def work(pair: tuple[EditCase, Arm]) -> dict[str, Any]:
        case, arm = pair
        return record_of(case, arm, edited(model, case, cases[case], arm, assessment))

    pairs = [(case, arm) for case in cases for arm in arms]
    outcomes: dict[Arm, list[Outcome]] = {arm: [] for arm in arms}
    for entry in journal.each(
        pairs, lambda pair: pair[1].key(pair[0]), work, unit="edits", doing="editing",
        about=lambda pair: {"id": pair[0].id, "editor": pair[1].name, "side": pair[1].side},
    ):  # fmt: skip
        _, arm = entry.item
        outcomes[arm].append(Outcome.from_record({"trouble": entry.skipped, **entry.record}))
    return outcomes


def record_of(case: EditCase, arm: Arm, outcome: Outcome, **more: Any) -> dict[str, Any]:
    """Returns the record of an outcome for the journal; `more` is added to it."""
    return {"id": case.id, "editor": arm.name, "side": arm.side, **more, **to_record(outcome)}


def edited(
    model: HookedTransformer, case: EditCase, before: EditScore, arm: Arm, assessment: Assessment
) -> Outcome:
    """Makes the edit of one case, scores the edited model, and undoes the edit."""
    edit, outcome = edit_of(model, case, arm)
    if edit is None:
        return outcome
    return effect_of(model, edit, case, before, arm, assessment, outcome)


def edit_of(model: HookedTransformer, case: EditCase, arm: Arm) -> tuple[Edit | None, Outcome]:
    """Makes the edit of one case; returns it with an outcome that has only its time and memory.

    If the edit cannot be made, it is None, and the outcome has the reason.
    """
    peak, start = peak_since_now(devices_of(model)), time.perf_counter()
    try:
        edit = arm.edit(case)
    except CANNOT_EDIT as error:
        return None, Outcome(f"no edit: {error}", seconds=time.perf_counter() - start)
    return edit, Outcome("", seconds=time.perf_counter() - start, memory=peak())


def edit_of_all(
    model: HookedTransformer,
    asked: Mapping[EditCase, Sequence[EditRequest]],
    make: PreparedEditor,
) -> tuple[Edit | None, dict[EditCase, str]]:
    """Makes one edit of the requests of all cases; returns it with the cases it leaves out.

    If the edit of all cannot be made, it leaves out the cases that cannot be edited alone, and
    those that contradict a case before them. It is None if nothing is left, or if the rest cannot
    be edited together. The second value has the reasons.
    """
    all_requests = [request for of_case in asked.values() for request in of_case]
    if not all_requests:
        return None, {}
    try:
        return make(all_requests), {}
    except CANNOT_EDIT as error:
        together = str(error)
    requests: list[EditRequest] = []
    refused: dict[EditCase, str] = {}
    with progress("cases") as bars:
        alone = asked.items() if len(asked) > 1 else ()
        for case, of_case in bars.track(alone, description="editing alone what fails together"):
            try:
                require_consistent(model, [*requests, *of_case])
                make(list(of_case))
                requests += of_case
            except CANNOT_EDIT as error:
                refused[case] = str(error)
    if requests and refused:  # without a case that is refused, the same edit would fail again
        try:
            return make(requests), refused
        except CANNOT_EDIT as error:
            together = str(error)
    return None, dict.fromkeys(asked, together) | refused


# seven parameters: the edit, its case and editor, and how they are assessed
def effect_of(
    model: HookedTransformer,
    edit: Edit,
    case: EditCase,
    before: EditScore,
    arm: Arm,
    assessment: Assessment,
    cost: Outcome,
) -> Outcome:
    """Measures what an edit does to its case and to held-out text.

    Args:
        before: the score of the case before any edit.
        cost: the outcome with the time and memory that making the edit took.
    """
    kept = assessment.kept
    found = checked(model, edit, requests_of(case, arm.side), assessment.text, kept=kept)
    outcome = replace(cost, trouble=found.trouble)
    if found.drift is None:
        return outcome
    numbers = to_record(
        {
            "perplexity": found.drift.perplexity[1],
            "kl": float(found.drift.kl.mean()),
            "norm": max(norm.relative for norm in edit.norms(model).values()),
        }
    )
    outcome = replace(outcome, **numbers)
    with edit.applied(model):
        (after,) = score(model, [case], assessment.scoring, before.own_words, kept)
    try:
        require_finite("after the edit", after.to_record())
    except InputError as error:
        return replace(outcome, trouble=found.trouble or str(error))
    return replace(outcome, score=after)
