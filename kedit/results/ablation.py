"""The result of `ablate_attention`: Scores of edits of W_out, W_O, both, or random heads.

It shows what an edit gains by changing attention too. Scores are listed by edit norm (unscaled or
equal), by kind of relation and by what was edited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, percent

BOTH, RANDOM = "both", "W_out and random heads"
ABLATED = {"W_out": "w_out", "W_O": "w_o", BOTH: "joint"}  # weights that may change: the editor
BUDGETS = {"free": "unscaled", "equal": "scaled to equal norms"}
ALL = "all"  # as kind of relation: the cases of all kinds
SCORE = "Score"  # harmonic mean of the shares
# printed next to the Score; the single shares are in `rows` and in the figure only
SUMMARIES = ("by success", "by magnitude", "gained", "kept")


@dataclass(frozen=True)
class AblatedArm:
    """The weights that an arm may change, and its editors' specs, one for each draw of heads."""

    name: str
    editors: tuple[str, ...]


@dataclass(frozen=True)
class AblationLine:
    """The Score and shares of an arm on some cases, and how its Score differs from that of "both".

    Args:
        budget: "free" for unscaled edits, "equal" for edits that were scaled to equal norms.
        kind: kind of relation; ALL for all cases.
        arm: name of the arm, such as "W_out".
        values: the Score, SUMMARIES and the shares, by name. Each is a mean over the draws of
            heads, as a fraction.
        difference, p: Score of "both" minus Score of this arm, and its p-value; None for "both".
        n_cases: number of cases.
        n_failed: number of edits in trouble, summed over all draws of heads.
    """

    budget: str
    kind: str
    arm: str
    values: Mapping[str, Interval]
    difference: Interval | None
    p: float | None
    n_cases: int
    n_failed: int

    @property
    def shares(self) -> dict[str, Interval]:
        """The Score, and the shares of which it is the harmonic mean."""
        return {name: mean for name, mean in self.values.items() if name not in SUMMARIES}

    def row(self) -> dict[str, Any]:
        """All means with the bounds of their intervals, one column for each number."""
        named = dict(self.values)
        if self.difference is not None:
            named[f"{BOTH} - this"] = self.difference
        return {
            "budget": self.budget,
            "kind": self.kind,
            "arm": self.arm,
            "n_cases": self.n_cases,
            "failed": self.n_failed,
            "p": self.p,
            **{
                column: value
                for name, interval in named.items()
                for column, value in interval.named(name).items()
            },
        }

    def cells(self) -> tuple[str, ...]:
        """The cells of this line in the table of its budget."""
        shown = (percent(self.values[name]) for name in (SCORE, *SUMMARIES))
        p = "" if self.p is None else f"{self.p:.2g}"
        counts = str(self.n_failed), str(self.n_cases)
        return (self.arm, *shown, percent(self.difference), p, *counts)


@dataclass(frozen=True)
class Ablation(Result):
    """Scores of edits that may change MLPs, attention, or both.

    Args:
        model: name of the model.
        perspective: the side that was edited.
        seed: seed of the draws of heads and of the bootstrap.
        arms: the arms, with their editors.
        lines: sorted by budget, then by kind of relation, then by arm.
    """

    FILE = "ablation.json"

    model: str
    perspective: str
    seed: int
    arms: tuple[AblatedArm, ...]
    lines: tuple[AblationLine, ...]

    @property
    def note(self) -> str:
        """Explains the units and intervals of the tables."""
        return (
            f"Percent, with 95 % bootstrap intervals over cases. {BOTH} − this: Score of {BOTH} "
            f"minus Score of this row, paired by case. Seed {self.seed}."
        )

    def table(self, budget: str = "free") -> Table:
        """Scores and paired differences of unscaled ("free") or equally large ("equal") edits."""
        lines = [line for line in self.lines if line.budget == budget]
        return Table(
            f"{self.perspective} edits, {BUDGETS[budget]}: {self.model}",
            ("may change", SCORE, *SUMMARIES, f"{BOTH} − this", "p", "failed", "cases"),
            tuple(line.cells() for line in lines),
            parts=tuple(line.kind for line in lines),
        )

    def tables(self) -> list[Table]:
        """One table for each budget."""
        return [self.table(budget) for budget in BUDGETS]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each line."""
        return [line.row() for line in self.lines]

    def _repr_html_(self) -> str:
        tables = "".join(table._repr_html_() for table in self.tables())
        return f"{tables}<p><small>{self.note}</small></p>"
