"""Scales neurons and scores the answer again: does the model need the neurons that were found?

Attribution (`probes.neurons`) only estimates a neuron's effect, from gradients. Here the found
neurons are really set to zero (suppressed) or doubled (amplified), all together. If they carry a
fact, the probability of its object falls or rises, and does so more than for other neurons of the
same sites. Dai et al. 2022, section 4, "Knowledge Neurons Affect Knowledge Expression".
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.neurons import Neuron
from kedit.editing.write_sites import Half, WriteSite, read_keys
from kedit.facts import Fact
from kedit.forward.metrics import answer_scores
from kedit.models.prompts import encode
from kedit.results.neurons import ScalingChange
from kedit.stats import bootstrap_groups, bootstrap_ratio
from probes.neurons import of_half

SUPPRESSED, AMPLIFIED = 0.0, 2.0
LOUDEST = "loudest"
ROWS_PER_BATCH = 64

Neurons = frozenset[Neuron]


class Scaling(NamedTuple):
    """Neurons that are multiplied by `factor` at the prompt's last token."""

    neurons: Neurons
    factor: float


class Effect(NamedTuple):
    """How scaling changes the probability of a fact's answer: scaled - clean.

    Args:
        neurons: name of the sets of neurons that were scaled, or LOUDEST.
        half: "mlp" or "attn" if only neurons of this half were scaled, or "both".
        factor: SUPPRESSED or AMPLIFIED.
        n_neurons: mean number of scaled neurons.
        prob: mean change of the answer's probability.
        logprob: mean change of its log-probability, in nats.
        clean: the answer's probability when nothing is scaled.
    """

    neurons: str
    half: str
    factor: float
    n_neurons: float
    prob: float
    logprob: float
    clean: float


@torch.no_grad()
def scaled(
    model: HookedTransformer,
    tokens: Int[Tensor, " pos"],
    answer: int,
    scalings: Sequence[Scaling],
) -> Float[Tensor, "scaling prob_and_logprob"]:
    """Computes probability and log-probability of `answer` after `tokens`, once per scaling."""
    scores = []
    for start in range(0, len(scalings), ROWS_PER_BATCH):
        batch = scalings[start : start + ROWS_PER_BATCH]
        rows = tokens.expand(len(batch), -1)
        resid = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(model, batch),
            stop_at_layer=model.cfg.n_layers,
            attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
        )
        scores.append(answer_scores(model, resid[:, -1], answer, answer)[:2].T)
    return torch.cat(scores)


def effects(
    model: HookedTransformer,
    worded: Sequence[Fact],
    sets: Mapping[str, Sequence[Neurons]],
    loudest: Neurons = frozenset(),
) -> list[Effect]:
    """Measures the effects of suppressing and of amplifying neurons: of both halves, and of each.

    Args:
        worded: one fact in all wordings to score; effects are averaged over them.
        sets: sets of neurons, by name. Effects are averaged over the sets of one name. Empty sets
            are left out.
        loudest: neurons for which the control LOUDEST is drawn (see `loudest_like`).
    """
    found: dict[tuple[str, str, float], list[tuple[float, ...]]] = {}
    for fact in worded:
        prompt = encode(model, fact)
        # the loudest neurons depend on the prompt, so they are chosen for each wording
        all_sets = {**sets, LOUDEST: [loudest_like(model, prompt.tokens, loudest)]}
        keyed = [
            ((name, half, factor), Scaling(part, factor))
            for name, named_sets in all_sets.items()
            for half, part in _parts(named_sets)
            for factor in (SUPPRESSED, AMPLIFIED)
        ]
        scalings = [Scaling(frozenset(), 1.0), *(scaling for _, scaling in keyed)]
        clean, *scores = scaled(model, prompt.tokens, prompt.answer_ids[0], scalings).tolist()
        for (key, scaling), (prob, logprob) in zip(keyed, scores, strict=True):
            change = (len(scaling.neurons), prob - clean[0], logprob - clean[1], clean[0])
            found.setdefault(key, []).append(change)
    return [
        Effect(*key, *(sum(column) / len(rows) for column in zip(*rows, strict=True)))
        for key, rows in found.items()
    ]


