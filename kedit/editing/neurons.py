"""Which numbers of a key make the model say an answer: integrated gradients for neurons.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", section 3. A key is scaled at the
prompt's last token only. Because attention is causal, this changes nothing at earlier positions or
in lower layers. So only the last token is run, from the key's layer up, with the keys and values of
the other tokens computed once.
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
ROWS = 80  # scaled keys per batch: with only 20, the unembedding takes twice as long per key


class Neuron(NamedTuple):
    """One number of a site's key: a neuron of the MLP, or one number of a head's z."""

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
    """Returns how much each neuron adds to the answer's probability, at the prompt's last token.

        Attr_i = k_i · 1/m Σ_α ∂P(answer | prompt, key = α k) / ∂k_i          equation 4

    One layer's key is scaled at a time, by m = `steps` numbers α from 0 to 1, as in the published
    code. With many steps, the attributions sum to P minus the P with a key of zeros.

    With a post-norm this holds only because its divisor is fixed at its value for the full key.
    Otherwise, any α above 0 would write at full size, and the result would depend only on the slope
    at 0, which is 1 / √eps.

    Args:
        prompt: token ids.
        answer: token ids. With several tokens, the result is the mean over them, each read after
            the tokens before it.
        halves: MLPs, attention, or both.
        steps: m.
        activation: "pre" scales and attributes an MLP's neurons before the nonlinearity (in a gated
            MLP, the gate's), as the published code does.
        extend: False: each token of the answer is read directly after the prompt, as in that code.

    Raises:
        InputError: the model has blocks that cannot be differentiated here, live hooks, or no such
            half; or activation is "pre" for attention or for an MLP that normalises its neurons.
    """
    require_plain(model)
    if activation == "pre" and (tuple(halves) != ("mlp",) or model.cfg.is_layer_norm_activation()):
        raise InputError(
            "activation 'pre' is only for MLPs, and only for those that don't normalise their "
            "neurons"
        )
    texts = [(*prompt, *answer[:n_before]) if extend else prompt for n_before in range(len(answer))]
    starts = [_run(model, text) for text in texts]
    found: dict[Half, Tensor] = {}
    for half in halves:
        per_token = [
            _attributed(model, start, token, _scalable(model, start.text, half, activation), steps)
            for start, token in zip(starts, answer, strict=True)
        ]
        found[half] = torch.stack(per_token).mean(0)
    return found


def above(
    found: Mapping[Half, Float[Tensor, "layer d_key"]], threshold: float
) -> frozenset[Neuron]:
    """Returns the neurons whose attribution exceeds `threshold` times the largest of all.

    There are none if no attribution is positive.
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
    """Returns the neurons that are in more than `share` of the sets."""
    times = Counter(neuron for found in sets for neuron in found)
    return frozenset(neuron for neuron, n_sets in times.items() if n_sets / len(sets) > share)


class _Run(NamedTuple):
    """One run of the model on a text, with what later partial runs need.

    Args:
        resid: residual at the last token before each layer, then the final residual.
        mid: residual at the last token after each layer's attention.
        keys, values: of the earlier tokens, at each layer.
    """

    text: Tokens
    resid: Sequence[Float[Tensor, "1 d_model"]]
    mid: Sequence[Float[Tensor, "1 d_model"]]
    keys: LayerCache
    values: LayerCache


class _Scalable(NamedTuple):
    """An activation that can be scaled: a site's key, or what `key` turns into one."""

    site: WriteSite
    act: Float[Tensor, " d_key"]
    key: Callable[[Tensor], Tensor]


Copies = tuple[_Scalable, Float[Tensor, " copy"]]  # an activation, and a factor per scaled copy


@torch.no_grad()
def _run(model: HookedTransformer, text: Tokens) -> _Run:
    """Runs the model on a text and keeps what partial runs from the last token need."""
    layers = range(model.cfg.n_layers)
    first, mask, real = run_first_layers(model, [text], 0)
    resid, mid = [first[-1:]], []

    def keep(layer: int, part: str, act: Tensor) -> Tensor:
        if part == "attn":
            mid.append(resid[layer] + attn_written(model.blocks[layer], act[-1:]))
        elif part == "resid":
            resid.append(act[-1:])
        return act

    past = empty_cache(model, 1, layers)
    _, keys, values = run_blocks(model, layers, first, past, past, mask, real, keep)
    before = [tuple(layer[:, :-1] for layer in cached) for cached in (keys, values)]
    return _Run(text, resid, mid, *before)


@torch.no_grad()
def _scalable(
    model: HookedTransformer, text: Tokens, half: Half, activation: Activation
) -> list[_Scalable]:
    """Returns the scalable activation of every layer at the text's last token."""
    tokens = torch.tensor([text], device=device(model))
    sites = [WriteSite(layer, half) for layer in range(model.cfg.n_layers)]
    if activation == "post":
        keys = read_keys(model, tokens, sites)
        return [_Scalable(site, keys[site][0, -1], lambda key: key) for site in sites]
    _, cache = model.run_with_cache(
        tokens, device=tokens.device, attention_mask=torch.ones_like(tokens)
    )
    found = []
    for site in sites:
        mlp = model.blocks[site.layer].mlp
        key = mlp.act_fn
        if isinstance(mlp, GatedMLP):
            key = partial(_gated, mlp, cache["pre_linear", site.layer][0, -1])
        found.append(_Scalable(site, cache["pre", site.layer][0, -1], key))
    return found


