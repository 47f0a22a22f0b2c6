"""The results of one editor in a comparison: measures, costs, and tests against another editor."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from kedit.results.measures import Key, Measure
from kedit.stats import Interval


@dataclass(frozen=True)
class PairedTest:
    """The difference of one measure between two editors, paired by case.

    Args:
        key: the measure.
        difference: mean over cases of this editor's value minus the other editor's.
        p: p-value of the difference.
        adjusted: p-value adjusted by Holm's method for all tests that were made together.
    """

    key: Key
    difference: Interval
    p: float
    adjusted: float

    def row(self) -> dict[str, Any]:
        """One row of plain values for a table."""
        mean, low, high = self.difference.floats()
        bounds = {"low": low, "high": high, "difference": mean}
        return {**self.key._asdict(), **bounds, "p": self.p, "p (Holm)": self.adjusted}


@dataclass(frozen=True)
class ByCase:
    """A measure after the edit for each case; NaN if a case has no prompts for this measure."""

    key: Key
    values: Float[ndarray, " case"]


@dataclass(frozen=True)
class Costs:
    """What edits cost: means over the edits that did not fail; None if nothing was measured.

    Args:
        failed: number of edits that failed.
        seconds: time to make an edit, in seconds.
        mib: peak memory while an edit is made, beyond what was in use before, in MiB.
        perplexity: perplexity of held-out text after the edit.
        kl: KL(before ‖ after) of the next token on held-out text, in nats per token.
        norm: the largest ‖delta‖ / ‖weight‖ of an edit's weights.
    """

    failed: int
    seconds: float | None
    mib: float | None
    perplexity: float | None
    kl: float | None
    norm: float | None

    def named(self) -> dict[str, float | None]:
        """The costs under the names that tables use."""
        return {
            "failed": float(self.failed),
            "seconds per edit": self.seconds,
            "MiB per edit": self.mib,
            "perplexity": self.perplexity,
            "KL per token (nats)": self.kl,
            "norm of delta / weight": self.norm,
        }


@dataclass(frozen=True)
class Compared:
    """The results of one editor that edited from one side.

    Args:
        editor: spec of the editor.
        side: the side that was edited: "entity", "relation", or "together".
        measures: measures over all cases, before and after the edits.
        locality: mean of the shares that were kept.
        generalisation: mean of the shares that were gained.
        tests: tests of the measures and Scores against the first editor of the same side; empty for
            the first editor itself.
        by_case: measures after each case's edit, for tests against other editors.
        costs: what the edits cost.
        is_tuned: whether the editor's settings were chosen for this model.
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
        """The editor's spec, marked if its settings were not chosen for this model."""
        return self.editor if self.is_tuned else f"{self.editor} (untuned)"

    def measure(self, key: Key) -> Measure | None:
        """The measure with this key; None if it was not measured."""
        return next((measure for measure in self.measures if measure.key == key), None)
