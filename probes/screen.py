"""A screen before the sweep: attribution ranks the cells, only the first of them are restored.

Some of the others, drawn at random, are restored too, so that every run says what it missed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.forward.runs import States
from kedit.results.grids import EffectGrid, Screen
from kedit.results.traces import FactTrace
from kedit.stats import Interval, bootstrap_ratio, rate_interval
from probes.patch import Patch, Question, sweep


@dataclass(frozen=True)
class Screening:
    """How a screen chooses.

    Args:
        share: of a grid's cells (from the first corrupted position on) that are restored.
        metric: by whose estimate, whatever its sign.
        steps: of the attribution (`probes.attribution.attributed`).
        sample: share of the cells that are left out, restored all the same.
        seed: of the sample, together with the fact.

    Raises:
        InputError: a share that is not between 0 and 1.
    """

    share: float
    metric: str = "prob"
    steps: int = 1
    sample: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.sample <= 1:
            raise InputError(
                f"a screen that keeps {self.share} and samples {self.sample}: shares between 0 and "
                "1 are wanted"
            )


class Quality(NamedTuple):
    """How well a screen chose, as the sample tells; means over facts with 95 % intervals: Wilson's
    of the recall, the others by the bootstrap.

    Args:
        recall: share of the truly largest effects (as many as were kept) that were kept.
        mass: share of all |indirect effect| that lies in the cells that were kept.
        largest_missed: |indirect effect| of the strongest cell in the sample.
        largest_kept: of the strongest one that was kept.
        n_kept, n_sampled, n_cells: a fact, on average.
    """

    recall: Interval
    mass: Interval
    largest_missed: Interval
    largest_kept: Interval
    n_kept: float
    n_sampled: float
    n_cells: float


def screened_sweep(
    model: HookedTransformer,
    runs: tuple[States, States],
    patch: Patch,
    question: Question,
    estimated: Float[Tensor, "metric layer pos *head"],
    screening: Screening,
    draw: torch.Generator,
) -> EffectGrid:
    """`sweep` of the cells that a screen keeps, and of a sample; the others' scores are estimates.

    Args:
        runs: clean and corrupted.
        estimated: by all of METRICS.
        draw: of the sample.
    """
    clean, corrupted = runs
    touched = (clean.resid[0] != corrupted.resid[0]).any(-1).any(0)
    candidates = torch.zeros(estimated.shape[1:], dtype=torch.bool)
    candidates[:, int(touched.nonzero()[0]) :] = True
    kept, sampled = _chosen(estimated[METRICS.index(screening.metric)], candidates, screening, draw)
    grid = sweep(model, clean, corrupted, patch, question, cells=kept | sampled)
    guess = grid.restored + estimated.to(grid.restored)
    restored = torch.where(kept | sampled, grid.restored, guess)
    return replace(grid, restored=restored, screen=Screen(estimated, kept, sampled))


def quality(traces: Sequence[FactTrace], name: str, metric: str, seed: int = 0) -> Quality:
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
    return Quality(recall, mass, missed, kept, n_kept, n_sampled, n_cells)


def _chosen(
    estimate: Float[Tensor, "layer pos *head"],
    candidates: Bool[Tensor, "layer pos *head"],
    screening: Screening,
    draw: torch.Generator,
) -> tuple[Bool[Tensor, "layer pos *head"], Bool[Tensor, "layer pos *head"]]:
    """Cells kept, and cells sampled among the other candidates."""
    size = estimate.abs().masked_fill(~candidates, -1).flatten()
    n_kept = max(1, round(screening.share * int(candidates.sum())))
    kept = torch.zeros(size.shape, dtype=torch.bool)
    kept[size.topk(n_kept).indices] = True
    others = (candidates.flatten() & ~kept).nonzero()[:, 0]
    n_sampled = math.ceil(screening.sample * len(others))
    sampled = torch.zeros_like(kept)
    sampled[others[torch.randperm(len(others), generator=draw)[:n_sampled]]] = True
    return kept.view(estimate.shape), sampled.view(estimate.shape)


def _measured(grid: EffectGrid, screen: Screen, first: int, metric: str) -> list[float]:
    """What `Quality` has, of one fact, which is corrupted from position `first` on."""
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