def _gated(mlp: GatedMLP, linear: Tensor, gate: Tensor) -> Tensor:
    """Returns a gated MLP's key from its linear part and its gate before the nonlinearity."""
    return mlp.act_fn(gate) * linear + mlp.b_in.to(gate.device)


def _attributed(
    model: HookedTransformer, run: _Run, token: int, found: Sequence[_Scalable], steps: int
) -> Float[Tensor, "site d_key"]:
    """Returns each neuron's attribution for the probability of `token`, one row per site."""
    scales = torch.linspace(0, 1, steps, device=device(model), dtype=model.cfg.dtype)
    copies: list[Copies] = [
        (scalable, factors) for scalable in found for factors in scales.split(ROWS)
    ]
    n_batch = max(1, ROWS // steps)
    attributed = {
        scalable.site: torch.zeros_like(scalable.act, dtype=torch.float32) for scalable in found
    }
    for first in range(0, len(copies), n_batch):
        batch = copies[first : first + n_batch]
        for (scalable, _), slope in zip(batch, _slopes(model, run, token, batch), strict=True):
            attributed[scalable.site] += scalable.act * slope / steps
    return torch.stack(list(attributed.values()))


def _slopes(
    model: HookedTransformer, run: _Run, token: int, batch: Sequence[Copies]
) -> list[Float[Tensor, " d_key"]]:
    """Returns Σ_α ∂P(token | α act) / ∂(α act) of each activation; they must be in layer order.

    Copies join the batch at their site's layer and run together from there on.
    """
    leaves = [(scales[:, None] * scalable.act).requires_grad_() for scalable, scales in batch]
    with torch.enable_grad():
        resid = run.resid[0][:0]
        for layer in range(batch[0][0].site.layer, model.cfg.n_layers):
            resid = _through_layer(model, run, layer, resid)
            for (scalable, _), leaf in zip(batch, leaves, strict=True):
                if scalable.site.layer == layer:
                    resid = torch.cat([resid, _after_site(model, run, scalable, leaf)])
        normed = norm(model.ln_final, resid)
    targets = torch.full((len(normed),), token, device=normed.device)
    shares = torch.ones(len(normed), device=normed.device)
    nll, _, _, slope = losses_and_slope(model, normed.detach(), targets, shares)
    # ∂P = P ∂log P, multiplied by P last: in half precision the gradient of a small P would vanish
    slopes = torch.autograd.grad(normed, leaves, -slope)
    probs = (-nll).exp().split([len(leaf) for leaf in leaves])
    return [prob @ own.float() for prob, own in zip(probs, slopes, strict=True)]


def _through_layer(
    model: HookedTransformer, run: _Run, layer: int, resid: Float[Tensor, "copy d_model"]
) -> Float[Tensor, "copy d_model"]:
    """Runs residuals through one layer, each as the last token of the text."""
    n_copies, on = len(resid), resid.device
    if not n_copies:
        return resid
    keys, values = (cached[layer].expand(n_copies, -1, -1, -1) for cached in (run.keys, run.values))
    mask = torch.ones(n_copies, len(run.text), dtype=torch.long, device=on)
    real = torch.ones(n_copies, 1, dtype=torch.bool, device=on)
    return run_blocks(model, [layer], resid, (keys,), (values,), mask, real)[0]


def _after_site(
    model: HookedTransformer, run: _Run, scalable: _Scalable, acts: Float[Tensor, "copy d_key"]
) -> Float[Tensor, "copy d_model"]:
    """Returns the residuals after the layer whose site has `acts` instead of its activation."""
    layer, block = scalable.site.layer, model.blocks[scalable.site.layer]
    written = _written(model, scalable, acts)
    if scalable.site.half == "mlp":
        return run.mid[layer] + written
    mid = run.resid[layer] + written
    return mid + mlp_out(block, (run.resid[layer] if is_parallel(block) else mid)[None])[0]


def _written(
    model: HookedTransformer, scalable: _Scalable, acts: Float[Tensor, "copy d_key"]
) -> Float[Tensor, "copy d_model"]:
    """Returns what is added to the residual stream for `acts`.

    A post-norm (all are RMS norms) divides by its value at the unscaled `act`; see `attributions`.
    """
    raw, raw_unscaled = (
        scalable.site.raw(model, scalable.key(act)) for act in (acts, scalable.act)
    )
    if not has_post_norms(model):
        return raw
    rms, rms_unscaled = (
        (x.square().mean(-1, True) + model.cfg.eps).sqrt() for x in (raw, raw_unscaled)
    )
    return scalable.site.written(model, raw) * (rms / rms_unscaled)
