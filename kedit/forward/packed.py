"""Rows of different lengths through the blocks, packed: padding goes through no matrix.

Each row stands behind a past of its own, all pasts ending at the same position: those that are
shorter have a gap at their left, which is masked. Fused kernels over HookedTransformer's weights,
and differentiable.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.errors import InputError
from kedit.forward.openings import shared_openings
from kedit.models.prompts import device
from kedit.models.sites import (
    attn_read,
    attn_written,
    has_plain_attention,
    is_parallel,
    is_unhooked,
    mlp_raw,
    mlp_read,
    mlp_written,
    require_gradients,
    require_unhooked,
    w_o,
)

PADDING = 0  # any token: nothing reads it
Part = Literal["attn_in", "z", "attn", "mlp_in", "mlp", "resid"]
Write = Callable[[int, Part, Tensor], Tensor]  # layer, part of its block, what is there
LayerCache = tuple[Float[Tensor, "_ _ kv_head d_head"], ...]  # rows and positions, by layer


def is_plain(model: HookedTransformer) -> bool:
    """Whether `run_blocks` computes what the model does: plain attention, no hook, no switch."""
    return is_unhooked(model) and all(has_plain_attention(block) for block in model.blocks)


def require_plain(model: HookedTransformer) -> None:
    """Raises InputError for a model that `run_blocks` cannot differentiate, with the mend."""
    if hasattr(model, "_orig_mod"):  # it passes every attribute on, but is no HookedTransformer
        raise InputError(
            "this is torch.compile's wrapper, whose weights have other names: pass the model itself"
        )
    require_gradients(model)
    require_unhooked(model)
    if not is_plain(model):
        raise InputError(
            f"{model.cfg.original_architecture or model.cfg.model_name}: editing needs attention "
            "that is a softmax of products, and nothing else (no soft cap, no ALiBi)"
        )


def run_blocks(
    model: HookedTransformer,
    layers: Sequence[int],
    resid: Float[Tensor, "token d_model"],
    past_keys: LayerCache,
    past_values: LayerCache,
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
    write: Write = lambda layer, part, raw: raw,
) -> tuple[Float[Tensor, "token d_model"], LayerCache, LayerCache]:
    """Residual behind the last of `layers`, and keys and values of all positions at each of them.

    Only for a model that `is_plain`. Unlike TransformerLens' cache these hold keys after the rotary
    embedding: a position never changes, and rotating it once is enough.

    Args:
        layers: one after the other, not necessarily from the first.
        resid: before the first of them, of the tokens at `real`, row by row.
        past_keys, past_values: at each of `layers`, as this function returns them.
        mask: of past and new positions, 1 where there is a token; those of a row stand together.
        real: which new positions are no padding.
        write: gets, packed, what each layer's attention and MLP read, all heads' z, the raw outputs
            of W_O and W_out (before a post-norm) and the residual behind the layer; what it returns
            takes their place.
    """
    keys, values = [], []
    for layer, old_keys, old_values in zip(layers, past_keys, past_values, strict=True):
        block = model.blocks[layer]
        read = write(layer, "attn_in", attn_read(block, resid))
        z, new_keys, new_values = _attend(block, read, old_keys, old_values, mask, real)
        raw = F.linear(write(layer, "z", z), w_o(block), block.attn.b_O)
        mid = resid + attn_written(block, write(layer, "attn", raw))
        read = write(layer, "mlp_in", mlp_read(block, resid if is_parallel(block) else mid))
        raw = mlp_raw(block, read[None])[0]
        resid = write(layer, "resid", mid + mlp_written(block, write(layer, "mlp", raw)))
        keys.append(new_keys)
        values.append(new_values)
    return resid, tuple(keys), tuple(values)


def empty_cache(model: HookedTransformer, n_rows: int, layers: Sequence[int]) -> LayerCache:
    """Keys, or values, at `layers` before the first token of each row."""
    cfg = model.cfg
    heads = (n_rows, 0, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head)
    return tuple(torch.empty(heads, device=device(model), dtype=cfg.dtype) for _ in layers)


@torch.no_grad()
def run_first_layers(
    model: HookedTransformer, rows: Sequence[Sequence[int]], n_layers: int
) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Residual of whole rows behind the first `n_layers`, packed; then `mask` and `real` for what
    goes on from there. What many of them open with is run once.
    """
    place, below = device(model), range(n_layers)
    tokens, real = _placed(rows, place)
    groups = shared_openings([tuple(row) for row in rows])
    if not any(length for length, _ in groups):
        past, mask = empty_cache(model, len(rows), below), torch.ones_like(tokens)
        resid = embedded(model, tokens, mask, real)
        return run_blocks(model, below, resid, past, past, mask, real)[0], mask, real
    group_of = {index: group for group, (_, members) in enumerate(groups) for index in members}
    group = torch.tensor([group_of[index] for index in range(len(rows))], device=place)

    openings, within = _placed([rows[members[0]][:length] for length, members in groups], place)
    past, mask = empty_cache(model, len(groups), below), torch.ones_like(openings)
    first = embedded(model, openings, mask, within)
    first, keys, values = run_blocks(model, below, first, past, past, mask, within)
    # to the right edge, where the tails begin
    gap = (~within).sum(1, keepdim=True)
    columns = torch.arange(openings.shape[1], device=place)
    source = (columns - gap).clamp(min=0)
    keys, values = (
        tuple(layer[group] for layer in to_right(kept, source)) for kept in (keys, values)
    )

    lengths = [groups[group_of[index]][0] for index in range(len(rows))]
    tails, behind = _placed([row[n:] for row, n in zip(rows, lengths, strict=True)], place)
    mask = torch.cat([(columns >= gap).long()[group], torch.ones_like(tails)], 1)
    second = embedded(model, tails, mask, behind)
    second, _, _ = run_blocks(model, below, second, keys, values, mask, behind)

    opens = torch.arange(tokens.shape[1], device=place) < within.sum(1)[group][:, None]
    resid = first.new_zeros(*real.shape, first.shape[1])
    resid[opens] = unpacked(first, within)[group][within[group]]
    resid[real & ~opens] = second
    return resid[real], torch.ones_like(tokens), real


