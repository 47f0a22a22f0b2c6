"""Scores of a benchmark case: what a model makes of each of its probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbeScore:
    """What a model makes of one probe (kedit.facts.Probe).

    Args:
        perspective, group, prompt, answer, rival: the probe's; an answer that it leaves to the
            unedited model is filled in.
        logprob, rival_logprob: mean log-probability of the tokens of answer and rival, in nats.
        exact: every token of the answer is the likeliest, teacher-forced.
        rank: of the probe's label among all relations' names (1 is best); None without a label.
        said: the greedy continuation; None where none was asked for.
        says, says_rival: it opens with the answer, with the rival (or an alias); None without it.
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
    """All probes of one case under one model.

    Args:
        id: the case's.
        relation, kind: of its fact: the relation's name, and how it behaves.
        probes: in the case's order.
        fluency: mean n-gram entropy of the generated texts, in bits; None if none were generated.
        own_words: by prompt, the token that the unedited model says (Probe.answer "").
    """

    id: str
    relation: str
    kind: str
    probes: tuple[ProbeScore, ...]
    fluency: float | None
    own_words: Mapping[str, int]

    def to_record(self) -> dict[str, Any]:
        """For one line of JSON."""
        return vars(self) | {"probes": [vars(probe) for probe in self.probes]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "EditScore":
        """The inverse of `to_record`."""
        fields = {name: record[name] for name in cls.__dataclass_fields__ if name != "probes"}
        return cls(**fields, probes=tuple(ProbeScore(**one) for one in record["probes"]))
