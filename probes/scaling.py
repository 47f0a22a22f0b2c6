"""Do neurons do what attribution says? They are scaled, and the model is asked again.

Dai et al. 2022, section 4, "Knowledge Neurons Affect Knowledge Expression": neurons set to zero
(suppressed) or doubled (amplified).
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
ROWS = 64  # of a batch

Neurons = frozenset[Neuron]


class Scaling(NamedTuple):
    """These neurons times `factor`, at the prompt's last token."""

    neurons: Neurons
    factor: float


class Effect(NamedTuple):
    """What scaling does to the probability of a fact's answer: scaled - clean.

    Args:
        neurons: whose: a name of the sets that were scaled, or LOUDEST.
        half: "mlp", "attn": those of this half only; or "both".
        factor: SUPPRESSED or AMPLIFIED.
        n_neurons: that were scaled, on average.
        prob, logprob: mean changes, the latter in nats.
        clean: the probability when nothing is scaled.
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
    """Probability and log-probability of `answer` after `tokens`, under each scaling by itself."""
    scores = []
    for start in range(0, len(scalings), ROWS):
        part = scalings[start : start + ROWS]
        rows = tokens.expand(len(part), -1)
        resid = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(model, part),
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
    """Of suppressing and amplifying neurons, both halves together and each alone.

    Args:
        worded: one fact, in all the wordings that are asked; effects are means over them.
        sets: of neurons, by name; the effects of a name's sets are averaged. Empty ones have none.
        loudest: the control LOUDEST takes the place of these (see `loudest_like`).
    """
    found: dict[tuple[str, str, float], list[tuple[float, ...]]] = {}
    for fact in worded:
        prompt = encode(model, fact)
        here = {**sets, LOUDEST: [loudest_like(model, prompt.tokens, loudest)]}
        asked = [
            ((name, half, factor), Scaling(part, factor))
            for name, each in here.items()
            for half, part in _parts(each)
            for factor in (SUPPRESSED, AMPLIFIED)
        ]
        scalings = [Scaling(frozenset(), 1.0), *(scaling for _, scaling in asked)]
        clean, *scores = scaled(model, prompt.tokens, prompt.answer_ids[0], scalings).tolist()
        for (place, scaling), (prob, logprob) in zip(asked, scores, strict=True):
            change = (len(scaling.neurons), prob - clean[0], logprob - clean[1], clean[0])
            found.setdefault(place, []).append(change)
    return [
        Effect(*place, *(sum(column) / len(rows) for column in zip(*rows, strict=True)))
        for place, rows in found.items()
    ]


def averaged(relations: Sequence[Sequence[Sequence[Effect]]], seed: int = 0) -> list[ScalingChange]:
    """Means over facts, one for each thing that was done to them.

    Args:
        relations: of each, its facts' effects.
        seed: of the bootstrap, which draws relations.
    """
    places = dict.fromkeys(one[:3] for facts in relations for fact in facts for one in fact)
    return [
        _change(
            [[one for fact in facts for one in fact if one[:3] == place] for facts in relations],
            seed,
        )
        for place in places
    ]


def random_like(model: HookedTransformer, neurons: Neurons, draw: torch.Generator) -> Neurons:
    """As many others at each site, drawn at random (all others, where there are fewer)."""
    return frozenset(
        Neuron(site, others[place])
        for site, own in _by_site(neurons)
        if (others := _others(model, site, own))
        for place in torch.randperm(len(others), generator=draw)[: len(own)].tolist()
    )


@torch.no_grad()
def loudest_like(
    model: HookedTransformer, tokens: Int[Tensor, " pos"], neurons: Neurons
) -> Neurons:
    """As many others at each site: those that write most at the last token, by |k_i| ‖W_i‖.

    A random neuron is mostly silent, and scaling it does nothing: these ask whether it takes the
    neurons that attribution finds, or any that are active there.
    """
    if not neurons:
        return neurons
    sites = _by_site(neurons)
    keys = read_keys(model, tokens[None], [site for site, _ in sites])
    found = []
    for site, own in sites:
        written = keys[site][0, -1].abs() * site.weight(model).norm(dim=1)
        written[sorted(own)] = -1
        chosen = written.topk(min(len(own), len(written) - len(own))).indices
        found += [Neuron(site, index) for index in chosen.tolist()]
    return frozenset(found)


def _change(relations: Sequence[Sequence[Effect]], seed: int) -> ScalingChange:
    """Effects of one kind, relation by relation."""
    every = [one for facts in relations for one in facts]
    values = {
        name: [[getattr(one, name) for one in facts] for facts in relations]
        for name in ("clean", "prob", "logprob")
    }
    prob, clean = (np.array([sum(own) for own in values[name]]) for name in ("prob", "clean"))
    return ScalingChange(
        neurons=every[0].neurons,
        half=every[0].half,
        factor=every[0].factor,
        n_facts=len(every),
        n_neurons=sum(one.n_neurons for one in every) / len(every),
        **{name: bootstrap_groups(own, seed=seed) for name, own in values.items()},
        relative=bootstrap_ratio(prob, clean, seed=seed),
    )


def _parts(sets: Iterable[Neurons]) -> list[tuple[str, Neurons]]:
    """Each set whole, and what it has in each half; none of them empty."""
    halves: tuple[Half, ...] = ("mlp", "attn")
    parts = []
    for neurons in sets:
        parts += [("both", neurons), *((half, of_half(neurons, half)) for half in halves)]
    return [(half, part) for half, part in parts if part]


def _by_site(neurons: Neurons) -> list[tuple[WriteSite, set[int]]]:
    """In one order, whatever the set's."""
    return [
        (site, {one.index for one in own})
        for site, own in groupby(sorted(neurons), key=lambda one: one.site)
    ]


def _others(model: HookedTransformer, site: WriteSite, own: set[int]) -> list[int]:
    return [index for index in range(site.d_key(model)) if index not in own]


def _hooks(model: HookedTransformer, scalings: Sequence[Scaling]) -> list:
    """One hook a site, which multiplies each row's key at the last position."""
    rows: dict[WriteSite, list[tuple[int, set[int], float]]] = {}
    for row, (neurons, factor) in enumerate(scalings):
        for site, own in _by_site(neurons):
            rows.setdefault(site, []).append((row, own, factor))

    def times(factors: Float[Tensor, "row d_key"]):
        def hook(act: Tensor, hook: object) -> Tensor:
            act = act.clone()
            act[:, -1] *= factors.to(act).view_as(act[:, -1])
            return act

        return hook

    hooks = []
    for site, changes in rows.items():
        factors = torch.ones(len(scalings), site.d_key(model))
        for row, own, factor in changes:
            factors[row, sorted(own)] = factor
        hooks.append((site.key_hook, times(factors)))
    return hooks
