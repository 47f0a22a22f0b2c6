"""Knowledge neurons: which neurons of MLPs and heads raise the probability of a fact's object?

Tracing finds layers and positions; this probe finds single neurons, which can be counted, shared
between facts, and scaled (`probes.scaling`). Integrated gradients attribute the object's
probability to each number of a key. Neurons with large attributions in most wordings of a fact
belong to the fact rather than to a wording, and neurons that most facts of a relation share belong
to the relation. Dai et al. 2022, section 3, for MLPs; the numbers of heads' z are kedit's addition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.neurons import Neuron, above, attributions, refined
from kedit.editing.write_sites import Half, WriteSite
from kedit.facts import Fact
from kedit.models.prompts import encode
from kedit.results.neurons import (
    AttributionShare,
    ByLayer,
    NeuronPlace,
    RelationNeurons,
    SharedNeurons,
)
from kedit.stats import Interval, bootstrap_groups, bootstrap_ratio


@dataclass(frozen=True)
class FactNeurons:
    """A fact's neurons at the last token of its prompts.

    Args:
        relation: the fact's relation, by id.
        subject, object: the fact's subject and object.
        prompts: the fact's prompts, one per wording.
        neurons: neurons that have large attributions in enough of the wordings.
        mass: sums of positive attributions, in units of probability, averaged over the wordings.
            In each layer, the MLP is one unit and each head is one unit. The attributions of a site
            are an integral along the key of this site alone, so sums over sites can exceed 1.
    """

    relation: str
    subject: str
    object: str
    prompts: tuple[str, ...]
    neurons: frozenset[Neuron]
    mass: Mapping[Half, Float[Tensor, "layer unit"]]

    def to_record(self) -> dict[str, Any]:
        """Everything except the tensors, for one line of JSON."""
        record = {name: value for name, value in vars(self).items() if name != "mass"}
        ordered = sorted((site.half, site.layer, index) for site, index in self.neurons)
        return record | {"neurons": ordered}

    def tensors(self) -> dict[str, Tensor]:
        """The sums of attributions, for one safetensors file."""
        return {half: values.contiguous() for half, values in self.mass.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FactNeurons":
        """Rebuilds the object from `to_record` and `tensors`."""
        halves: tuple[Half, ...] = ("mlp", "attn")
        return cls(
            relation=record["relation"],
            subject=record["subject"],
            object=record["object"],
            prompts=tuple(record["prompts"]),
            neurons=frozenset(
                Neuron(WriteSite(layer, half), index) for half, layer, index in record["neurons"]
            ),
            mass={half: tensors[half] for half in halves if half in tensors},
        )


def search(
    model: HookedTransformer,
    worded: Sequence[Fact],
    halves: Sequence[Half] = ("mlp", "attn"),
    steps: int = 20,
    threshold: float = 0.2,
    agreement: float = 0.5,
) -> FactNeurons:
    """Searches for a fact's neurons: those that raise the probability of the object's first token.

    Args:
        worded: the same fact in all wordings to search.
        halves: whether to search MLPs, attention, or both.
        steps: number of steps of the integral (see `kedit.editing.neurons.attributions`).
        threshold: smallest attribution of a neuron, as a share of the largest one (see
            `kedit.editing.neurons.above`). Both halves have the same threshold, so that the numbers
            of their neurons can be compared.
        agreement: share of the wordings; a neuron has to be found in more than this share.
    """
    prompts = [encode(model, fact) for fact in worded]
    found = [
        attributions(model, tuple(prompt.tokens.tolist()), prompt.answer_ids[:1], halves, steps)
        for prompt in prompts
    ]
    return FactNeurons(
        relation=worded[0].relation.id,
        subject=worded[0].subject,
        object=worded[0].object,
        prompts=tuple(fact.prompt for fact in worded),
        neurons=refined([above(scores, threshold) for scores in found], agreement),
        mass={
            half: torch.stack(
                [_by_unit(model, half, scores[half].clamp(min=0)) for scores in found]
            )
            .mean(0)
            .cpu()
            for half in halves
        },
    )


def gathered(
    model: HookedTransformer, name: str, found: Sequence[FactNeurons], agreement: float = 0.5
) -> RelationNeurons:
    """Combines the facts of one relation; its neurons are those of most of its facts.

    Args:
        name: the relation's name.
        found: the relation's facts.
        agreement: share of the facts; a neuron has to be found in more than this share.
    """
    neurons, halves = refined([fact.neurons for fact in found], agreement), list(found[0].mass)
    return RelationNeurons(
        id=found[0].relation,
        name=name,
        n_facts=len(found),
        neurons=tuple(_located(model, neuron) for neuron in sorted(neurons)),
        counts={half: counted(model, neurons, half) for half in halves},
        mass={
            half: torch.stack([fact.mass[half] for fact in found]).mean(0).numpy()
            for half in halves
        },
    )


def of_half(neurons: frozenset[Neuron], half: Half) -> frozenset[Neuron]:
    """The neurons that belong to this half (MLPs or attention)."""
    return frozenset(neuron for neuron in neurons if neuron.site.half == half)


def counted(
    model: HookedTransformer, neurons: frozenset[Neuron], half: Half
) -> Int[ndarray, "layer unit"]:
    """Counts the neurons in each layer's MLP, or in each head."""
    marks = torch.zeros(model.cfg.n_layers, WriteSite(0, half).d_key(model), dtype=torch.long)
    for site, index in of_half(neurons, half):
        marks[site.layer, index] = 1
    return _by_unit(model, half, marks).numpy()


