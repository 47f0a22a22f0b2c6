"""All that is asked of heads on one fact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kedit.heads import Head


class Edges(NamedTuple):
    """Attention edges that are cut: from tokens of one role, which read, to those of others."""

    reader: str
    read: str
    roles: tuple[str, ...]  # of what is read


CUTS = {
    f"{edges.reader} to {edges.read}": edges
    for edges in (
        Edges("last", "subject", ("subject",)),
        Edges("last", "relation", ("relation",)),
        Edges("last", "the rest", ("bos", "rest")),
        Edges("relation", "subject", ("subject",)),
    )
}


class MetricScores(NamedTuple):
    """A score of the answer, or its change, by every metric of kedit.forward.metrics.METRICS."""

    prob: float
    logprob: float
    logit_diff: float


class Ablated(NamedTuple):
    """What becomes of the scores with heads' outputs replaced: ablated - clean.

    Args:
        mean: replaced by their means over other facts' prompts, at tokens of the same role.
        resample: by what they are on the corrupted prompt.
    """

    mean: MetricScores
    resample: MetricScores


@dataclass(frozen=True)
class HeadAnswer:
    """What one head does for one fact.

    Args:
        direct: what it adds to logit(answer) - logit(foil) itself, norms frozen.
        ov_rank: of the answer among all tokens, were the head to read the subject's last token
            alone; ov_writes: the tokens that it would promote most.
        paths: indirect effects through one receiver alone, by the receiver's name: "L2.mlp".
    """

    head: Head
    direct: float
    ov_rank: int
    ov_writes: tuple[str, ...]
    ablated: Ablated
    paths: Mapping[str, MetricScores]


@dataclass(frozen=True)
class FactAnswers:
    """All that was asked of heads on one fact.

    Args:
        clean: the answer's scores with nothing changed.
        heads: the same ones, in the same order, for every fact.
        together: all these heads ablated at once; random: as many others.
        knockout: the answer's relative change with attention edges cut, by layer; by the name of
            the cut (CUTS), of those that the prompt has tokens for.
    """

    prompt: str
    relation: str
    clean: MetricScores
    heads: tuple[HeadAnswer, ...]
    together: Ablated
    random: Ablated
    knockout: Mapping[str, tuple[float, ...]]
