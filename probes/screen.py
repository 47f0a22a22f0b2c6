"""Screens a sweep: attribution ranks the cells, and only the most promising ones are restored.

Restoring every cell of a large model takes long, above all at single heads, and most cells have no
effect. Attribution patching (Nanda 2023, `probes.attribution`) estimates all effects at the price
of one backward pass. Because the estimates can be wrong, a random sample of the other cells is
restored as well: it shows how much the screen has missed.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.forward.runs import States
from kedit.results.grids import EffectGrid, Screen
from probes.patch import AnswerMetric, Patch, sweep


@dataclass(frozen=True)
class Screening:
    """How a screen chooses the cells to restore.

    Args:
        share: share of a grid's cells, from the first corrupted position on, that are restored
            because of their estimates.
        metric: the metric whose estimates rank the cells, by absolute value.
        steps: number of gradients that are averaged (see `probes.attribution.attributed`).
        sample: share of the other cells that are restored as a random sample.
        seed: seed of the sample; each fact has its own sample.

    Raises:
        InputError: a share is not between 0 and 1, or `share` is 0.
    """

    share: float
    metric: str = "prob"
    steps: int = 1
    sample: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.sample <= 1:
            raise InputError(
                f"share {self.share}, sample {self.sample}: a screen's share must be above 0 and "
                "at most 1, its sample between 0 and 1"
            )


def screened_sweep(
    model: HookedTransformer,
    runs: tuple[States, States],
    patch: Patch,
    question: AnswerMetric,
    estimated: Float[Tensor, "metric layer pos *head"],
    screening: Screening,
    generator: torch.Generator,
) -> EffectGrid:
    """Sweeps the cells that a screen keeps and a sample; the other cells' scores are estimates.

    Args:
        runs: states of the clean and of the corrupted run.
        estimated: estimated indirect effects of all cells, in all of METRICS.
        generator: draws the sample.
    """
    clean, corrupted = runs
    touched = (clean.resid[0] != corrupted.resid[0]).any(-1).any(0)
    candidates = torch.zeros(estimated.shape[1:], dtype=torch.bool)
    candidates[:, int(touched.nonzero()[0]) :] = True
    kept, sampled = _chosen(
        estimated[METRICS.index(screening.metric)], candidates, screening, generator
    )
    grid = sweep(model, clean, corrupted, patch, question, cells=kept | sampled)
    # a cell that was not restored has the corrupted run's score here: its effect is added to that
    scores = grid.restored + estimated.to(grid.restored)
    restored = torch.where(kept | sampled, grid.restored, scores)
    return replace(grid, restored=restored, screen=Screen(estimated, kept, sampled))


def _chosen(
    estimate: Float[Tensor, "layer pos *head"],
    candidates: Bool[Tensor, "layer pos *head"],
    screening: Screening,
    generator: torch.Generator,
) -> tuple[Bool[Tensor, "layer pos *head"], Bool[Tensor, "layer pos *head"]]:
    """Returns the cells with the largest estimates, and a sample of the other candidates."""
    size = estimate.abs().masked_fill(~candidates, -1).flatten()
    n_kept = max(1, round(screening.share * int(candidates.sum())))
    kept = torch.zeros(size.shape, dtype=torch.bool)
    kept[size.topk(n_kept).indices] = True
    others = (candidates.flatten() & ~kept).nonzero()[:, 0]
    n_sampled = math.ceil(screening.sample * len(others))
    sampled = torch.zeros_like(kept)
    sampled[others[torch.randperm(len(others), generator=generator)[:n_sampled]]] = True
    return kept.view(estimate.shape), sampled.view(estimate.shape)
