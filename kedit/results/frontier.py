"""Frontiers: how much an editor gains (generalisation) for how much it keeps (locality)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kedit.results.base import Result
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from kedit.tables import Table, csv_text, percent, plural

STEPS = 101  # points at which two frontiers are compared


class FrontierPoint(NamedTuple):
    """Locality (mean of the kept shares) and generalisation (mean of the gained shares)."""

    locality: Interval
    generalisation: Interval


@dataclass(frozen=True)
class Curve:
    """An editor with a setting that trades locality for generalisation: a point for each value.

    Args:
        editor: spec of the editor, without the setting.
        points: locality and generalisation for each value of the setting.
        scores: the Score by both for each value.
        failed: number of failed edits for each value.
    """

    editor: str
    points: tuple[FrontierPoint, ...]
    scores: tuple[Interval, ...]
    failed: tuple[int, ...]

    @property
    def best(self) -> int:
        """The index of the value with the highest Score."""
        return int(np.argmax([np.nan_to_num(float(score.mean)) for score in self.scores]))


@dataclass(frozen=True)
class Gap:
    """How far one frontier lies above another one, on average over the range that both reach.

    Args:
        editor, other: specs of the editor and of the one that it is compared with.
        at_equal: what is equal where the two are compared. At equal locality, the gap is a
            difference of generalisation, and the other way round.
        gap: mean difference over that range, `editor` minus `other`.
        p: two-sided p, from bootstrap draws of the cases.
        adjusted: p adjusted by Holm's method for all gaps of the table.
    """

    editor: str
    other: str
    at_equal: Literal["locality", "generalisation"]
    gap: Interval
    p: float
    adjusted: float


@dataclass(frozen=True)
class Frontiers(Result):
    """Editors whose frontiers were compared on the same cases.

    Args:
        model: name of the model.
        perspective: the side that was edited; only its prompts were scored.
        field, values: the setting that was varied, and its values.
        n_cases: number of cases.
        seed: seed of contexts and of the bootstrap.
        curves: the editors.
        gaps: every pair of editors, at equal locality and at equal generalisation.
    """

    FILE = "frontiers.json"

    model: str
    perspective: str
    field: str
    values: tuple[float, ...]
    n_cases: int
    seed: int
    curves: tuple[Curve, ...]
    gaps: tuple[Gap, ...]

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self.tables()))

    @property
    def edits(self) -> str:
        """The side and the number of cases, as a phrase."""
        return f"{self.perspective} edits of {plural(self.n_cases, 'case')}"

    def table(self) -> Table:
        """Returns a row for each editor and value of the setting."""
        rows = [
            (curve.editor, f"{value:g}", *map(percent, (*reversed(point), score)), str(failed))
            for curve in self.curves
            for value, point, score, failed in zip(
                self.values, curve.points, curve.scores, curve.failed, strict=True
            )
        ]
        return Table(
            f"Editors by {self.field}: {self.model}, {self.edits}",
            ("editor", self.field, "gained", "kept", "Score by both", "failed"),
            tuple(rows),
            f"Percent, with 95 % bootstrap intervals over cases; seed {self.seed}. Gained and "
            "kept: means of the shares of which the Score is the harmonic mean.",
        )

    def tables(self) -> list[Table]:
        """Returns `table`, and the table of the gaps between frontiers."""
        gaps = tuple(
            (gap.editor, gap.other, gap.at_equal, percent(gap.gap), f"{gap.p:.2g}",
             f"{gap.adjusted:.2g}")
            for gap in self.gaps
        )  # fmt: skip
        note = (
            "Gap: how far the first editor's frontier lies above the second one's, in points, on "
            "average over the range that both reach. A frontier joins the points that no other "
            "value of the setting exceeds in both shares. p: bootstrap draws of the cases, Holm "
            "over this table; nan: no common range."
        )
        columns = ("editor", "compared with", "at equal", "gap", "p", "p (Holm)")
        return [self.table(), Table("Gaps between frontiers", columns, gaps, note)]

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row for each editor and value of the setting."""
        return [
            {
                "editor": curve.editor, self.field: value, **point.locality.named("locality"),
                **point.generalisation.named("generalisation"), **score.named("Score by both"),
                "failed": failed,
            }
            for curve in self.curves
            for value, point, score, failed in zip(
                self.values, curve.points, curve.scores, curve.failed, strict=True
            )
        ]  # fmt: skip

    def gap_rows(self) -> list[dict[str, Any]]:
        """Returns one row for each gap."""
        return [
            {
                "editor": gap.editor, "other": gap.other, "at equal": gap.at_equal,
                **gap.gap.named("gap"), "p": gap.p, "p (Holm)": gap.adjusted,
            }
            for gap in self.gaps
        ]  # fmt: skip

    def save(self, folder: RunFolder) -> None:
        """Writes frontiers.json, which `load` reads, frontiers.csv and gaps.csv."""
        super().save(folder)
        folder.write("gaps.csv", csv_text(self.gap_rows()))

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables())


def unbeaten(points: Float[ndarray, "n 2"]) -> Float[ndarray, "kept 2"]:
    """Returns the points that no other point exceeds in both numbers, by ascending first number.

    The points are without NaN. Of equal points, one is kept.
    """
    kept: list[ndarray] = []
    # from right to left, and from above: what comes later must be higher than all before it
    for point in points[np.lexsort((-points[:, 1], -points[:, 0]))]:
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return np.array(kept[::-1]).reshape(-1, 2)


def gap_between(
    ours: Float[ndarray, "n 2"], theirs: Float[ndarray, "m 2"], at_equal: int = 0
) -> float:
    """Computes how far one frontier lies above another, on average over their common range.

    Frontiers are joined by straight lines between unbeaten points. NaN if they have no range in
    common.

    Args:
        ours, theirs: the points of two editors: locality and generalisation.
        at_equal: 0: the mean difference of generalisation at equal locality; 1: that of locality
            at equal generalisation.
    """
    first, second = (_sorted_by(unbeaten(points), at_equal) for points in (ours, theirs))
    if not (len(first) and len(second)):
        return float("nan")
    low, high = max(first[0, 0], second[0, 0]), min(first[-1, 0], second[-1, 0])
    if low > high or (low == high and min(len(first), len(second)) > 1):
        return float("nan")
    at = np.linspace(low, high, STEPS)
    return float(np.mean(np.interp(at, *first.T) - np.interp(at, *second.T)))


def _sorted_by(points: Float[ndarray, "n 2"], column: int) -> Float[ndarray, "n 2"]:
    """The points with this column first, ascending."""
    turned = points[:, ::-1] if column else points
    return turned[np.argsort(turned[:, 0])]
