"""What was measured, with its labels; raw numbers are stored, effects are derived."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from kedit.metrics import METRICS


@dataclass(frozen=True)
class EffectGrid:
    """A sweep: the score of every restored cell, and of the two runs it lies between.

    Args:
        site: "resid_post", "mlp_out", "attn_out" or "z".
        window: layers restored together around each layer.
        severed: "mlp_out" or "attn_out" if these were held at their corrupted values, else "".
        positions: the prompt's positions that the grid's columns stand for.
        restored: mean over samples, by metric (as METRICS has them), layer, position (and head).
        clean, corrupted: by metric; corrupted is the mean over samples.
    """

    site: str
    window: int
    severed: str
    positions: tuple[int, ...]
    restored: Float[Tensor, "metric layer pos *head"]
    clean: Float[Tensor, " metric"]
    corrupted: Float[Tensor, " metric"]

    @property
    def name(self) -> str:
        """What a file or a figure calls it: "mlp_out", "resid_post-severed-mlp_out"."""
        return f"{self.site}-severed-{self.severed}" if self.severed else self.site

    def indirect_effect(self, metric: str = "prob") -> Float[Tensor, "layer pos *head"]:
        """restored - corrupted: what putting the cell's clean value back brings."""
        index = METRICS.index(metric)
        return self.restored[index] - self.corrupted[index]

    def total_effect(self, metric: str = "prob") -> float:
        """clean - corrupted: what the corruption costs."""
        index = METRICS.index(metric)
        return float(self.clean[index] - self.corrupted[index])


@dataclass(frozen=True)
class FactTrace:
    """All sweeps of one fact under one corruption.

    Args:
        subject, relation, object, prompt: the fact; `relation` is the Wikidata id.
        labels: the prompt's tokens.
        part: "subject" or "relation", whichever was corrupted.
        corrupted: the corrupted positions.
        corruption: how, in words: the other prompt, or the noise and its size.
        answer, foil: the tokens that the metrics compare.
        grids: by EffectGrid.name.
    """

    subject: str
    relation: str
    object: str
    prompt: str
    labels: tuple[str, ...]
    part: str
    corrupted: tuple[int, ...]
    corruption: str
    answer: str
    foil: str
    grids: Mapping[str, EffectGrid]

    def to_record(self) -> dict[str, Any]:
        """Everything but the tensors, for one line of JSON."""
        record = {name: value for name, value in vars(self).items() if name != "grids"}
        record["grids"] = {
            name: {
                field: value
                for field, value in vars(grid).items()
                if field in ("site", "window", "severed", "positions")
            }
            for name, grid in self.grids.items()
        }
        return record

    def tensors(self) -> dict[str, Tensor]:
        """The grids' numbers, for one safetensors file."""
        return {
            f"{name}.{field}": getattr(grid, field).contiguous()
            for name, grid in self.grids.items()
            for field in ("restored", "clean", "corrupted")
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FactTrace":
        """The inverse of `to_record` and `tensors`."""
        grids = {
            name: EffectGrid(
                site=labels["site"],
                window=labels["window"],
                severed=labels["severed"],
                positions=tuple(labels["positions"]),
                restored=tensors[f"{name}.restored"],
                clean=tensors[f"{name}.clean"],
                corrupted=tensors[f"{name}.corrupted"],
            )
            for name, labels in record["grids"].items()
        }
        fields = {name: record[name] for name in cls.__dataclass_fields__ if name != "grids"}
        fields |= {"labels": tuple(record["labels"]), "corrupted": tuple(record["corrupted"])}
        return cls(**fields, grids=grids)


@dataclass(frozen=True)
class AverageEffect:
    """Indirect effects of one grid, averaged over token buckets and facts.

    Args:
        name: the grids' EffectGrid.name.
        part: "subject" or "relation".
        window: layers restored together.
        buckets: the token buckets' names.
        n_tokens: tokens in each bucket, over all facts; 0 for an empty one (its effects are NaN).
        n_facts: facts with at least one token in each bucket.
        mean, low, high: average and 95 % bootstrap interval over facts.
    """

    name: str
    part: str
    window: int
    buckets: tuple[str, ...]
    n_tokens: tuple[int, ...]
    n_facts: tuple[int, ...]
    mean: Float[ndarray, "metric bucket layer *head"]
    low: Float[ndarray, "metric bucket layer *head"]
    high: Float[ndarray, "metric bucket layer *head"]
