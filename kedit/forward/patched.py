"""Computes many patched cells in one walk up the layers.

This is the forward for tracing and patching (`probes/patch.py`), in which every row is a restored
version of one corrupted run. For many prompts of different texts use `kedit.forward.packed` and
`reading`. Section "Two fast forwards" of docs/architecture.md compares the two.

Attention is causal, so a patch at one position and layer changes neither earlier positions nor
lower layers. A cell therefore needs only the layers above its own and the positions from its own
on; at earlier positions it uses the keys and values of the corrupted run.

Cells share this walk because they differ only in where they enter: the blocks above are the same.
A walk per cell would read every weight matrix again for a few tokens; in one walk each matrix is
read once for all cells of a batch. The cells of one position form rows, which join the batch at
their layers (`paths.py`). The tokens of all positions go through a block's matrices together;
attention is computed position by position, since each position has its own earlier keys and values
(`blocks.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.batching import tokens_per_batch
from kedit.errors import InputError
from kedit.forward.blocks import Pasts, run_block
from kedit.forward.paths import CellPath, Column, Trunk
from kedit.forward.runs import States
from kedit.models.masked import AnyModel
from kedit.models.sites import require_unhooked
from kedit.models.split import devices_of

# most numbers in the widest activation on a CPU (96 MiB in float32): larger batches are not faster
CPU_BATCH = 24_000_000


@torch.no_grad()
def run_on(
    model: HookedTransformer, corrupted: States, columns: Iterable[Column]
) -> Iterator[tuple[int, Float[Tensor, "sample d_model"]]]:
    """Computes all cells of `columns`, in batches that fit in memory.

    Args:
        corrupted: the run that is patched.
        columns: the cells; each column has at least one trunk, and each cell's number occurs once.

    Yields:
        The number of each cell and its final residual (before ln_final, at the last position), in
        the order in which they are finished.
    """
    budget = max_tokens(model, corrupted.resid[0].shape[1])
    pasts = Pasts(corrupted)
    for batch in _batches(corrupted, columns, budget):
        yield from _walk(model, pasts, batch)


def max_tokens(model: AnyModel, n_ctx: int) -> int:
    """Returns how many tokens a batch should have, given the memory that is free now.

    Of several devices that hold the model, the fullest one decides.
    """
    cfg = model.cfg
    devices = devices_of(model)
    d_mlp = cfg.d_mlp or cfg.d_model
    keys = cfg.n_heads * cfg.d_head * 6
    numbers = 16 * cfg.d_model + 3 * d_mlp + keys + 4 * cfg.n_heads * n_ctx
    if devices[0].type == "cuda":
        free = min(torch.cuda.mem_get_info(device)[0] for device in devices)
        return tokens_per_batch(int(0.3 * free / (numbers * 4)))
    free = int(0.3 * psutil.virtual_memory().available / (numbers * 4))
    return tokens_per_batch(min(free, CPU_BATCH // max(d_mlp, cfg.d_model)))


def require_patchable(model: HookedTransformer) -> None:
    """Checks that `run_on` computes the same as the model would.

    `run_on` skips positions and puts many cells into one batch, so that a user's hook would see
    other tensors than it expects.

    Raises:
        InputError: a hook is live, a switch is on that changes the blocks' inputs, or the model
            adds its positions to these inputs (shortformer).
    """
    require_unhooked(model)
    if model.cfg.positional_embedding_type == "shortformer":
        raise InputError("a model with shortformer positions cannot be patched")


def _batches(corrupted: States, columns: Iterable[Column], budget: int) -> Iterator[list[Column]]:
    """Cuts columns into batches that have at most `budget` tokens at the top layer."""
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
    model: HookedTransformer, pasts: Pasts, columns: Sequence[Column]
) -> Iterator[tuple[int, Tensor]]:
    """Takes one batch of columns up the layers, and yields each cell with its final residual."""
    corrupted, n_layers = pasts.corrupted, model.cfg.n_layers
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
        active = [path for path in paths if path.rows]
        if active:
            run_block(model.blocks[layer], layer, is_last, pasts, active)
        for path in paths:
            if is_last and not path.rows:
                path.resid = path.resid[:, :, -1:]
            path.enter(layer, corrupted.resid[layer + 1][:, path.column.first :])
            path.release(layer)
    for path in paths:
        for final, cells in zip(path.resid[:, :, -1], path.rows, strict=True):
            for cell, _ in cells:
                yield cell, final
