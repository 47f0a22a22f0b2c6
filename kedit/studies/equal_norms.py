"""Edits as they are made, and scaled down to the norm of the smallest one of their case."""

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

Budget = Literal["free", "equal"]  # as they are made; as large as the smallest of their case


class Made(NamedTuple):
    """An edit that was made, what making it took, its size, and that of the smallest beside it.

    Args:
        edit: None where it could not be made; it has no size.
    """

    edit: Edit | None
    outcome: Outcome
    size: float
    least: float

    def scaled(self, budget: Budget) -> tuple[Edit | None, float]:
        """The edit, scaled if it is too large; and its size."""
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
    """Each arm's outcomes within each budget, in the order of the cases.

    Args:
        cases: with their scores before any edit.
    """

    @lru_cache(maxsize=1)  # the items come case by case
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
    """`kedit.studies.edits.edit_cases` at equal norms."""
    found = edit_within(model, cases, arms, assessment, journal, ["equal"])
    return {arm: outcomes for (arm, _), outcomes in found.items()}


def made_of(model: HookedTransformer, case: EditCase, arms: Sequence[Arm]) -> dict[Arm, Made]:
    """The edits of one case by all arms; those of one side are held against each other."""
    made = {arm: edit_of(model, case, arm) for arm in arms}
    sizes = {arm: size_of(model, edit) for arm, (edit, _) in made.items() if edit is not None}
    return {
        arm: Made(
            *one, sizes.get(arm, 0.0),
            min((size for other, size in sizes.items() if other.side == arm.side), default=0.0),
        )
        for arm, one in made.items()
    }  # fmt: skip


def size_of(model: HookedTransformer, edit: Edit) -> float:
    """‖delta‖ of all matrices of an edit together."""
    return hypot(*(norm.delta for norm in edit.norms(model).values()))
