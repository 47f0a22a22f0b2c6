"""Runs the rows of all cell paths through one block (see `kedit.forward.patched`).

The tokens of all paths go through the block's matrices as one list. Attention is computed for each
path alone, because the paths begin at different positions and so have different pasts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.forward.paths import CellPath
from kedit.forward.runs import Held, States
from kedit.models.sites import (
    after_past,
    attend,
    attn_read,
    attn_written,
    has_plain_attention,
    is_parallel,
    mlp_out,
    sees_all,
    w_o,
)


def run_block(
    block: TransformerBlock, layer: int, is_last: bool, corrupted: States, paths: Sequence[CellPath]
) -> None:
    """Runs all paths through one block, and updates their residuals.

    After the last block only the last position is read, so only this position is computed there.
    """
    pre = _joined([path.resid for path in paths])
    pasts = []
    for path in paths:
        run, first = path.column.before or corrupted, path.column.first
        pasts.append((run.keys[layer][:, :first], run.values[layer][:, :first]))
    sizes = [path.resid.shape for path in paths]
    if has_plain_attention(block) and sees_all(block, corrupted.resid[0].shape[1]):
        written = _plain_attention(block, pre, sizes, pasts, is_last)
    else:
        written = _lens_attention(block, pre, sizes, pasts, is_last)
    if is_last:
        pre = _joined([path.resid[:, :, -1:] for path in paths])
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
    mid = pre + written
    read = pre if is_parallel(block) else mid
    # held outputs of the MLP are not computed at all
    computed = torch.ones(len(read), dtype=torch.bool, device=read.device)
    overwritten = held("mlp_out", computed)
    if not any(part.numel() for part, _ in overwritten):
        out = mlp_out(block, read[None])[0]
    else:
        for part, _ in overwritten:
            part[:] = False
        out = torch.empty_like(read)
        if computed.any():
            out[computed] = mlp_out(block, read[computed][None])[0]
        for part, value in held("mlp_out", out):
            part[:] = value
    for path, resid in zip(paths, _apart(mid + out, sizes), strict=True):
        path.resid = resid


Past = tuple[Float[Tensor, "_ _ kv_head d_head"], Float[Tensor, "_ _ kv_head d_head"]]


def _plain_attention(
    block: TransformerBlock,
    pre: Float[Tensor, "token d_model"],
    sizes: Sequence[torch.Size],
    pasts: Sequence[Past],
    is_last: bool,
) -> Float[Tensor, "written_token d_model"]:
    """attn_out of all tokens (if `is_last`, of the last positions), for each path over its past."""
    read = attn_read(block, pre)
    queried = _joined([part[:, :, -1:] for part in _apart(read, sizes)]) if is_last else read
    query, keys, values = block.attn.calculate_qkv_matrices(queried[None], read[None], read[None])
    query_sizes = [torch.Size([*size[:2], 1 if is_last else size[2], size[3]]) for size in sizes]
    z = [
        attend(block, q, k, v, *past).flatten(0, 2)
        for q, k, v, past in zip(
            _apart(query[0], query_sizes),
            _apart(keys[0], sizes),
            _apart(values[0], sizes),
            pasts,
            strict=True,
        )
    ]
    return attn_written(block, F.linear(torch.cat(z), w_o(block), block.attn.b_O))


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
            after_past(self.past_keys, keys, self._n_rows),
            after_past(self.past_values, values, self._n_rows),
        )
