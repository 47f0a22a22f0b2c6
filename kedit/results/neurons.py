"""Neurons of relations, what facts share of them, and what scaling them does to answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kedit.models.sites import Half
from kedit.stats import Interval


class NeuronPlace(NamedTuple):
    """One number of a site's key.

    Args:
        half: "mlp", a neuron of W_out's key; "attn", a number of some head's z.
        index: in the key, that of all heads together.
        head: whose it is; None in an MLP.
    """

    half: Half
    layer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    head: int | None


@dataclass(frozen=True)
class RelationNeurons:
    """What the facts of one relation have in common.

    Args:
        id, name: the relation's.
        n_facts: that were searched.
        neurons: those that enough of the facts agree on.
        counts: how many of them there are, by half: of each layer's MLP (one unit), and of each
            head of its attention (a unit each).
        mass: sums of positive attributions, in probability, mean over the facts; by half, in the
            same units. Each site's is an integral along its own key alone: sums can exceed 1.
    """

    id: str
    name: str
    n_facts: int
    neurons: tuple[NeuronPlace, ...]
    counts: Mapping[Half, Int[ndarray, "layer unit"]]
    mass: Mapping[Half, Float[ndarray, "layer unit"]]

    @property
    def head_shares(self) -> Float[ndarray, "layer head"]:
        """Of the positive attributions at all sites that were searched."""
        return self.mass["attn"] / max(sum(part.sum() for part in self.mass.values()), 1e-30)


class ByLayer(NamedTuple):
    """What the MLPs, or the attention, of all layers hold; intervals are over relations.

    Args:
        neurons: of a relation, by layer.
        total: of a relation, in all layers.
        mass: sum of a fact's positive attributions, by layer.
        share: of the positive attributions of both halves; None if one was not searched.
    """

    neurons: Interval
    total: Interval
    mass: Interval
    share: Interval | None


class AttributionShare(NamedTuple):
    """Attention's share of the positive attributions: in each layer, and in all of them."""

    by_layer: tuple[Interval, ...]
    total: Interval


class SharedNeurons(NamedTuple):
    """Neurons of a fact, and how many of them are another fact's too, on average."""

    own: Interval
    within: Interval  # two facts of one relation; NaN where no relation has two
    between: Interval  # two facts of different relations; NaN where there is one relation


@dataclass(frozen=True)
class ScalingChange:
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


def strongest(values: ndarray) -> list[tuple[int, int]]:
    """Layer and head of all entries above zero, from the largest down."""
    order = np.argsort(-values, axis=None, kind="stable")
    places = [divmod(int(flat), values.shape[1]) for flat in order]
    return [place for place in places if values[place] > 0]
