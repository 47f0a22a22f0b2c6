"""What changing W_out, W_O, both, or random heads does: by norms, kind of relation and arm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, percent

BOTH, RANDOM = "both", "W_out and random heads"
ABLATED = {"W_out": "w_out", "W_O": "w_o", BOTH: "joint"}  # editors, by what they may change
BUDGETS = {"free": "as they were made", "equal": "at equal norms"}
ALL, SCORE = "all", "Score"  # kinds of relation; what the shares are summed up by
# what is printed beside it; rows and the figure have the shares
SUMMARIES = ("by success", "by magnitude", "gained", "kept")


@dataclass(frozen=True)
class AblatedArm:
    """What may change, and the specs of the editors that change it: one for each draw of heads."""

    name: str
    editors: tuple[str, ...]


@dataclass(frozen=True)
class AblationLine:
    """An arm on some of the cases: its Score and shares, and how its Score differs from "both".

    Args:
        budget: "free" for edits as they were made, "equal" for edits of equal norm.
        kind: of relation; ALL for all cases.
        values: the Score, SUMMARIES and the shares by name, each a mean over the draws of heads.
        difference, p: Score of "both" minus this one's; None for "both" itself.
        n_failed: edits in trouble, over all draws.
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
        """The Score, and what it is the harmonic mean of."""
        return {name: one for name, one in self.values.items() if name not in SUMMARIES}

    def row(self) -> dict[str, Any]:
        """Means and bounds, under names of their own."""
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
        """For the table of one budget."""
        shown = (percent(self.values[name]) for name in (SCORE, *SUMMARIES))
        p = "" if self.p is None else f"{self.p:.2g}"
        counts = str(self.n_failed), str(self.n_cases)
        return (self.arm, *shown, percent(self.difference), p, *counts)


@dataclass(frozen=True)
class Ablation(Result):
    """What attention adds to an edit.

    Args:
        perspective: the side that was edited.
        lines: by budget, then kind of relation, then arm.
    """

    FILE = "ablation.json"

    model: str
    perspective: str
    seed: int
    arms: tuple[AblatedArm, ...]
    lines: tuple[AblationLine, ...]

    @property
    def note(self) -> str:
        """What a reader of the tables needs to know."""
        return (
            f"Percent, 95 % bootstrap intervals over cases; {BOTH} − this: difference of the "
            f"Scores, paired; seed {self.seed}."
        )

    def table(self, budget: str = "free") -> Table:
        """Scores and paired differences of edits as they were made, or at equal norms ("equal")."""
        own = [line for line in self.lines if line.budget == budget]
        return Table(
            f"{self.perspective} edits {BUDGETS[budget]}: {self.model}",
            ("", SCORE, *SUMMARIES, f"{BOTH} − this", "p", "failed", "n"),
            tuple(line.cells() for line in own),
            parts=tuple(line.kind for line in own),
        )

    def tables(self) -> list[Table]:
        """One for each budget."""
        return [self.table(budget) for budget in BUDGETS]

    def rows(self) -> list[dict[str, Any]]:
        """Every line."""
        return [line.row() for line in self.lines]

    def _repr_html_(self) -> str:
        tables = "".join(one._repr_html_() for one in self.tables())
        return f"{tables}<p><small>{self.note}</small></p>"
