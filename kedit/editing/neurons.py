"""Which numbers of a key make the model say an answer: integrated gradients of neurons.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", section 3. By causality a scaled
key needs no more than the prompt's last token and the layers from its own on, behind keys and
values that are read once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.mlps.gated_mlp import GatedMLP

from kedit.editing.write_sites import Half, WriteSite, read_keys
from kedit.errors import InputError
from kedit.forward.metrics import losses_and_slope
from kedit.forward.packed import (
    LayerCache,
    empty_cache,
    require_plain,
    run_blocks,
    run_first_layers,
)
from kedit.forward.reading import Tokens
from kedit.models.prompts import device
from kedit.models.sites import attn_written, has_post_norms, is_parallel, mlp_out, norm

Activation = Literal["post", "pre"]
ROWS = 80  # scaled keys in work at once: twenty alone take twice as long each over a vocabulary


class Neuron(NamedTuple):
    """One number of a site's key: a neuron of the MLP, or a number of some head's z."""

    site: WriteSite
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


def attributions(
    model: HookedTransformer,
    prompt: Tokens,
    answer: Tokens,
    halves: Sequence[Half] = ("mlp",),
    steps: int = 20,
    activation: Activation = "post",
    extend: bool = True,
) -> Mapping[Half, Float[Tensor, "layer d_key"]]:
    """How much of the answer's probability each neuron brings, at the prompt's last token.

        Attr_i = k_i · 1/m Σ_α ∂P(answer | prompt, key = α k) / ∂k_i          equation 4

    One layer's key is scaled at a time, by m = `steps` numbers α from 0 to 1, as the published
    code has them. With many of them its attributions add up to P less P with zeros for this key.
    Behind a post-norm they do so only because its divisor is held at that of the whole key: else
    any α above 0 would write at full size, and all would hang on the slope at 0, 1 / √eps.

    Args:
        answer: of several tokens, the mean over them, each behind those before it.
        activation: "pre" scales and attributes an MLP's neurons before the nonlinearity (if it is
            gated, those of the gate), as the published code does.
        extend: False: each of the answer's tokens right behind the prompt, as in that code.

    Raises:
        InputError: the model has blocks that cannot be differentiated here, live hooks, or no such
            half; "pre" of attention, or of an MLP that norms its neurons.
    """
    require_plain(model)
    if activation == "pre" and (tuple(halves) != ("mlp",) or model.cfg.is_layer_norm_activation()):
        raise InputError("'pre' is for MLPs alone, and those whose neurons have a value each there")
    texts = [(*prompt, *answer[:before]) if extend else prompt for before in range(len(answer))]
    starts = [_start(model, text) for text in texts]
    found: dict[Half, Tensor] = {}
    for half in halves:
        each = [
            _brought(model, start, token, _scalable(model, start.text, half, activation), steps)
            for start, token in zip(starts, answer, strict=True)
        ]
        found[half] = torch.stack(each).mean(0)
    return found


def above(
    found: Mapping[Half, Float[Tensor, "layer d_key"]], threshold: float
) -> frozenset[Neuron]:
    """Neurons that bring more than `threshold` of what the one that brings most does, in whatever
    half and layer; none if nothing is positive.
    """
    most = max((float(values.max()) for values in found.values()), default=0.0)
    if most <= 0:
        return frozenset()
    return frozenset(
        Neuron(WriteSite(layer, half), index)
        for half, values in found.items()
        for layer, index in (values > threshold * most).nonzero().tolist()
    )


def refined(sets: Sequence[frozenset[Neuron]], share: float) -> frozenset[Neuron]:
    """Neurons in more than `share` of the sets; those in just that share are left out."""
    times = Counter(neuron for found in sets for neuron in found)
    return frozenset(neuron for neuron, n_sets in times.items() if n_sets / len(sets) > share)


class _Start(NamedTuple):
    """A text that was read.

    Args:
        resid: before each layer, at the last token; then the final one.
        mid: behind each layer's attention, at the last token.
        keys, values: of the tokens before it, at each layer.
    """

    text: Tokens
    resid: Sequence[Float[Tensor, "1 d_model"]]
    mid: Sequence[Float[Tensor, "1 d_model"]]
    keys: LayerCache
    values: LayerCache


class _Scalable(NamedTuple):
    """A site's key, or what `key` makes one of."""

    site: WriteSite
    act: Float[Tensor, " d_key"]
    key: Callable[[Tensor], Tensor]


Copies = tuple[_Scalable, Float[Tensor, " copy"]]  # and what it is scaled by


@torch.no_grad()
def _start(model: HookedTransformer, text: Tokens) -> _Start:
    layers = range(model.cfg.n_layers)
    first, mask, real = run_first_layers(model, [text], 0)
    resid, mid = [first[-1:]], []

    def keep(layer: int, part: str, here: Tensor) -> Tensor:
        if part == "attn":
            mid.append(resid[layer] + attn_written(model.blocks[layer], here[-1:]))
        elif part == "resid":
            resid.append(here[-1:])
        return here

    past = empty_cache(model, 1, layers)
    _, keys, values = run_blocks(model, layers, first, past, past, mask, real, keep)
    before = [tuple(own[:, :-1] for own in kept) for kept in (keys, values)]
    return _Start(text, resid, mid, *before)


