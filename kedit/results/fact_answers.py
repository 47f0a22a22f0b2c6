"""What heads do for one fact: direct effect, OV circuit, ablation, paths and attention knockout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kedit.heads import Head


class Edges(NamedTuple):
    """Attention edges that are cut in a knockout.

    Args:
        reader: role of the tokens that attend.
        read: what these tokens attend to, in words.
        roles: roles of the tokens that are attended to.
    """

    reader: str
    read: str
    roles: tuple[str, ...]


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
    """A score of the answer, or a change of it, in each of kedit.forward.metrics.METRICS."""

    prob: float
    logprob: float
    logit_diff: float


class Ablated(NamedTuple):
    """How replacing heads' outputs changes the scores: ablated - clean.

    Args:
        mean: outputs replaced by their means over other facts' prompts at tokens of the same role.
        resample: outputs replaced by those of the corrupted prompt.
    """

    mean: MetricScores
    resample: MetricScores


@dataclass(frozen=True)
class HeadAnswer:
    """What one head does for one fact.

    Args:
        head: the head.
        direct: direct effect: what the head's output adds to logit(answer) - logit(foil), with the
            scales of norms frozen at their clean values.
        ov_rank: rank of the answer among all tokens if the head attended only to the subject's last
            token; 1 is best.
        ov_writes: the tokens that the head would promote most in that case.
        ablated: change of the scores when the head is ablated.
        paths: indirect effects through a single receiver, by the receiver's name, such as "L2.mlp".
    """

    head: Head
    direct: float
    ov_rank: int
    ov_writes: tuple[str, ...]
    ablated: Ablated
    paths: Mapping[str, MetricScores]


@dataclass(frozen=True)
class FactAnswers:
    """Everything that was measured of heads on one fact.

    Args:
        prompt: the fact's prompt.
        relation: name of the fact's relation.
        clean: the answer's scores in the clean run.
        heads: one entry for each head; every fact has the same heads in the same order.
        together: change of the scores when all these heads are ablated at once.
        random: the same for an equal number of random other heads.
        knockout: relative change of the answer's probability when attention edges are cut, by layer
            and by the name of the cut (CUTS). Cuts for which the prompt has no tokens are missing.
    """

    prompt: str
    relation: str
    clean: MetricScores
    heads: tuple[HeadAnswer, ...]
    together: Ablated
    random: Ablated
    knockout: Mapping[str, tuple[float, ...]]