def averaged(relations: Sequence[Sequence[Sequence[Effect]]], seed: int = 0) -> list[ScalingChange]:
    """Averages effects over facts, for each combination of neurons, half and factor.

    Args:
        relations: for each relation, the effects on each of its facts.
        seed: seed of the bootstrap, which draws relations.
    """
    keys = dict.fromkeys(effect[:3] for facts in relations for fact in facts for effect in fact)
    return [
        _change(
            [
                [effect for fact in facts for effect in fact if effect[:3] == key]
                for facts in relations
            ],
            seed,
        )
        for key in keys
    ]


def random_like(model: HookedTransformer, neurons: Neurons, generator: torch.Generator) -> Neurons:
    """Draws the same number of other neurons at each site (all others, if there are fewer)."""
    return frozenset(
        Neuron(site, others[drawn])
        for site, indices in _by_site(neurons)
        if (others := _others(model, site, indices))
        for drawn in torch.randperm(len(others), generator=generator)[: len(indices)].tolist()
    )


@torch.no_grad()
def loudest_like(
    model: HookedTransformer, tokens: Int[Tensor, " pos"], neurons: Neurons
) -> Neurons:
    """Selects, at each site, the same number of other neurons that write most, by |k_i| ‖W_i‖.

    Most random neurons are close to zero, so scaling them has no effect. This control is stricter:
    it shows whether an effect needs the neurons that attribution found, or whether scaling any
    neurons that are active at the last token has it.
    """
    if not neurons:
        return neurons
    sites = _by_site(neurons)
    keys = read_keys(model, tokens[None], [site for site, _ in sites])
    found = []
    for site, indices in sites:
        written = keys[site][0, -1].abs() * site.weight(model).norm(dim=1)
        written[sorted(indices)] = -1  # so that the given neurons are not chosen
        chosen = written.topk(min(len(indices), len(written) - len(indices))).indices
        found += [Neuron(site, index) for index in chosen.tolist()]
    return frozenset(found)


def _change(relations: Sequence[Sequence[Effect]], seed: int) -> ScalingChange:
    """Averages effects of the same neurons, half and factor; they are given by relation."""
    effects = [effect for facts in relations for effect in facts]
    values = {
        name: [[getattr(effect, name) for effect in facts] for facts in relations]
        for name in ("clean", "prob", "logprob")
    }
    prob, clean = (np.array([sum(facts) for facts in values[name]]) for name in ("prob", "clean"))
    return ScalingChange(
        neurons=effects[0].neurons,
        half=effects[0].half,
        factor=effects[0].factor,
        n_facts=len(effects),
        n_neurons=sum(effect.n_neurons for effect in effects) / len(effects),
        **{name: bootstrap_groups(by_relation, seed=seed) for name, by_relation in values.items()},
        relative=bootstrap_ratio(prob, clean, seed=seed),
    )


def _parts(sets: Iterable[Neurons]) -> list[tuple[str, Neurons]]:
    """Each set as a whole and its neurons of each half, without empty sets."""
    halves: tuple[Half, ...] = ("mlp", "attn")
    parts = []
    for neurons in sets:
        parts += [("both", neurons), *((half, of_half(neurons, half)) for half in halves)]
    return [(half, part) for half, part in parts if part]


def _by_site(neurons: Neurons) -> list[tuple[WriteSite, set[int]]]:
    """Groups neurons by site, in an order that does not depend on the set's."""
    return [
        (site, {neuron.index for neuron in at_site})
        for site, at_site in groupby(sorted(neurons), key=lambda neuron: neuron.site)
    ]


def _others(model: HookedTransformer, site: WriteSite, indices: set[int]) -> list[int]:
    """Indices of the site's other neurons."""
    return [index for index in range(site.d_key(model)) if index not in indices]


def _hooks(model: HookedTransformer, scalings: Sequence[Scaling]) -> list:
    """Makes a hook per site that multiplies each row's key at the last position."""
    rows: dict[WriteSite, list[tuple[int, set[int], float]]] = {}
    for row, (neurons, factor) in enumerate(scalings):
        for site, indices in _by_site(neurons):
            rows.setdefault(site, []).append((row, indices, factor))

    def times(factors: Float[Tensor, "row d_key"]):
        def hook(act: Tensor, hook: object) -> Tensor:
            act = act.clone()
            act[:, -1] *= factors.to(act).view_as(act[:, -1])
            return act

        return hook

    hooks = []
    for site, changes in rows.items():
        factors = torch.ones(len(scalings), site.d_key(model))
        for row, indices, factor in changes:
            factors[row, sorted(indices)] = factor
        hooks.append((site.key_hook, times(factors)))
    return hooks
