"""Runs rows of tokens of different lengths through a model's blocks, packed and differentiable.

This is the forward for many prompts: scoring, generation, training an edit's value, and reading
keys. For patched cells, where the rows are restored versions of one corrupted run, use
`kedit.forward.patched` (with `paths` and `blocks`). Section "Two fast forwards" of
docs/architecture.md compares the two.

*Packed* means that the tokens of all rows form one long list, without padding. Norms, weight
matrices and the MLP treat every token alone, so they take this list: the result does not depend on
padding, and on padding their work would be wasted. Only attention needs rows and positions, so only
there the list is unpacked into a padded batch and packed again.

Each row continues a past: keys and values of earlier tokens. All pasts end at the same column, the
right edge, so that the new tokens of all rows begin at the same column. A shorter past has a gap at
its left, which is masked:

           past                 new
    row 0  | a | b | c | d |    | e | f |         . gap, masked
    row 1  | . | . | g | h |    | i | _ |         _ padding: no token before it can attend to it,
    row 2  | . | k | l | m |    | n | o |           and its output is dropped

Positions count tokens, not columns: `i` has position 2.
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
from kedit.models.split import block_device

PADDING = 0  # any token will do, because no output depends on it
# a score that softmax turns into exactly 0; with -inf the gradient of a KL would be NaN
HIDDEN = -1e4
Part = Literal["attn_in", "z", "attn", "mlp_in", "mlp", "resid"]
# (layer, part of its block, activation) -> new one; both at home (see `kedit.models.split`)
Write = Callable[[int, Part, Tensor], Tensor]
LayerCache = tuple[Float[Tensor, "_ _ kv_head d_head"], ...]  # by layer: [row, pos, ...]


def is_plain(model: HookedTransformer) -> bool:
    """Whether `run_blocks` computes the same as the model: plain attention, no hook, no switch."""
    return is_unhooked(model) and all(has_plain_attention(block) for block in model.blocks)


def require_plain(model: HookedTransformer) -> None:
    """Checks that `run_blocks` can compute and differentiate this model.

    Raises:
        InputError: it cannot; the message says why and what to do.
    """
    # torch.compile's wrapper passes every attribute on, but is not a HookedTransformer
    if hasattr(model, "_orig_mod"):
        raise InputError(
            "this is torch.compile's wrapper, whose weights have other names: pass the model itself"
        )
    require_gradients(model)
    require_unhooked(model)
    if not is_plain(model):
        raise InputError(
            f"{model.cfg.original_architecture or model.cfg.model_name}: editing supports plain "
            "softmax attention only (no soft cap, no ALiBi, no QK norm of OLMo)"
        )


def run_blocks(
    model: HookedTransformer,
    layers: Sequence[int],
    resid: Float[Tensor, "token d_model"],
    past_keys: LayerCache,
    past_values: LayerCache,
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
    write: Write | None = None,
) -> tuple[Float[Tensor, "token d_model"], LayerCache, LayerCache]:
    """Runs packed rows through consecutive layers, each row after its past.

    The model must be one for which `is_plain` holds. The returned keys are rotated, unlike those in
    TransformerLens' cache: the position of a token never changes, so rotating its key once is
    enough.

    Args:
        layers: consecutive layers; the first one need not be layer 0.
        resid: the packed residual before the first of these layers, row by row.
        past_keys, past_values: for each of `layers`, as this function returns them.
        mask: 1 at tokens, 0 in the gap, for past and new positions. The tokens of a row are
            adjacent. Padding after new tokens may be 1.
        real: which new positions hold a token, not padding.
        write: is called with each layer's packed activations: the inputs of attention and MLP, all
            heads' z, the raw outputs of W_O and W_out (before a post-norm), and the residual after
            the layer. Its return value replaces the activation. None: nothing is replaced.

    Returns:
        The packed residual after the last of `layers`, and the keys and values of past and new
        positions at each layer.
    """
    keys, values = [], []
    home = resid.device
    rows, columns = real.nonzero(as_tuple=True)  # once for all layers, because CUDA is waited for

    def written(layer: int, part: Part, act: Tensor) -> Tensor:
        return act if write is None else write(layer, part, act.to(home)).to(act.device)

    for layer, old_keys, old_values in zip(layers, past_keys, past_values, strict=True):
        block = model.blocks[layer]
        on = block_device(block)
        resid = resid.to(on)
        read = written(layer, "attn_in", attn_read(block, resid))
        z, new_keys, new_values = _attend(
            block,
            read,
            old_keys.to(on),
            old_values.to(on),
            mask.to(on),
            real.to(on),
            (rows.to(on), columns.to(on)),
        )
        raw = F.linear(written(layer, "z", z), w_o(block), block.attn.b_O)
        mid = resid + attn_written(block, written(layer, "attn", raw))
        read = written(layer, "mlp_in", mlp_read(block, resid if is_parallel(block) else mid))
        raw = mlp_raw(block, read[None])[0]
        resid = written(layer, "resid", mid + mlp_written(block, written(layer, "mlp", raw)))
        keys.append(new_keys.to(home))
        values.append(new_values.to(home))
    return resid.to(home), tuple(keys), tuple(values)


def empty_cache(model: HookedTransformer, n_rows: int, layers: Sequence[int]) -> LayerCache:
    """Returns the keys (or values) of an empty past for each of `layers`."""
    cfg = model.cfg
    heads = (n_rows, 0, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head)
    return tuple(torch.empty(heads, device=device(model), dtype=cfg.dtype) for _ in layers)


@torch.no_grad()
def run_first_layers(
    model: HookedTransformer, rows: Sequence[Sequence[int]], n_layers: int
) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Runs whole rows, which have no past, through the first `n_layers`; shared openings only once.

    The openings of all groups run first, as one batch. Then each row's tail runs after the opening
    of its group. `to_right` moves the openings to the right edge between the two steps:

        openings        to the right edge     tails after them       rows, whole again
        | a | b | c |   | a | b | c |         | a | b | c | d |      | a | b | c | d | _ |
        | g | _ | _ |   | . | . | g |         | . | . | g | h | i |  | g | h | i | _ | _ |

    Returns:
        The packed residual of the rows; and `mask` and `real`, with which `run_blocks` continues
        from there (with an empty past).
    """
    on, below = device(model), range(n_layers)
    tokens, real = _padded_and_real(rows, on)
    groups = shared_openings([tuple(row) for row in rows])
    if not any(length for length, _ in groups):
        past, mask = empty_cache(model, len(rows), below), torch.ones_like(tokens)
        resid = embedded(model, tokens, mask, real)
        return run_blocks(model, below, resid, past, past, mask, real)[0], mask, real
    group_of = {index: group for group, (_, members) in enumerate(groups) for index in members}
    group = torch.tensor([group_of[index] for index in range(len(rows))], device=on)

    openings, in_opening = _padded_and_real(
        [rows[members[0]][:length] for length, members in groups], on
    )
    past, mask = empty_cache(model, len(groups), below), torch.ones_like(openings)
    first = embedded(model, openings, mask, in_opening)
    first, keys, values = run_blocks(model, below, first, past, past, mask, in_opening)
    gap = (~in_opening).sum(1, keepdim=True)
    columns = torch.arange(openings.shape[1], device=on)
    source = (columns - gap).clamp(min=0)
    keys, values = (
        tuple(layer[group] for layer in to_right(cache, source)) for cache in (keys, values)
    )

    lengths = [groups[group_of[index]][0] for index in range(len(rows))]
    tails, in_tail = _padded_and_real([row[n:] for row, n in zip(rows, lengths, strict=True)], on)
    mask = torch.cat([(columns >= gap).long()[group], torch.ones_like(tails)], 1)
    second = embedded(model, tails, mask, in_tail)
    second, _, _ = run_blocks(model, below, second, keys, values, mask, in_tail)

    # the first columns of a whole row are its opening, the rest of its tokens are its tail
    is_opening = torch.arange(tokens.shape[1], device=on) < in_opening.sum(1)[group][:, None]
    resid = first.new_zeros(*real.shape, first.shape[1])
    resid[is_opening] = unpacked(first, in_opening)[group][in_opening[group]]
    resid[real & ~is_opening] = second
    return resid[real], torch.ones_like(tokens), real


