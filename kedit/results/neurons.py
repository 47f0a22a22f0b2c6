"""What scaling neurons does to the answers of facts."""

from dataclasses import dataclass

from kedit.stats import Interval


@dataclass(frozen=True)
class Change:
    """What scaling neurons does to the probability of facts' answers: scaled - clean.

    Args:
        neurons: whose they are, in words.
        half: "mlp", "attn", or "both".
        factor: what they were multiplied by.
        n_facts: that were asked for.
        n_neurons: that were scaled, on average.
        clean: the probability when nothing is scaled; this and what follows with 95 % bootstrap
            intervals over relations.
        prob, logprob: mean changes, the latter in nats.
        relative: change of all probabilities together, as a share of them.
    """

    neurons: str
    half: str
    factor: float
    n_facts: int
    n_neurons: float
    clean: Interval
    prob: Interval
    logprob: Interval
    relative: Interval