def attention_share(relations: Sequence[RelationNeurons], seed: int = 0) -> AttributionShare:
    """Attention's share of all attributions, by layer and in total.

    Args:
        seed: seed of the bootstrap, which draws relations.
    """
    attn, mlp = (
        np.stack([relation.mass[half].sum(1) for relation in relations]).astype(float)
        for half in ("attn", "mlp")
    )
    both = attn + mlp
    return AttributionShare(
        tuple(
            bootstrap_ratio(part, whole, seed=seed)
            for part, whole in zip(attn.T, both.T, strict=True)
        ),
        bootstrap_ratio(attn.sum(1), both.sum(1), seed=seed),
    )


def by_layer(
    relations: Sequence[RelationNeurons], half: Half, share: Interval | None, seed: int = 0
) -> ByLayer:
    """Averages a half's neuron counts and attributions over relations, layer by layer.

    Args:
        share: the half's share of all attributions, if both halves were searched.
    """

    def mean(values: ndarray) -> Interval:
        return bootstrap_ratio(values.astype(float), np.ones(len(values)), seed=seed)

    counts = np.stack([relation.counts[half].sum(1) for relation in relations])
    mass = np.stack([relation.mass[half].sum(1) for relation in relations])
    return ByLayer(mean(counts), mean(counts.sum(1)), mean(mass), share)


def sharing(relations: Sequence[Sequence[frozenset[Neuron]]], seed: int = 0) -> SharedNeurons:
    """Counts the neurons that facts share, within and between relations (Dai et al., table 2).

    Args:
        relations: for each relation, the neurons of each of its facts.
        seed: seed of the bootstrap, which draws relations. A pair of facts of two relations counts
            with both of them.
    """
    sizes, within, between = [], [], []
    for index, facts in enumerate(relations):
        others = [fact for other in (*relations[:index], *relations[index + 1 :]) for fact in other]
        sizes.append([len(fact) for fact in facts])
        within.append([len(fact & other) for fact, other in combinations(facts, 2)])
        between.append([len(fact & other) for fact in facts for other in others])
    return SharedNeurons(
        *(bootstrap_groups(values, seed=seed) for values in (sizes, within, between))
    )


def _located(model: HookedTransformer, neuron: Neuron) -> NeuronPlace:
    """A neuron's half, layer and index, and its head if it is a number of z."""
    head = neuron.index // model.cfg.d_head if neuron.site.half == "attn" else None
    return NeuronPlace(neuron.site.half, neuron.site.layer, neuron.index, head)


def _by_unit(
    model: HookedTransformer, half: Half, values: Float[Tensor, "layer d_key"] | Tensor
) -> Tensor:
    """Sums values over the numbers of each head, or over all neurons of each MLP."""
    units = model.cfg.n_heads if half == "attn" else 1
    return values.unflatten(1, (units, -1)).sum(2)