def _padded_and_real(
    rows: Sequence[Sequence[int]], on: torch.device
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Rows padded at the right, and which positions are not padding."""
    tokens = padded(rows, on)
    lengths = torch.tensor([len(row) for row in rows], device=on)
    return tokens, torch.arange(tokens.shape[1], device=on) < lengths[:, None]


def to_right(cache: LayerCache, source: Int[Tensor, "row pos"]) -> LayerCache:
    """Moves keys (or values) of rows so that every row ends at the right edge.

        | g | h | _ |   with source | 0 | 0 | 1 |   becomes   | g | g | h |

    Args:
        source: for each row and column, the column from which it is filled. In the gap at the left
            this is column 0: any finite numbers will do there, because the gap is masked.
    """
    return tuple(torch.take_along_dim(layer, source[..., None, None], 1) for layer in cache)


def embedded(
    model: HookedTransformer,
    tokens: Int[Tensor, "row new"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
) -> Float[Tensor, "token d_model"]:
    """Returns the packed residual before layer 0 of the tokens at `real`.

    Args:
        tokens: the new tokens, padded.
        mask: as for `run_blocks`; its last columns are those of `tokens`.
        real: which of `tokens` are not padding.
    """
    resid = model.embed(tokens[real])
    if model.cfg.positional_embedding_type == "standard":
        n_past = mask.shape[1] - tokens.shape[1]
        resid = resid + model.pos_embed(tokens, n_past, _without_padding(mask, real))[real]
    return resid


def _without_padding(
    mask: Int[Tensor, "row pos"], real: Bool[Tensor, "row new"]
) -> Int[Tensor, "row pos"]:
    """`mask` with 0 at the padding after new tokens too, for counting positions.

    Counted positions of padding could lie beyond the model's context: the longest past and the
    longest row are next to each other in the batch, even if no text has both.
    """
    n_past = mask.shape[1] - real.shape[1]
    return torch.cat([mask[:, :n_past], real.long()], 1)


def padded(rows: Sequence[Sequence[int]], on: torch.device) -> Int[Tensor, "row pos"]:
    """Returns rows of tokens as one tensor on the device `on`, padded at the right."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=on)


def unpacked(tokens: Float[Tensor, "token *width"], real: Bool[Tensor, "row new"]) -> Tensor:
    """Puts packed tokens back at their rows and positions, with zeros at padding."""
    return _placed(tokens, real.shape, real.nonzero(as_tuple=True))


def _placed(
    tokens: Float[Tensor, "token *width"], shape: torch.Size, at: tuple[Tensor, ...]
) -> Float[Tensor, "row new *width"]:
    """Zeros, with the packed tokens at the rows and columns `at`."""
    rows = tokens.new_zeros(*shape, *tokens.shape[1:])
    rows[at] = tokens
    return rows


def _attend(
    block: TransformerBlock,
    read: Float[Tensor, "token d_model"],
    past_keys: Float[Tensor, "row past kv_head d_head"],
    past_values: Float[Tensor, "row past kv_head d_head"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
    at: tuple[Int[Tensor, " token"], ...],
) -> tuple[
    Float[Tensor, "token key"],
    Float[Tensor, "row pos kv_head d_head"],
    Float[Tensor, "row pos kv_head d_head"],
]:
    """All heads' z at new tokens, packed, and the keys and values of past and new positions.

    The arguments are as for `run_blocks`; `read` is the packed input of attention, and `at` are the
    rows and columns at which `real` is true.
    """
    n_past = past_keys.shape[1]
    packed = block.attn.calculate_qkv_matrices(read[None], read[None], read[None])
    query, keys, values = (_placed(each[0], real.shape, at) for each in packed)
    if block.cfg.positional_embedding_type == "rotary":
        counted = _without_padding(mask, real)
        query = block.attn.apply_rotary(query, n_past, counted)
        keys = block.attn.apply_rotary(keys, n_past, counted)
    keys, values = torch.cat([past_keys, keys], 1), torch.cat([past_values, values], 1)
    z = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=_visible(block, n_past, mask),
        scale=1 / block.attn.attn_scale,
        enable_gqa=keys.shape[2] != query.shape[2],
    )
    return z.transpose(1, 2)[at].flatten(1), keys, values


def log_attention(
    block: TransformerBlock,
    read: Float[Tensor, "watched d_model"],
    keys: Float[Tensor, "watched pos kv_head d_head"],
    mask: Int[Tensor, "watched pos"],
    real: Bool[Tensor, "watched new"],
    columns: Int[Tensor, " watched"],
) -> Float[Tensor, "watched head pos"]:
    """Returns the logarithm of each head's attention from one new token of each row.

    `run_blocks` never forms attention patterns, so this is for the few tokens where one is needed.
    Positions that the token cannot attend to get about HIDDEN.

    Args:
        read: the input of the block's attention at these tokens.
        keys: of past and new positions, as `run_blocks` returns them.
        mask, real: as for `run_blocks`.
        columns: the index of each token among its row's new ones.
    """
    home = read.device
    read, keys, mask, real, columns = (
        each.to(block_device(block)) for each in (read, keys, mask, real, columns)
    )
    n_past = mask.shape[1] - real.shape[1]
    at = torch.arange(len(read), device=read.device), columns
    query, _, _ = block.attn.calculate_qkv_matrices(read[None], read[None], read[None])
    query = query[0]
    if block.cfg.positional_embedding_type == "rotary":
        # rotated where they stand, because the rotation counts the tokens before them
        placed = _placed(query, real.shape, at)
        query = block.attn.apply_rotary(placed, n_past, _without_padding(mask, real))[at]
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[2], dim=2)
    scores = torch.einsum("whd,wphd->whp", query, keys) / block.attn.attn_scale
    visible = _visible(block, n_past, mask)[:, 0][at]
    return scores.masked_fill(~visible[:, None], HIDDEN).log_softmax(-1).to(home)


def _visible(
    block: TransformerBlock, n_past: int, mask: Int[Tensor, "row pos"]
) -> Bool[Tensor, "row 1 new pos"]:
    """Which positions each new one attends to: itself and earlier tokens, within the window."""
    n_ctx = mask.shape[1]
    visible = torch.ones(n_ctx - n_past, n_ctx, dtype=torch.bool, device=mask.device).tril(n_past)
    if block.attn.attn_type == "local":
        visible = visible.triu(n_past - (block.cfg.window_size or n_ctx) + 1)
    return visible & mask.bool()[:, None, None]
