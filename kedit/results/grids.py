"""The scores of a sweep, cell by cell, and their conversion to JSON and tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from kedit.errors import InputError
from kedit.forward.metrics import METRICS

# fields that are stored as tensors: of a grid, and of its screen
MEASURED, SCREENED = ("restored", "clean", "corrupted"), ("estimated", "kept", "sampled")


@dataclass(frozen=True)
class Screen:
    """Which cells of a sweep were restored, and the estimates by which they were chosen.

    Args:
        estimated: indirect effects of all cells, estimated by attribution (`probes.attribution`).
        kept: the cells with the largest estimates, which were restored.
        sampled: a random sample of the other cells, which were restored too. They show what the
            screen missed.
    """

    estimated: Float[Tensor, "metric layer pos *head"]
    kept: Bool[Tensor, "layer pos *head"]
    sampled: Bool[Tensor, "layer pos *head"]


@dataclass(frozen=True)
class EffectGrid:
    """The scores of a sweep: of every restored cell, of the clean run and of the corrupted run.

    Args:
        site: "resid_post", "mlp_out", "attn_out" or "z". In T5 the name of the tower comes first,
            as in "encoder.mlp_out", and the decoder has "cross_attn_out" and "cross_z", too.
        window: number of layers that were restored together around each layer.
        severed: "mlp_out" or "attn_out" if these outputs were held at their corrupted values;
            otherwise "".
        positions: the position in the prompt of each column of the grid.
        restored: scores of the restored runs, as means over noise samples.
        clean: scores of the clean run, by metric.
        corrupted: scores of the corrupted run, by metric, as means over noise samples.
        screen: which cells were restored, if not all were; the scores of the other cells are
            estimates.
        metrics: names of the metrics: METRICS, or the name of a user's own metric.
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
        """The grid's name in files and figures: "mlp_out", "resid_post-severed-mlp_out"."""
        return f"{self.site}-severed-{self.severed}" if self.severed else self.site

    def indirect_effect(self, metric: str = "prob") -> Float[Tensor, "layer pos *head"]:
        """restored - corrupted: what restoring the cell's clean value adds to the score."""
        index = self.index(metric)
        return self.restored[index] - self.corrupted[index]

    def total_effect(self, metric: str = "prob") -> float:
        """clean - corrupted: how much the corruption lowers the score."""
        index = self.index(metric)
        return float(self.clean[index] - self.corrupted[index])

    def index(self, metric: str) -> int:
        """Index of `metric` in the first axis of the scores.

        Raises:
            InputError: this metric was not measured.
        """
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r} was not measured: use {' or '.join(self.metrics)}")
        return self.metrics.index(metric)

    @property
    def is_finite(self) -> bool:
        """Whether no score is NaN or infinite."""
        return all(
            scores.isfinite().all() for scores in (self.restored, self.clean, self.corrupted)
        )


def grid_records(grids: Mapping[str, EffectGrid]) -> dict[str, Any]:
    """The fields of grids that are not tensors, for JSON."""
    return {
        name: {
            field: value
            for field, value in vars(grid).items()
            if field in ("site", "window", "severed", "positions", "metrics")
        }
        for name, grid in grids.items()
    }


def grid_tensors(grids: Mapping[str, EffectGrid]) -> dict[str, Tensor]:
    """The tensors of grids, for one safetensors file."""
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
