"""Runs the rows of all cell paths through one block (see `kedit.forward.patched`).

The tokens of all paths go through the block's matrices as one list. Attention is computed for each
path alone, because the paths begin at different positions and so have different pasts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.forward.paths import CellPath
from kedit.forward.runs import Held, States
from kedit.models.sites import (
    attn_read,
    attn_written,
    has_plain_attention,
    is_parallel,
    mlp_out,
    rotated,
    sees_all,
    w_o,
)
from kedit.models.split import block_device

Past = tuple[Float[Tensor, "_ _ kv_head d_head"], Float[Tensor, "_ _ kv_head d_head"]]


class Pasts:
    """Keys and values of whole runs, for the positions before a path, on their block's device.

    Keys are rotated only once.

    Args:
        corrupted: the run whose keys and values are used if a column names no other run.
    """

    def __init__(self, corrupted: States) -> None:
        self.corrupted = corrupted
        self._rotated: dict[tuple[int, int], Past] = {}  # by the run's id and the layer

    def before(self, path: CellPath, block: TransformerBlock, layer: int) -> Past:
        """Returns keys, not rotated, and values at the positions before the path's."""
        run, first = path.column.before or self.corrupted, path.column.first
        on = block_device(block)
        return run.keys[layer][:, :first].to(on), run.values[layer][:, :first].to(on)

    def rotated_before(self, path: CellPath, block: TransformerBlock, layer: int) -> Past:
        """Returns rotated keys, and values, at the positions before the path's."""
        run, first = path.column.before or self.corrupted, path.column.first
        if (id(run), layer) not in self._rotated:
            on = block_device(block)
            keys, values = run.keys[layer].to(on), run.values[layer].to(on)
            n_rows, n_pos = keys.shape[:2]
            positions = torch.arange(n_pos, device=on).repeat(n_rows)
            keys = rotated(block, keys.flatten(0, 1), positions, n_pos)
            self._rotated[id(run), layer] = keys.unflatten(0, (n_rows, n_pos)), values
        keys, values = self._rotated[id(run), layer]
        return keys[:, :first], values[:, :first]