def _placed(
    rows: Sequence[Sequence[int]], place: torch.device
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Rows padded at the right, and where there is no padding."""
    tokens = padded(rows, place)
    lengths = torch.tensor([len(row) for row in rows], device=place)
    return tokens, torch.arange(tokens.shape[1], device=place) < lengths[:, None]


def to_right(kept: LayerCache, source: Int[Tensor, "row pos"]) -> LayerCache:
    """Keys, or values, of rows that are to end at the right edge: each position takes what is at
    its `source`, the gap at the left repeats the start.
    """
    return tuple(torch.take_along_dim(layer, source[..., None, None], 1) for layer in kept)


def embedded(
    model: HookedTransformer,
    tokens: Int[Tensor, "row new"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
) -> Float[Tensor, "token d_model"]:
    """Residual before layer 0 of the tokens at `real`, which stand at the end of `mask`."""
    resid = model.embed(tokens[real])
    if model.cfg.positional_embedding_type == "standard":
        n_past = mask.shape[1] - tokens.shape[1]
        resid = resid + model.pos_embed(tokens, n_past, _counted(mask, real))[real]
    return resid


def _counted(mask: Int[Tensor, "row pos"], real: Bool[Tensor, "row new"]) -> Int[Tensor, "row pos"]:
    """`mask` without the padding behind new tokens, whose positions may lie beyond the context.

    The longest past and the longest row side by side may be wider than that, though no text is.
    """
    n_past = mask.shape[1] - real.shape[1]
    return torch.cat([mask[:, :n_past], real.long()], 1)


def padded(rows: Sequence[Sequence[int]], place: torch.device) -> Int[Tensor, "row pos"]:
    """Rows of tokens as one tensor, padded at the right."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=place)


def unpacked(tokens: Float[Tensor, "token *width"], real: Bool[Tensor, "row new"]) -> Tensor:
    """Packed tokens at their rows and positions, zeros where there is padding."""
    rows = tokens.new_zeros(*real.shape, *tokens.shape[1:])
    rows[real] = tokens
    return rows


def _attend(
    block: TransformerBlock,
    read: Float[Tensor, "token d_model"],
    past_keys: Float[Tensor, "row past kv_head d_head"],
    past_values: Float[Tensor, "row past kv_head d_head"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
) -> tuple[
    Float[Tensor, "token key"],
    Float[Tensor, "row pos kv_head d_head"],
    Float[Tensor, "row pos kv_head d_head"],
]:
    """All heads' z at new tokens behind pasts with gaps, and keys and values of all positions.

    Only for blocks with `has_plain_attention`. Unlike TransformerLens' cache this one holds keys
    after the rotary embedding: a position never changes, and rotating it once is enough.

    Args:
        read: what attention reads of the tokens at `real`, one after the other.
        mask: 1 where there is a token; positions are counted over tokens only, and the tokens of
            a row stand together.
        real: which new positions are no padding.
    """
    n_past = past_keys.shape[1]
    packed = block.attn.calculate_qkv_matrices(read[None], read[None], read[None])
    query, keys, values = (unpacked(each[0], real) for each in packed)
    if block.cfg.positional_embedding_type == "rotary":
        counted = _counted(mask, real)
        query = block.attn.apply_rotary(query, n_past, counted)
        keys = block.attn.apply_rotary(keys, n_past, counted)
    keys, values = torch.cat([past_keys, keys], 1), torch.cat([past_values, values], 1)
    z = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=_seen(block, n_past, mask),
        scale=1 / block.attn.attn_scale,
        enable_gqa=keys.shape[2] != query.shape[2],
    )
    return z.transpose(1, 2)[real].flatten(1), keys, values


def _seen(
    block: TransformerBlock, n_past: int, mask: Int[Tensor, "row pos"]
) -> Bool[Tensor, "row 1 new pos"]:
    """What each new position attends to: tokens before it and itself, in its layer's window."""
    n_ctx = mask.shape[1]
    seen = torch.ones(n_ctx - n_past, n_ctx, dtype=torch.bool, device=mask.device).tril(n_past)
    if block.attn.attn_type == "local":
        seen = seen.triu(n_past - (block.cfg.window_size or n_ctx) + 1)
    return seen & mask.bool()[:, None, None]
