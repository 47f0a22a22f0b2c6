"""How well screens chose the cells to restore, estimated from a random sample of other cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kedit.errors import InputError
from kedit.results.grids import EffectGrid, Screen
from kedit.results.traces import FactTrace
from kedit.stats import Interval, bootstrap_ratio, rate_interval
from kedit.tables import estimate


@dataclass(frozen=True)
class ScreenQuality:
    """How well a screen chose the cells to restore, as means over facts.

    The random sample of the other cells stands in for all cells that were not restored. Intervals
    are 95 %: Wilson's for the recall, bootstrap for the others.

    Args:
        part: whose words were corrupted.
        grid: name of the grid (`EffectGrid.name`).
        recall: if K cells were kept, the share of the K truly largest effects that was kept.
        mass: share of the sum of all |indirect effect| that is in the kept cells.
        largest_missed: largest |indirect effect| in the sample.
        largest_kept: largest |indirect effect| of a kept cell.
        n_kept, n_sampled, n_cells: mean number of cells per fact.
    """

    part: str
    grid: str
    recall: Interval
    mass: Interval
    largest_missed: Interval
    largest_kept: Interval
    n_kept: float
    n_sampled: float
    n_cells: float

    def __str__(self) -> str:
        """The numbers in one or two sentences."""
        return (
            f"Screen, {self.part} corrupted, {self.grid}: of {self.n_cells:.0f} cells per fact, "
            f"{self.n_kept:.0f} chosen ones and a random sample of {self.n_sampled:.0f} were "
            f"restored. Of the {self.n_kept:.0f} truly largest effects, "
            f"{estimate(*self.recall.floats(100))} % were among the chosen. Largest effect: "
            f"{float(self.largest_missed.mean):.3f} in the sample, "
            f"{float(self.largest_kept.mean):.3f} among the chosen. All other effects are "
            "estimates."
        )


def quality(traces: Sequence[FactTrace], name: str, metric: str, seed: int = 0) -> ScreenQuality:
    """Measures how well the screens of the grids `name` chose.

    Raises:
        InputError: none of these grids was screened.
    """
    grids = [(trace.grids[name], trace.corrupted[0]) for trace in traces]
    rows = [_measured(grid, grid.screen, first, metric) for grid, first in grids if grid.screen]
    if not rows:
        raise InputError(f"no screened traces of {name!r}")
    columns = np.array(rows)
    ones = np.ones(len(rows))
    recall = rate_interval(columns[:, 0], ones)
    mass, missed, kept = (bootstrap_ratio(column, ones, seed=seed) for column in columns[:, 1:4].T)
    n_kept, n_sampled, n_cells = (float(mean) for mean in columns[:, 4:].mean(0))
    return ScreenQuality(
        traces[0].part, name, recall, mass, missed, kept, n_kept, n_sampled, n_cells
    )


def _measured(grid: EffectGrid, screen: Screen, first: int, metric: str) -> list[float]:
    """The numbers of `ScreenQuality` for one fact, whose first corrupted position is `first`."""
    effect = grid.indirect_effect(metric).abs()
    kept, sampled = (effect[cells].double().numpy() for cells in (screen.kept, screen.sampled))
    n_cells = screen.kept[:, first:].numel()  # before `first` there is no effect
    n_others = n_cells - len(kept)
    weight = (
        n_others / len(sampled) if len(sampled) else 0.0
    )  # cells that one of the sample represents
    numbers = (
        _recall(kept, sampled, weight),
        _share(float(kept.sum()), float(sampled.sum() * weight)),
        sampled.max(initial=0.0),
        kept.max(initial=0.0),
        len(kept),
        len(sampled),
        n_cells,
    )
    return [float(number) for number in numbers]


def _recall(
    kept: Float[ndarray, " kept"], sampled: Float[ndarray, " sampled"], weight: float
) -> float:
    """The share of the len(kept) largest effects that are in `kept`.

    An effect in `sampled` counts `weight` times, since it represents this many cells. The last
    effect that still has room counts in part.
    """
    values = np.concatenate([kept, sampled])
    weights = np.concatenate([np.ones(len(kept)), np.full(len(sampled), weight)])
    order = np.argsort(-values, kind="stable")
    room = len(kept) - np.concatenate([[0.0], weights[order].cumsum()[:-1]])
    taken = np.clip(np.minimum(weights[order], room), 0, None)
    return float(taken[order < len(kept)].sum() / taken.sum())


def _share(part: float, rest: float) -> float:
    """part / (part + rest); 1 if both are zero."""
    return part / (part + rest) if part + rest > 0 else 1.0