def run_block(
    block: TransformerBlock, layer: int, is_last: bool, pasts: Pasts, paths: Sequence[CellPath]
) -> None:
    """Runs all paths through one block, and updates their residuals.

    After the last block only the last position is read, so only this position is computed there.
    """
    home, on = paths[0].resid.device, block_device(block)
    pre = _joined([path.resid for path in paths]).to(on)
    sizes = [path.resid.shape for path in paths]
    if has_plain_attention(block) and sees_all(block, pasts.corrupted.resid[0].shape[1]):
        before = [pasts.rotated_before(path, block, layer) for path in paths]
        written = _plain_attention(block, pre, sizes, before, is_last)
    else:
        before = [pasts.before(path, block, layer) for path in paths]
        written = _lens_attention(block, pre, sizes, before, is_last)
    if is_last:
        pre = _joined([path.resid[:, :, -1:] for path in paths]).to(on)
        sizes = [torch.Size([*size[:2], 1, size[3]]) for size in sizes]

    # After the last block only the last position is left. A held position, the first one of its
    # path, is there only if the path has no other.
    is_gone = [is_last and path.resid.shape[2] > 1 for path in paths]

    def held(half: Held, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of the parts of `tokens` where `half` is held at this layer, with their values."""
        return [
            (part[path.n_free(layer) :, :, 0], path.column.hold.values[layer])
            for path, part, gone in zip(paths, _apart(tokens, sizes), is_gone, strict=True)
            if path.column.hold and path.column.hold.half == half and not gone
        ]

    for part, value in held("attn_out", written):
        part[:] = value
    mid = written.add_(pre)  # `written` is new memory, and allocating more takes time
    read = pre if is_parallel(block) else mid
    # held outputs of the MLP are not computed at all
    computed = torch.ones(len(read), dtype=torch.bool)  # on the CPU: CUDA is not waited for
    overwritten = held("mlp_out", computed)
    if not any(part.numel() for part, _ in overwritten):
        out = mlp_out(block, read[None])[0]
    else:
        for part, _ in overwritten:
            part[:] = False
        out = torch.empty_like(read)
        if computed.any():
            index = computed.nonzero()[:, 0].to(read.device, non_blocking=True)
            out[index] = mlp_out(block, read[index][None])[0]
        for part, value in held("mlp_out", out):
            part[:] = value
    for path, resid in zip(paths, _apart(out.add_(mid).to(home), sizes), strict=True):
        path.resid = resid


def _plain_attention(
    block: TransformerBlock,
    pre: Float[Tensor, "token d_model"],
    sizes: Sequence[torch.Size],
    pasts: Sequence[Past],
    is_last: bool,
) -> Float[Tensor, "written_token d_model"]:
    """attn_out of all tokens (if `is_last`, of the last positions), for each path over its past.

    It computes the same as `block.attn`, up to rounding, for blocks for which `has_plain_attention`
    and `sees_all` hold. The keys in `pasts` are rotated.
    """
    read = attn_read(block, pre)
    queried, query_sizes = read, sizes
    if is_last:
        queried = _joined([part[:, :, -1:] for part in _apart(read, sizes)])
        query_sizes = [torch.Size([*size[:2], 1, size[3]]) for size in sizes]
    query, keys, values = block.attn.calculate_qkv_matrices(queried[None], read[None], read[None])
    n_ctx = pasts[0][0].shape[1] + sizes[0][2]
    query = rotated(block, query[0], _positions(query_sizes, n_ctx, pre.device), n_ctx)
    keys = rotated(block, keys[0], _positions(sizes, n_ctx, pre.device), n_ctx)
    z = [
        _attended(block, q, k, v, *past).flatten(0, 2)
        for q, k, v, past in zip(
            _apart(query, query_sizes),
            _apart(keys, sizes),
            _apart(values[0], sizes),
            pasts,
            strict=True,
        )
    ]
    return attn_written(block, F.linear(torch.cat(z), w_o(block), block.attn.b_O))


def _positions(
    sizes: Sequence[torch.Size], n_ctx: int, device: torch.device
) -> Int[Tensor, " token"]:
    """The positions of the tokens of all paths; the last token of each path is the text's last."""
    return torch.cat(
        [
            torch.arange(n_ctx - size[2], n_ctx, device=device).repeat(size[0] * size[1])
            for size in sizes
        ]
    )


def _attended(
    block: TransformerBlock,
    query: Float[Tensor, "row sample query_pos head d_head"],
    keys: Float[Tensor, "row sample pos kv_head d_head"],
    values: Float[Tensor, "row sample pos kv_head d_head"],
    past_keys: Float[Tensor, "#sample past_pos kv_head d_head"],
    past_values: Float[Tensor, "#sample past_pos kv_head d_head"],
) -> Float[Tensor, "row sample query_pos key"]:
    """The heads' outputs z, flattened, at new positions after a past that all rows share.

    Args:
        query: of the last `query_pos` new positions, rotated.
        keys, values: of all new positions; keys are rotated.
        past_keys, past_values: of earlier positions, one entry per sample or one for all samples;
            keys are rotated.
    """
    n_past, n_new, n_query = past_keys.shape[1], keys.shape[2], query.shape[2]
    mask = None
    if n_query > 1:
        visible = torch.ones(n_query, n_past + n_new, dtype=torch.bool, device=query.device)
        mask = visible.tril(n_past + n_new - n_query)
    z = F.scaled_dot_product_attention(
        query.flatten(0, 1).transpose(1, 2),
        _after_past(past_keys, keys.flatten(0, 1), len(keys)).transpose(1, 2),
        _after_past(past_values, values.flatten(0, 1), len(keys)).transpose(1, 2),
        attn_mask=mask,
        scale=1 / block.attn.attn_scale,
        enable_gqa=keys.shape[3] != query.shape[3],
    )
    return z.transpose(1, 2).flatten(2).unflatten(0, query.shape[:2])


def _after_past(
    past: Tensor, new: Tensor, n_rows: int
) -> Float[Tensor, "row_sample pos kv_head d_head"]:
    """`new` after a past that is the same for every row, with rows and samples merged.

    The past has one entry per sample, or one for all samples.
    """
    new = new.unflatten(0, (n_rows, -1))
    shared = past.expand(n_rows, new.shape[1], *past.shape[1:])
    return torch.cat([shared, new], dim=2).flatten(0, 1)


def _lens_attention(
    block: TransformerBlock,
    pre: Float[Tensor, "token d_model"],
    sizes: Sequence[torch.Size],
    pasts: Sequence[Past],
    is_last: bool,
) -> Float[Tensor, "written_token d_model"]:
    """The same as `_plain_attention` for other families, by TransformerLens' slower attention."""
    written = []
    for part, past in zip(_apart(attn_read(block, pre), sizes), pasts, strict=True):
        read = part.flatten(0, 1)
        out = block.attn(read, read, read, past_kv_cache_entry=_SharedPast(*past, len(part)))
        written.append((out[:, -1:] if is_last else out).flatten(0, 1))
    return attn_written(block, torch.cat(written))


def _joined(parts: Sequence[Tensor]) -> Float[Tensor, "token width"]:
    """The tokens of all paths as one list."""
    return torch.cat([part.flatten(0, 2) for part in parts])


def _apart(tokens: Tensor, sizes: Sequence[torch.Size]) -> list[Tensor]:
    """Splits a list of tokens into views of each path's tokens as [row, sample, pos, ...]."""
    counts = [size[:3].numel() for size in sizes]
    return [
        part.unflatten(0, size[:3]) for part, size in zip(tokens.split(counts), sizes, strict=True)
    ]


class _SharedPast:
    """The keys and values of one run for all rows; it replaces TransformerLens' cache entry."""

    def __init__(self, past_keys: Tensor, past_values: Tensor, n_rows: int) -> None:
        self.past_keys, self.past_values, self._n_rows = past_keys, past_values, n_rows

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return (
            _after_past(self.past_keys, keys, self._n_rows),
            _after_past(self.past_values, values, self._n_rows),
        )
