"""The scores of a sweep, cell by cell, and how they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from kedit.errors import InputError
from kedit.forward.metrics import METRICS

# tensors of a grid, and of its screen
MEASURED, SCREENED = ("restored", "clean", "corrupted"), ("estimated", "kept", "sampled")


@dataclass(frozen=True)
class Screen:
    """Which cells of a sweep were restored, and what was estimated of all of them before.

    Args:
        estimated: indirect effects by attribution (`probes.attribution`).
        kept: cells with the largest estimates; restored.
        sampled: cells drawn among the others, and restored too: what the screen missed.
    """

    estimated: Float[Tensor, "metric layer pos *head"]
    kept: Bool[Tensor, "layer pos *head"]
    sampled: Bool[Tensor, "layer pos *head"]


@dataclass(frozen=True)
class EffectGrid:
    """A sweep: the score of every restored cell, and of the two runs it lies between.

    Args:
        site: "resid_post", "mlp_out", "attn_out" or "z".
        window: layers restored together around each layer.
        severed: "mlp_out" or "attn_out" if these were held at their corrupted values, else "".
        positions: the prompt's positions that the grid's columns stand for.
        restored: mean over samples, by metric, layer, position (and head).
        clean, corrupted: by metric; corrupted is the mean over samples.
        screen: if not every cell was restored; the others' scores are estimates.
        metrics: their names: METRICS, or that of a metric of one's own.
    """

    site: str
    window: int
    severed: str
    positions: tuple[int, ...]
    restored: Float[Tensor, "metric layer pos *head"]
    clean: Float[Tensor, " metric"]
    corrupted: Float[Tensor, " metric"]
    screen: Screen | None = None
    metrics: tuple[str, ...] = METRICS

    def __repr__(self) -> str:
        n_layers, n_pos, *heads = self.restored.shape[1:]
        axes = [f"{n_layers} layers", f"{n_pos} positions", *(f"{n} heads" for n in heads)]
        return f"EffectGrid({self.name}, {' x '.join(axes)}, {', '.join(self.metrics)})"

    @property
    def name(self) -> str:
        """What a file or a figure calls it: "mlp_out", "resid_post-severed-mlp_out"."""
        return f"{self.site}-severed-{self.severed}" if self.severed else self.site

    def indirect_effect(self, metric: str = "prob") -> Float[Tensor, "layer pos *head"]:
        """restored - corrupted: what putting the cell's clean value back brings."""
        index = self.index(metric)
        return self.restored[index] - self.corrupted[index]

    def total_effect(self, metric: str = "prob") -> float:
        """clean - corrupted: what the corruption costs."""
        index = self.index(metric)
        return float(self.clean[index] - self.corrupted[index])

    def index(self, metric: str) -> int:
        """Where the scores of `metric` are.

        Raises:
            InputError: it was not measured.
        """
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r}: {' or '.join(self.metrics)} is wanted")
        return self.metrics.index(metric)

    @property
    def is_finite(self) -> bool:
        """Whether all scores are numbers."""
        return all(run.isfinite().all() for run in (self.restored, self.clean, self.corrupted))


def grid_records(grids: Mapping[str, EffectGrid]) -> dict[str, Any]:
    """Everything of grids but their tensors, for JSON."""
    return {
        name: {
            field: value
            for field, value in vars(grid).items()
            if field in ("site", "window", "severed", "positions", "metrics")
        }
        for name, grid in grids.items()
    }


def grid_tensors(grids: Mapping[str, EffectGrid]) -> dict[str, Tensor]:
    """The grids' numbers, for one safetensors file."""
    return {
        f"{name}.{field}": getattr(part, field).contiguous()
        for name, grid in grids.items()
        for part, fields in ((grid, MEASURED), (grid.screen, SCREENED))
        if part is not None
        for field in fields
    }


def grids_of(records: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, EffectGrid]:
    """The inverse of `grid_records` and `grid_tensors`."""
    return {
        name: EffectGrid(
            site=labels["site"],
            window=labels["window"],
            severed=labels["severed"],
            positions=tuple(labels["positions"]),
            **{field: tensors[f"{name}.{field}"] for field in MEASURED},
            screen=Screen(*(tensors[f"{name}.{field}"] for field in SCREENED))
            if f"{name}.kept" in tensors
            else None,
            metrics=tuple(labels.get("metrics", METRICS)),
        )
        for name, labels in records.items()
    }
