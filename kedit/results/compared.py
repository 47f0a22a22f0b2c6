"""One editor of a comparison: its measures, shares, costs, and tests against another editor."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from kedit.results.measures import Key, Measure
from kedit.stats import Interval


@dataclass(frozen=True)
class PairedTest:
    """A difference of one measure from another editor's, case by case.

    Args:
        p, adjusted: its p-value, as it is and by Holm's method over the tests made together.
    """

    key: Key
    difference: Interval
    p: float
    adjusted: float

    def row(self) -> dict[str, Any]:
        """For a table."""
        mean, low, high = self.difference.floats()
        bounds = {"low": low, "high": high, "difference": mean}
        return {**self.key._asdict(), **bounds, "p": self.p, "p (Holm)": self.adjusted}


@dataclass(frozen=True)
class ByCase:
    """A measure after the edits, for each case; NaN for a case without such prompts."""

    key: Key
    values: Float[ndarray, " case"]


@dataclass(frozen=True)
class Costs:
    """Means over the edits that did not fail; None where nothing was measured.

    Args:
        failed: how many did.
        seconds, mib: that making an edit took; memory beyond what was held before, in MiB.
        perplexity, kl: of held-out text after the edit; KL(before ‖ after) a token, in nats.
        norm: ‖delta‖ / ‖weight‖, the largest of an edit.
    """

    failed: int
    seconds: float | None
    mib: float | None
    perplexity: float | None
    kl: float | None
    norm: float | None

    def named(self) -> dict[str, float | None]:
        """With the names that tables have."""
        return {
            "failed": float(self.failed),
            "seconds an edit": self.seconds,
            "MiB an edit": self.mib,
            "perplexity": self.perplexity,
            "KL a token (nats)": self.kl,
            "norm of delta / weight": self.norm,
        }


@dataclass(frozen=True)
class Compared:
    """One editor on one side.

    Args:
        side: that was edited: "entity", "relation", or "together".
        measures: before and after.
        locality, generalisation: shares of what was kept, and of what was gained.
        tests: against the first editor of the same side, of its measures and of its Scores; none
            for the first one itself.
        by_case: what was measured after each case's edit, for tests against other editors.
        is_tuned: its settings were chosen for the model by somebody.
    """

    editor: str
    side: str
    measures: tuple[Measure, ...]
    locality: Interval
    generalisation: Interval
    tests: tuple[PairedTest, ...]
    by_case: tuple[ByCase, ...]
    costs: Costs
    is_tuned: bool

    @property
    def label(self) -> str:
        return self.editor if self.is_tuned else f"{self.editor} (untuned)"

    def measure(self, key: Key) -> Measure | None:
        """One of its measures, if it is there."""
        return next((one for one in self.measures if one.key == key), None)
