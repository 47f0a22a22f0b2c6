"""Edit, score, undo, case by case: every editor on every case, with checks and resume."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.linalg import LinAlgError  # pyright: ignore[reportAttributeAccessIssue]
from transformer_lens import HookedTransformer

from kedit.editing.checks import checked
from kedit.editing.edit import Edit
from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.prompts import device
from kedit.records import require_finite, to_record
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.scoring.drift import Baseline, baseline, held_out
from kedit.scoring.score import Scoring, score
from kedit.studies.memory import peak_since_now
from kedit.studies.prepare import Arm, requests_of


@dataclass(frozen=True)
class Assessment:
    """How edits are assessed.

    Args:
        scoring: of the cases.
        text: held out, with what the unedited model makes of it.
    """

    scoring: Scoring
    text: Baseline

    @classmethod
    def by(
        cls,
        model: HookedTransformer,
        scoring: Scoring,
        held_out_text: str,
        chunks: int,
        chunk_tokens: int,
    ) -> "Assessment":
        """By chunks of a held-out text; where the model writes it, by the scoring's seed."""
        text = held_out(model, held_out_text, chunks, scoring.seed, chunk_tokens)
        return cls(scoring, baseline(model, text))


def edit_cases(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    arms: Sequence[Arm],
    assessment: Assessment,
    journal: Journal,
) -> dict[Arm, list[Outcome]]:
    """Each arm's outcomes, in the order of the cases.

    Args:
        cases: with their scores before any edit.
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
    """An outcome as a journal keeps it."""
    return {"id": case.id, "editor": arm.name, "side": arm.side, **more, **to_record(outcome)}


def edited(
    model: HookedTransformer, case: EditCase, before: EditScore, arm: Arm, assessment: Assessment
) -> Outcome:
    """One case's edit, scored and undone."""
    edit, made = edit_of(model, case, arm)
    return made if edit is None else effect_of(model, edit, case, before, arm, assessment, made)


def edit_of(model: HookedTransformer, case: EditCase, arm: Arm) -> tuple[Edit | None, Outcome]:
    """One case's edit, and what making it took; None where it could not be made, with why."""
    peak, start = peak_since_now(device(model)), time.perf_counter()
    try:
        edit = arm.edit(case)
    except (ValueError, LinAlgError) as error:
        # one bad record costs itself only
        return None, Outcome(f"no edit: {error}", seconds=time.perf_counter() - start)
    return edit, Outcome("", seconds=time.perf_counter() - start, memory=peak())


# seven parameters: what is edited, by what, and how both are looked at
def effect_of(
    model: HookedTransformer,
    edit: Edit,
    case: EditCase,
    before: EditScore,
    arm: Arm,
    assessment: Assessment,
    made: Outcome,
) -> Outcome:
    """What an edit does to its case and to held-out text, beside what making it took."""
    found = checked(model, edit, requests_of(case, arm.side), assessment.text)
    made = replace(made, trouble=found.trouble)
    if found.drift is None:
        return made
    numbers = to_record(
        {
            "perplexity": found.drift.perplexity[1],
            "kl": float(found.drift.kl.mean()),
            "norm": max(norm.relative for norm in edit.norms(model).values()),
        }
    )
    made = replace(made, **numbers)
    with edit.applied(model):
        (after,) = score(model, [case], assessment.scoring, before.own_words)
    try:
        require_finite("after the edit", after.to_record())
    except InputError as error:
        return replace(made, trouble=found.trouble or str(error))
    return replace(made, score=after)
