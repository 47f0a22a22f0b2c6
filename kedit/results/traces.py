"""Traces of facts and their averages: raw scores are stored, effects are derived."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from kedit.forward.metrics import METRICS
from kedit.results.grids import EffectGrid, grids_of
from kedit.results.swept import Swept
from kedit.stats import enough


@dataclass(frozen=True)
class FactTrace(Swept):
    """All sweeps of one fact under one corruption.

    Args:
        subject, relation, object, prompt: the fact; `relation` is the Wikidata id.
        labels: the prompt's tokens.
        part: "subject" or "relation", whichever was corrupted.
        corrupted: the corrupted positions.
        corruption: how, in words: the other prompt, or the noise and its size.
        answer, foil: the tokens that the metrics compare.
        grids: by EffectGrid.name.
        given: the object's tokens before the answer, which end the prompt.
        rival: the other object that the answer tells this one from; "" for none.
        whole: the answer is the whole object, and its scores are sums over its tokens.
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
    given: str = ""
    rival: str = ""
    whole: bool = False

    def __repr__(self) -> str:
        told = f"{self.prompt!r} -> {self.answer!r}, {self.part} corrupted, {', '.join(self.grids)}"
        return f"FactTrace({told})"

    @property
    def text(self) -> str:
        return self.prompt

    @property
    def corrupted_how(self) -> str:
        """What was corrupted, and how, in words."""
        return f"{self.part}, {self.corruption}"

    @property
    def kept_share(self) -> float:
        """Of the answer's clean probability, what it keeps in the corrupted run."""
        grid, prob = next(iter(self.grids.values())), METRICS.index("prob")
        return float(grid.corrupted[prob] / grid.clean[prob])

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FactTrace":
        """The inverse of `to_record` and `tensors`."""
        own = set(cls.__dataclass_fields__) - {"grids"}
        fields = {name: value for name, value in record.items() if name in own}
        fields |= {"labels": tuple(record["labels"]), "corrupted": tuple(record["corrupted"])}
        return cls(**fields, grids=grids_of(record["grids"], tensors))


def fact_traces(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, FactTrace]:
    """A fact's traces as a run folder keeps them, by the part that was corrupted.

    Args:
        record: holds `FactTrace.to_record` of each part under "traces".
        tensors: those of all parts, named as "relation:mlp_out.restored".
    """
    traces = {}
    for one in record["traces"]:
        own = f"{one['part']}:"
        grids = {name.removeprefix(own): tensors[name] for name in tensors if name.startswith(own)}
        traces[one["part"]] = FactTrace.from_record(one, grids)
    return traces


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
        mean, low, high: average and 95 % bootstrap interval over facts; no interval (NaN) for a
            bucket that a single fact has tokens in.
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

    @property
    def enough(self) -> tuple[bool, ...]:
        """Which buckets may hold a peak, or set a colour scale (`kedit.stats.enough`)."""
        return enough(self.n_facts)
