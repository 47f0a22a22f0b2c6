"""Neurons of relations, how many of them facts share, and the effect of scaling them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kedit.models.sites import Half
from kedit.stats import Interval


class NeuronPlace(NamedTuple):
    """The location of a neuron: one number of a write site's key.

    Args:
        half: "mlp" for a neuron of an MLP, "attn" for one number of a head's z.
        layer: layer of the site.
        index: index in the site's key; the key of attention is the z of all heads, concatenated.
        head: the head to which the number belongs; None in an MLP.
    """

    half: Half
    layer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    head: int | None


@dataclass(frozen=True)
class RelationNeurons:
    """The neurons that the facts of one relation have in common.

    Args:
        id, name: id and name of the relation.
        n_facts: number of facts that were searched.
        neurons: the neurons that enough of the facts have.
        counts: number of these neurons by half, layer and unit. The MLP of a layer is one unit;
            each attention head is a unit.
        mass: sum of the positive attributions, as a probability, mean over facts; by half, layer
            and unit. Each site's attribution is an integral along its own key only, so sums over
            sites can exceed 1.
    """

    id: str
    name: str
    n_facts: int
    neurons: tuple[NeuronPlace, ...]
    counts: Mapping[Half, Int[ndarray, "layer unit"]]
    mass: Mapping[Half, Float[ndarray, "layer unit"]]

    @property
    def head_shares(self) -> Float[ndarray, "layer head"]:
        """Each head's share of the positive attribution at all sites that were searched."""
        return self.mass["attn"] / max(sum(part.sum() for part in self.mass.values()), 1e-30)


class ByLayer(NamedTuple):
    """Neurons and attributions of one half (MLP or attention); intervals are over relations.

    Args:
        neurons: mean number of neurons per relation, by layer.
        total: mean number of neurons per relation, in all layers.
        mass: sum of a fact's positive attributions, by layer; mean over facts.
        share: this half's share of the positive attribution of both halves, from 0 to 1; None if
            only one half was searched.
    """

    neurons: Interval
    total: Interval
    mass: Interval
    share: Interval | None


class AttributionShare(NamedTuple):
    """Attention's share of the positive attribution: in each layer, and in all layers together."""

    by_layer: tuple[Interval, ...]
    total: Interval


class SharedNeurons(NamedTuple):
    """Mean number of neurons of a fact, and of neurons that two facts have in common."""

    own: Interval
    within: Interval  # two facts of the same relation; NaN if no relation has two facts
    between: Interval  # two facts of different relations; NaN if there is only one relation


@dataclass(frozen=True)
class ScalingChange:
    """How scaling neurons changes the probability of facts' answers: scaled - clean.

    All means have 95 % bootstrap intervals over relations.

    Args:
        neurons: which group of neurons was scaled, as a phrase.
        half: the half of these neurons: "mlp", "attn", or "both".
        factor: the factor by which the neurons were multiplied.
        n_facts: number of facts whose answers were scored.
        n_neurons: mean number of neurons that were scaled.
        clean: mean probability when nothing is scaled.
        prob: mean change of the probability.
        logprob: mean change of the log-probability, in nats.
        relative: sum of the changes of probability, divided by the sum of the clean probabilities.
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
    """The (layer, head) indices of all positive entries, from the largest to the smallest."""
    order = np.argsort(-values, axis=None, kind="stable")
    indices = [divmod(int(flat), values.shape[1]) for flat in order]
    return [index for index in indices if values[index] > 0]
