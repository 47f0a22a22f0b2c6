"""Which neurons, and whose heads, facts and relations come from (Dai et al. 2022, section 3)."""

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
    """What a fact's answer comes from, at the last token of its prompts.

    Args:
        relation, subject, object: the fact; `relation` is its id.
        prompts: its wordings.
        neurons: those that enough of the wordings agree on.
        mass: sums of positive attributions, in probability, mean over the wordings: of each
            layer's MLP (one unit), and of each head of its attention (a unit each). A site's
            attributions are an integral along that site's key alone: sums over sites can exceed 1.
    """

    relation: str
    subject: str
    object: str
    prompts: tuple[str, ...]
    neurons: frozenset[Neuron]
    mass: Mapping[Half, Float[Tensor, "layer unit"]]

    def to_record(self) -> dict[str, Any]:
        """Everything but the tensors, for one line of JSON."""
        record = {name: value for name, value in vars(self).items() if name != "mass"}
        ordered = sorted((site.half, site.layer, index) for site, index in self.neurons)
        return record | {"neurons": ordered}

    def tensors(self) -> dict[str, Tensor]:
        """The sums, for one safetensors file."""
        return {half: values.contiguous() for half, values in self.mass.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "FactNeurons":
        """The inverse of `to_record` and `tensors`."""
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
    """Neurons that bring the object's first token, in more than a share of a fact's wordings.

    Args:
        worded: one fact, in all the wordings that are asked.
        steps, threshold: as `kedit.editing.neurons.attributions` and `above` have them; a threshold
            is one for both halves, so that their neurons can be counted against each other.
        agreement: that share.
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
        neurons=refined([above(one, threshold) for one in found], agreement),
        mass={
            half: torch.stack([_by_unit(model, half, one[half].clamp(min=0)) for one in found])
            .mean(0)
            .cpu()
            for half in halves
        },
    )


def gathered(
    model: HookedTransformer, name: str, found: Sequence[FactNeurons], agreement: float = 0.5
) -> RelationNeurons:
    """A relation's neurons: those of more than a share (`agreement`) of its facts."""
    neurons, halves = refined([fact.neurons for fact in found], agreement), list(found[0].mass)
    return RelationNeurons(
        id=found[0].relation,
        name=name,
        n_facts=len(found),
        neurons=tuple(_placed(model, one) for one in sorted(neurons)),
        counts={half: counted(model, neurons, half) for half in halves},
        mass={
            half: torch.stack([fact.mass[half] for fact in found]).mean(0).numpy()
            for half in halves
        },
    )


def of_half(neurons: frozenset[Neuron], half: Half) -> frozenset[Neuron]:
    return frozenset(one for one in neurons if one.site.half == half)


def counted(
    model: HookedTransformer, neurons: frozenset[Neuron], half: Half
) -> Int[ndarray, "layer unit"]:
    """How many there are in each layer's MLP, or in each head."""
    marks = torch.zeros(model.cfg.n_layers, WriteSite(0, half).d_key(model), dtype=torch.long)
    for site, index in of_half(neurons, half):
        marks[site.layer, index] = 1
    return _by_unit(model, half, marks).numpy()


def attention_share(relations: Sequence[RelationNeurons], seed: int = 0) -> AttributionShare:
    """Attention's share of sums over relations; the bootstrap draws relations."""
    attn, mlp = (
        np.stack([one.mass[half].sum(1) for one in relations]).astype(float)
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
    """Means over relations of what a half holds; `share` is its part of all attributions."""

    def mean(values: ndarray) -> Interval:
        return bootstrap_ratio(values.astype(float), np.ones(len(values)), seed=seed)

    counts = np.stack([one.counts[half].sum(1) for one in relations])
    mass = np.stack([one.mass[half].sum(1) for one in relations])
    return ByLayer(mean(counts), mean(counts.sum(1)), mean(mass), share)


def sharing(relations: Sequence[Sequence[frozenset[Neuron]]], seed: int = 0) -> SharedNeurons:
    """How many neurons facts share, within relations and between them (Dai et al., table 2).

    Args:
        relations: of each, its facts' neurons.
        seed: of the bootstrap, which draws relations: a pair between two counts with both.
    """
    own, within, between = [], [], []
    for place, facts in enumerate(relations):
        others = [fact for other in (*relations[:place], *relations[place + 1 :]) for fact in other]
        own.append([len(fact) for fact in facts])
        within.append([len(one & other) for one, other in combinations(facts, 2)])
        between.append([len(one & other) for one in facts for other in others])
    return SharedNeurons(
        *(bootstrap_groups(values, seed=seed) for values in (own, within, between))
    )


def _placed(model: HookedTransformer, neuron: Neuron) -> NeuronPlace:
    """Where it is, in plain numbers; one of z with its head."""
    head = neuron.index // model.cfg.d_head if neuron.site.half == "attn" else None
    return NeuronPlace(neuron.site.half, neuron.site.layer, neuron.index, head)


def _by_unit(
    model: HookedTransformer, half: Half, values: Float[Tensor, "layer d_key"] | Tensor
) -> Tensor:
    """Summed over the numbers of each head; of an MLP over all its neurons."""
    units = model.cfg.n_heads if half == "attn" else 1
    return values.unflatten(1, (units, -1)).sum(2)
