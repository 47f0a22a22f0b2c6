"""Edits cases within a budget: edits as they are made, or scaled to equal norms.

At equal norms, every edit is scaled down to the norm of the smallest edit of its case and side. A
larger edit then cannot win by its size alone.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import hypot
from typing import Any, Literal, NamedTuple

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.studies.edits import Assessment, edit_of, effect_of, record_of
from kedit.studies.prepare import Arm

# free: edits as they are made; equal: each as large as the smallest edit of its case and side
Budget = Literal["free", "equal"]


class Made(NamedTuple):
    """An edit of a case by one arm, with the sizes that are needed to scale it.

    Args:
        edit: the edit; None if it could not be made.
        outcome: the time and memory that making the edit took, or why it could not be made.
        size: the edit's norm, see `size_of`; 0 without an edit.
        least: the norm of the smallest edit of the same case and side.
    """

    edit: Edit | None
    outcome: Outcome
    size: float
    least: float

    def scaled(self, budget: Budget) -> tuple[Edit | None, float]:
        """Returns the edit within the budget, scaled down if it is too large, and its norm then."""
        if self.edit is None or budget == "free" or self.size == self.least:
            return self.edit, self.size
        return self.edit.scaled(self.least / self.size), self.least


def edit_within(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    arms: Sequence[Arm],
    assessment: Assessment,
    journal: Journal,
    budgets: Sequence[Budget],
) -> dict[tuple[Arm, Budget], list[Outcome]]:
    """Edits every case by every arm within every budget.

    Returns the outcomes of each arm and budget, in the order of the cases.

    Args:
        cases: the cases, with their scores before any edit.
    """

    @lru_cache(maxsize=1)  # one case is enough: all items of a case follow one another
    def of_case(case: EditCase) -> dict[Arm, Made]:
        return made_of(model, case, arms)

    def work(item: tuple[EditCase, Arm, Budget]) -> dict[str, Any]:
        case, arm, budget = item
        made = of_case(case)[arm]
        edit, size = made.scaled(budget)
        if edit is None:
            return record_of(case, arm, made.outcome, budget=budget)
        found = effect_of(model, edit, case, cases[case], arm, assessment, made.outcome)
        return record_of(case, arm, found, budget=budget, size=size)

    items: list[tuple[EditCase, Arm, Budget]] = [
        (case, arm, budget) for case in cases for arm in arms for budget in budgets
    ]
    found: dict[tuple[Arm, Budget], list[Outcome]] = {(arm, budget): [] for _, arm, budget in items}
    for entry in journal.each(
        items, lambda item: f"{item[1].key(item[0])}-{item[2]}", work, unit="edits",
        doing="editing", about=lambda item: {
            "id": item[0].id, "editor": item[1].name, "side": item[1].side, "budget": item[2],
        },
    ):  # fmt: skip
        _, arm, budget = entry.item
        outcome = Outcome.from_record({"trouble": entry.skipped, **entry.record})
        found[arm, budget].append(outcome)
    return found


def edit_equally(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    arms: Sequence[Arm],
    assessment: Assessment,
    journal: Journal,
) -> dict[Arm, list[Outcome]]:
    """Does what `kedit.studies.edits.edit_cases` does, at equal norms."""
    found = edit_within(model, cases, arms, assessment, journal, ["equal"])
    return {arm: outcomes for (arm, _), outcomes in found.items()}


def made_of(model: HookedTransformer, case: EditCase, arms: Sequence[Arm]) -> dict[Arm, Made]:
    """Makes the edits of one case by all arms, and finds the smallest norm on each side."""
    edits = {arm: edit_of(model, case, arm) for arm in arms}
    sizes = {arm: size_of(model, edit) for arm, (edit, _) in edits.items() if edit is not None}
    return {
        arm: Made(
            *edit_and_outcome, sizes.get(arm, 0.0),
            min((size for other, size in sizes.items() if other.side == arm.side), default=0.0),
        )
        for arm, edit_and_outcome in edits.items()
    }  # fmt: skip


def size_of(model: HookedTransformer, edit: Edit) -> float:
    """Returns the Frobenius norm of an edit: of the deltas of all its matrices together."""
    return hypot(*(norm.delta for norm in edit.norms(model).values()))
