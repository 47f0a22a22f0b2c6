"""The fast forward: from a layer and a position on, many patched cells in one walk up the layers.

By causality a patch at one position and layer leaves earlier positions and lower layers as they
were. So a cell needs only the layers above and the positions from its own on, over the keys and
values that the corrupted run left before it. Cells of one position join a growing batch at their
own layer; the tokens of all positions go through a block's matrices together, and through attention
position by position.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.blocks import run_block
from kedit.forward.paths import CellPath, Column, Trunk
from kedit.forward.runs import States
from kedit.models.sites import require_unhooked

CPU_BATCH = 24_000_000  # numbers in the widest activation (96 MiB): more gains nothing


@torch.no_grad()
def run_on(
    model: HookedTransformer, corrupted: States, columns: Iterable[Column]
) -> Iterator[tuple[int, Float[Tensor, "sample d_model"]]]:
    """Each cell's number and final residual (before ln_final, at the last position), when done.

    Args:
        corrupted: the run that is patched.
        columns: at least one trunk each; numbered cells, each once.
    """
    budget = max_tokens(model, corrupted.resid[0].shape[1])
    for batch in _batches(corrupted, columns, budget):
        yield from _walk(model, corrupted, batch)


def max_tokens(model: HookedTransformer, n_ctx: int) -> int:
    """How many tokens may be in work at once, from the memory that is free now."""
    cfg = model.cfg
    device = model.embed.W_E.device
    d_mlp = cfg.d_mlp or cfg.d_model
    keys = cfg.n_heads * cfg.d_head * 6
    numbers = 16 * cfg.d_model + 3 * d_mlp + keys + 4 * cfg.n_heads * n_ctx
    if device.type == "cuda":
        return max(64, int(0.3 * torch.cuda.mem_get_info(device)[0] / (numbers * 4)))
    free = int(0.3 * psutil.virtual_memory().available / (numbers * 4))
    return max(64, min(free, CPU_BATCH // max(d_mlp, cfg.d_model)))


def require_patchable(model: HookedTransformer) -> None:
    """The fast forward skips positions and batches cells: a hook of the user's would misfire.

    Raises:
        InputError: a hook is live, a switch is on that changes what the blocks read, or positions
            are added to what they read.
    """
    require_unhooked(model)
    if model.cfg.positional_embedding_type == "shortformer":
        raise InputError("a model with shortformer positions cannot be patched")


def _batches(corrupted: States, columns: Iterable[Column], budget: int) -> Iterator[list[Column]]:
    """Columns, cut and gathered so that a batch's tokens at the top layer stay in the budget."""
    n_samples, n_pos = corrupted.resid[0].shape[:2]
    batch: list[Column] = []
    room = budget
    for column in columns:
        cost = n_samples * (n_pos - column.first)
        piece: list[Trunk] = []
        for trunk in sorted(column.trunks, key=lambda trunk: trunk.layer):
            needed = cost * len(trunk.cells)
            if needed > room and (batch or piece):
                yield batch + ([replace(column, trunks=tuple(piece))] if piece else [])
                batch, piece, room = [], [], budget
            piece.append(trunk)
            room -= needed
        if piece:
            batch.append(replace(column, trunks=tuple(piece)))
    if batch:
        yield batch


def _walk(
    model: HookedTransformer, corrupted: States, columns: Sequence[Column]
) -> Iterator[tuple[int, Tensor]]:
    n_layers = model.cfg.n_layers
    paths = [
        CellPath(
            column, corrupted.resid[0].new_empty(0, *corrupted.resid[0][:, column.first :].shape)
        )
        for column in columns
    ]
    for layer in range(
        min(trunk.layer for path in paths for trunk in path.column.trunks), n_layers
    ):
        is_last = layer == n_layers - 1
        under_way = [path for path in paths if path.rows]
        if under_way:
            run_block(model.blocks[layer], layer, is_last, corrupted, under_way)
        for path in paths:
            if is_last and not path.rows:
                path.resid = path.resid[:, :, -1:]
            path.enter(layer, corrupted.resid[layer + 1][:, path.column.first :])
            path.release(layer)
    for path in paths:
        for final, cells in zip(path.resid[:, :, -1], path.rows, strict=True):
            for cell, _ in cells:
                yield cell, final
