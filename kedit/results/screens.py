"""What screens of sweeps kept and missed, as the cells say that were restored as a sample."""

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
    """How well a screen chose, as the sample tells; means over facts with 95 % intervals: Wilson's
    of the recall, the others by the bootstrap.

    Args:
        part, grid: whose words were corrupted, and EffectGrid.name.
        recall: share of the truly largest effects (as many as were kept) that were kept.
        mass: share of all |indirect effect| that lies in the cells that were kept.
        largest_missed: |indirect effect| of the strongest cell in the sample.
        largest_kept: of the strongest one that was kept.
        n_kept, n_sampled, n_cells: a fact, on average.
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
        """In a line or two."""
        return (
            f"Screen, {self.part} corrupted, {self.grid}: {self.n_kept:.0f} and a sample of "
            f"{self.n_sampled:.0f} of {self.n_cells:.0f} cells a fact restored; of as many largest "
            f"effects it kept {estimate(*self.recall.floats(100))} %; largest missed in the sample "
            f"{float(self.largest_missed.mean):.3f}, kept {float(self.largest_kept.mean):.3f}; the "
            "rest: estimates."
        )


def quality(traces: Sequence[FactTrace], name: str, metric: str, seed: int = 0) -> ScreenQuality:
    """Of the screens of the grids `name`.

    Raises:
        InputError: no grid was screened.
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
    """What `ScreenQuality` has, of one fact, which is corrupted from position `first` on."""
    effect = grid.indirect_effect(metric).abs()
    kept, sampled = (effect[cells].double().numpy() for cells in (screen.kept, screen.sampled))
    n_cells = screen.kept[:, first:].numel()
    n_others = n_cells - len(kept)
    weight = n_others / len(sampled) if len(sampled) else 0.0  # each stands for so many
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
    """Of as many of the largest as there are in `kept`, the share that is among these."""
    values = np.concatenate([kept, sampled])
    weights = np.concatenate([np.ones(len(kept)), np.full(len(sampled), weight)])
    order = np.argsort(-values, kind="stable")
    room = len(kept) - np.concatenate([[0.0], weights[order].cumsum()[:-1]])
    taken = np.clip(np.minimum(weights[order], room), 0, None)
    return float(taken[order < len(kept)].sum() / taken.sum())


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else 1.0