@torch.no_grad()
def _scalable(
    model: HookedTransformer, text: Tokens, half: Half, activation: Activation
) -> list[_Scalable]:
    """Every layer's, at the text's last token."""
    tokens = torch.tensor([text], device=device(model))
    sites = [WriteSite(layer, half) for layer in range(model.cfg.n_layers)]
    if activation == "post":
        keys = read_keys(model, tokens, sites)
        return [_Scalable(site, keys[site][0, -1], lambda key: key) for site in sites]
    _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
    found = []
    for site in sites:
        mlp = model.blocks[site.layer].mlp
        key = mlp.act_fn
        if isinstance(mlp, GatedMLP):
            key = partial(_gated, mlp, cache["pre_linear", site.layer][0, -1])
        found.append(_Scalable(site, cache["pre", site.layer][0, -1], key))
    return found


def _gated(mlp: GatedMLP, linear: Tensor, gate: Tensor) -> Tensor:
    return mlp.act_fn(gate) * linear + mlp.b_in


def _brought(
    model: HookedTransformer, start: _Start, token: int, found: Sequence[_Scalable], steps: int
) -> Float[Tensor, "site d_key"]:
    """What each number of each site's `act` brings to the probability of `token`."""
    scales = torch.linspace(0, 1, steps, device=device(model), dtype=model.cfg.dtype)
    copies: list[Copies] = [(one, part) for one in found for part in scales.split(ROWS)]
    together = max(1, ROWS // steps)
    brought = {one.site: torch.zeros_like(one.act, dtype=torch.float32) for one in found}
    for first in range(0, len(copies), together):
        batch = copies[first : first + together]
        for (one, _), slope in zip(batch, _slopes(model, start, token, batch), strict=True):
            brought[one.site] += one.act * slope / steps
    return torch.stack(list(brought.values()))


def _slopes(
    model: HookedTransformer, start: _Start, token: int, batch: Sequence[Copies]
) -> list[Float[Tensor, " d_key"]]:
    """Σ_α ∂P(token | α act) / ∂(α act) of each, from the lowest layer to the highest."""
    leaves = [(scales[:, None] * one.act).requires_grad_() for one, scales in batch]
    with torch.enable_grad():
        resid = start.resid[0][:0]
        for layer in range(batch[0][0].site.layer, model.cfg.n_layers):
            resid = _onward(model, start, layer, resid)
            for (one, _), leaf in zip(batch, leaves, strict=True):
                if one.site.layer == layer:
                    resid = torch.cat([resid, _behind(model, start, one, leaf)])
        normed = norm(model.ln_final, resid)
    targets = torch.full((len(normed),), token, device=normed.device)
    shares = torch.ones(len(normed), device=normed.device)
    nll, _, _, slope = losses_and_slope(model, normed.detach(), targets, shares)
    # ∂P = P ∂log P, in this order: in half precision the gradient of a small P would vanish
    slopes = torch.autograd.grad(normed, leaves, -slope)
    probs = (-nll).exp().split([len(leaf) for leaf in leaves])
    return [prob @ own.float() for prob, own in zip(probs, slopes, strict=True)]


def _onward(
    model: HookedTransformer, start: _Start, layer: int, resid: Float[Tensor, "copy d_model"]
) -> Float[Tensor, "copy d_model"]:
    """Through one layer, each of them as the last token of the text."""
    n_copies, place = len(resid), resid.device
    if not n_copies:
        return resid
    keys, values = (kept[layer].expand(n_copies, -1, -1, -1) for kept in (start.keys, start.values))
    mask = torch.ones(n_copies, len(start.text), dtype=torch.long, device=place)
    real = torch.ones(n_copies, 1, dtype=torch.bool, device=place)
    return run_blocks(model, [layer], resid, (keys,), (values,), mask, real)[0]


def _behind(
    model: HookedTransformer, start: _Start, one: _Scalable, acts: Float[Tensor, "copy d_key"]
) -> Float[Tensor, "copy d_model"]:
    """Residuals behind the layer whose site has `acts` in place of its own."""
    layer, block = one.site.layer, model.blocks[one.site.layer]
    written = _written(model, one, acts)
    if one.site.half == "mlp":
        return start.mid[layer] + written
    mid = start.resid[layer] + written
    return mid + mlp_out(block, (start.resid[layer] if is_parallel(block) else mid)[None])[0]


def _written(
    model: HookedTransformer, one: _Scalable, acts: Float[Tensor, "copy d_key"]
) -> Float[Tensor, "copy d_model"]:
    """What reaches the residual stream, a post-norm (all are RMS norms) held as it is at `act`."""
    weight, bias = one.site.weight(model), one.site.bias(model)
    raw, own = (one.key(act) @ weight + bias for act in (acts, one.act))
    if not has_post_norms(model):
        return raw
    size, own_size = ((x.square().mean(-1, True) + model.cfg.eps).sqrt() for x in (raw, own))
    return one.site.written(model, raw) * (size / own_size)
