"""A screen before the sweep: attribution ranks the cells, only the first of them are restored.

Some of the others, drawn at random, are restored too, so that every run says what it missed.
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


def screened_sweep(
    model: HookedTransformer,
    runs: tuple[States, States],
    patch: Patch,
    question: AnswerMetric,
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
