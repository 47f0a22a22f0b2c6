"""Scores of a benchmark case: a model's probabilities and replies on each of its probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbeScore:
    """A model's scores on one probe (`kedit.facts.Probe`).

    Args:
        perspective, group, prompt, answer, rival: fields of the probe. If the probe's answer is the
            unedited model's own word, `answer` is this word.
        logprob, rival_logprob: mean log-probability of the tokens of the answer and of the rival,
            in nats.
        exact: whether each token of the answer is the likeliest one, given those before it.
        rank: rank of the probe's label among the names of all relations, 1 is best; None if the
            probe has no label.
        said: the greedy continuation of the prompt; None if none was generated.
        says: whether the continuation starts with the answer or an alias of it; None without a
            continuation.
        says_rival: whether the continuation starts with the rival; None without a continuation.
    """

    perspective: str
    group: str
    prompt: str
    answer: str
    rival: str
    logprob: float
    rival_logprob: float | None
    exact: bool
    rank: int | None = None
    said: str | None = None
    says: bool | None = None
    says_rival: bool | None = None


@dataclass(frozen=True)
class EditScore:
    """A model's scores on all probes of one case.

    Args:
        id: id of the case.
        relation: name of the relation.
        kind: kind of the relation (`kedit.facts.Kind`).
        probes: scores of the probes, in the case's order.
        fluency: mean n-gram entropy of the generated texts, in bits; None if none were generated.
        own_words: the unedited model's own word, as a token, by prompt; of probes whose answer
            is "".
    """

    id: str
    relation: str
    kind: str
    probes: tuple[ProbeScore, ...]
    fluency: float | None
    own_words: Mapping[str, int]

    def to_record(self) -> dict[str, Any]:
        """The record for one line of JSON."""
        return vars(self) | {"probes": [vars(probe) for probe in self.probes]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "EditScore":
        """The inverse of `to_record`."""
        fields = {name: record[name] for name in cls.__dataclass_fields__ if name != "probes"}
        return cls(**fields, probes=tuple(ProbeScore(**probe) for probe in record["probes"]))
