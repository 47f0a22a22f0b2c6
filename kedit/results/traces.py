"""The trace of a fact, and averages of traces. Scores are stored, effects computed from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """All sweeps of one fact with one part corrupted.

    Args:
        subject, relation, object, prompt: the fact; `relation` is a Wikidata id.
        labels: the text of each of the prompt's tokens.
        part: whose words were corrupted: "subject" or "relation".
        corrupted: the corrupted positions.
        corruption: how these were corrupted, as a phrase: the other prompt, or the noise and its
            size.
        answer, foil: the tokens that the metrics compare.
        grids: the scores of each sweep, by `EffectGrid.name`.
        given: the object's tokens before the answer, which end the prompt.
        rival: the other object from which the answer token distinguishes this object; "" if there
            is none.
        whole: whether the answer is the whole object, so that scores are sums over its tokens.
        masks: in masked models (BERT, T5), positions in `labels` that stand for the object: the
            mask at which the answer is read, and the last token of T5's decoder.
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
    masks: tuple[int, ...] = ()

    def __repr__(self) -> str:
        scored = f"{self.prompt!r} -> {self.answer!r}"
        return f"FactTrace({scored}, {self.part} corrupted, {', '.join(self.grids)})"

    @property
    def text(self) -> str:
        """The clean prompt."""
        return self.prompt

    @property
    def corrupted_how(self) -> str:
        """What was corrupted, and how, as a phrase."""
        return f"{self.part}, {self.corruption}"

    @property
    def kept_share(self) -> float:
        """The answer's probability in the corrupted run divided by that in the clean run."""
        grid, prob = next(iter(self.grids.values())), METRICS.index("prob")
        return float(grid.corrupted[prob] / grid.clean[prob])

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FactTrace":
        """The inverse of `to_record` and `tensors`."""
        names = set(cls.__dataclass_fields__) - {"grids"}
        fields = {name: value for name, value in record.items() if name in names}
        fields |= {"labels": tuple(record["labels"]), "corrupted": tuple(record["corrupted"])}
        fields["masks"] = tuple(record.get("masks", ()))
        return cls(**fields, grids=grids_of(record["grids"], tensors))


def fact_traces(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, FactTrace]:
    """A fact's traces from its record and tensors in a run folder, by the corrupted part.

    Args:
        record: has `FactTrace.to_record` of each part under "traces".
        tensors: the tensors of all parts, named like "relation:mlp_out.restored".
    """
    traces = {}
    for trace in record["traces"]:
        part = f"{trace['part']}:"
        grids = {
            name.removeprefix(part): tensors[name] for name in tensors if name.startswith(part)
        }
        traces[trace["part"]] = FactTrace.from_record(trace, grids)
    return traces


@dataclass(frozen=True)
class AverageEffect:
    """Indirect effects of one grid, averaged over token buckets and facts.

    Args:
        name: the `EffectGrid.name` of the averaged grids.
        part: whose words were corrupted: "subject" or "relation".
        window: number of layers that were restored together.
        buckets: names of the token buckets.
        n_tokens: number of tokens in each bucket, over all facts; the effects of an empty bucket
            are NaN.
        n_facts: number of facts with at least one token in each bucket.
        mean, low, high: average effect and its 95 % bootstrap interval over facts. The interval is
            NaN in a bucket in which only one fact has tokens.
        p: of an effect other than 0, by signs flipped over facts; corrected for the number of cells
            (buckets, layers and heads) of the grid, see `kedit.stats.flipped`. None for the pooled
            baseline, and in results of earlier versions.
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
    p: Float[ndarray, "metric bucket layer *head"] | None = None

    def without_empty(self, kept: str = "") -> "AverageEffect":
        """Returns the effects without the buckets that have no tokens, apart from `kept`."""
        there = [
            index
            for index, (name, n) in enumerate(zip(self.buckets, self.n_tokens, strict=True))
            if n or name == kept
        ]
        return replace(
            self,
            **{
                field: tuple(getattr(self, field)[index] for index in there)
                for field in ("buckets", "n_tokens", "n_facts")
            },
            **{
                field: numbers[:, there]
                for field in ("mean", "low", "high", "p")
                if (numbers := getattr(self, field)) is not None
            },
        )

    @property
    def enough(self) -> tuple[bool, ...]:
        """Whether each bucket has enough facts to hold a peak or to set a colour scale."""
        return enough(self.n_facts)
