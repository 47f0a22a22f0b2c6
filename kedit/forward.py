"""The fast forward: from a layer and a position on, many patched cells in one walk up the layers.

By causality a patch at one position and layer leaves earlier positions and lower layers as they
were. So a cell needs only the layers above and the positions from its own on, over the keys and
values that the corrupted run left before it. Cells of one position join a growing batch at their
own layer; the tokens of all positions go through a block's matrices together, and through attention
position by position.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import psutil
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.errors import InputError
from kedit.runs import Held, States
from kedit.sites import (
    attend,
    attn_read,
    attn_written,
    behind,
    has_plain_attention,
    is_parallel,
    mlp_out,
    w_o,
)

CPU_BATCH = 24_000_000  # numbers in the widest activation (96 MiB): more gains nothing


@dataclass(frozen=True)
class Trunk:
    """Patched cells that share a path through the layers for a while.

    Args:
        layer: their state enters as resid_post of this layer.
        state: that residual, at the first positions that are run anew (none: nothing is put in).
        cells: (cell, layer): the cell's own number, and the last layer at which it is held. While
            a cell is held, attention's or MLP's output at the first position is overwritten; a cell
            that is released earlier than others of its trunk goes on from there by itself.
    """

    layer: int
    state: Float[Tensor, "sample patched_pos d_model"]
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Hold:
    """Which half of the held cells' blocks is overwritten at the first position, and with what."""

    half: Held
    values: tuple[Float[Tensor, "batch d_model"], ...]  # by layer


@dataclass(frozen=True)
class Column:
    """The cells of one position.

    Args:
        first: the first position that is run anew; the trunks' states begin here.
        trunks: the cells, by path.
        hold: what is held, if anything is.
        before: the run whose keys and values stand before `first`; the corrupted run if None.
    """

    first: int
    trunks: tuple[Trunk, ...]
    hold: Hold | None = None
    before: States | None = None


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


def require_no_hooks(model: HookedTransformer) -> None:
    """The fast forward skips positions and batches cells: a hook of the user's would misfire.

    Raises:
        InputError: a hook is live, or a switch is on that changes what the blocks read.
    """
    live = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if live:
        raise InputError(
            f"the model has live hooks ({', '.join(live[:3])}): patching would not run them; "
            "model.reset_hooks(including_permanent=True), or give them to the Run"
        )
    switches = ("use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result")
    on = [name for name in switches if getattr(model.cfg, name)]
    if on or model.cfg.positional_embedding_type == "shortformer":
        raise InputError(f"patching needs these off: {', '.join(on) or 'shortformer positions'}")


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


@dataclass
class _Path:
    """A column on its way up: its rows' residuals, and the cells that still follow each row."""

    column: Column
    resid: Float[Tensor, "row sample pos d_model"]  # free rows first, then those still held
    rows: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def n_free(self, layer: int) -> int:
        """Rows that nothing holds at `layer`."""
        if self.column.hold is None:
            return len(self.rows)
        return sum(all(end < layer for _, end in cells) for cells in self.rows)

    def enter(self, layer: int, tail: Float[Tensor, "sample pos d_model"]) -> None:
        """Adds the trunks that enter behind `layer`: a copy each of the corrupted residual."""
        entering = [trunk for trunk in self.column.trunks if trunk.layer == layer]
        if entering:
            new = tail.expand(len(entering), *tail.shape).clone()
            for row, trunk in zip(new, entering, strict=True):
                row[:, : trunk.state.shape[1]] = trunk.state
            self.resid = torch.cat([self.resid, new[:, :, -self.resid.shape[2] :]])
            self.rows += [trunk.cells for trunk in entering]

    def release(self, layer: int) -> None:
        """Splits off the cells whose hold ends with `layer`."""
        if self.column.hold is None:
            return
        free, held = [], []
        for index, cells in enumerate(self.rows):
            ended = tuple(cell for cell in cells if cell[1] <= layer)
            going_on = tuple(cell for cell in cells if cell[1] > layer)
            free += [(index, ended)] if ended else []
            held += [(index, going_on)] if going_on else []
        order = [index for index, _ in free + held]
        self.rows = [cells for _, cells in free + held]
        if order != list(range(len(self.resid))):
            self.resid = self.resid[torch.tensor(order, device=self.resid.device)]


def _walk(
    model: HookedTransformer, corrupted: States, columns: Sequence[Column]
) -> Iterator[tuple[int, Tensor]]:
    n_layers = model.cfg.n_layers
    paths = [
        _Path(column, corrupted.resid[0].new_empty(0, *corrupted.resid[0][:, column.first :].shape))
        for column in columns
    ]
    for layer in range(
        min(trunk.layer for path in paths for trunk in path.column.trunks), n_layers
    ):
        is_last = layer == n_layers - 1
        under_way = [path for path in paths if path.rows]
        if under_way:
            _through_block(model.blocks[layer], layer, is_last, corrupted, under_way)
        for path in paths:
            if is_last and not path.rows:
                path.resid = path.resid[:, :, -1:]
            path.enter(layer, corrupted.resid[layer + 1][:, path.column.first :])
            path.release(layer)
    for path in paths:
        for final, cells in zip(path.resid[:, :, -1], path.rows, strict=True):
            for cell, _ in cells:
                yield cell, final


def _through_block(
    block: TransformerBlock, layer: int, is_last: bool, corrupted: States, paths: Sequence[_Path]
) -> None:
    """All paths through one block; behind the last block only the last position matters."""
    pre = _joined([path.resid for path in paths])
    pasts = []
    for path in paths:
        run, first = path.column.before or corrupted, path.column.first
        pasts.append((run.keys[layer][:, :first], run.values[layer][:, :first]))
    sizes = [path.resid.shape for path in paths]
    if has_plain_attention(block, corrupted.resid[0].shape[1]):
        written = _plain_attention(block, pre, sizes, pasts, is_last)
    else:
        written = _own_attention(block, pre, sizes, pasts, is_last)
    if is_last:
        pre = _joined([path.resid[:, :, -1:] for path in paths])
        sizes = [torch.Size([*size[:2], 1, size[3]]) for size in sizes]

    # where a half is overwritten: the first position of the rows that are held at this layer
    holds = [
        (index, path.n_free(layer), path.column.hold)
        for index, path in enumerate(paths)
        if path.column.hold and not (is_last and path.resid.shape[2] > 1)
    ]
    for (index, n_free, hold), parts in ((held, _apart(written, sizes)) for held in holds):
        if hold.half == "attn_out":
            parts[index][n_free:, :, 0] = hold.values[layer]
    mid = pre + written
    read = pre if is_parallel(block) else mid
    held_mlps = [
        entry for entry in holds if entry[2].half == "mlp_out" and entry[1] < sizes[entry[0]][0]
    ]
    if not held_mlps:
        out = mlp_out(block, read[None])[0]
    else:
        computed = torch.ones(len(read), dtype=torch.bool, device=read.device)
        for (index, n_free, _), parts in ((held, _apart(computed, sizes)) for held in held_mlps):
            parts[index][n_free:, :, 0] = False
        out = torch.empty_like(read)
        if computed.any():
            out[computed] = mlp_out(block, read[computed][None])[0]
        for (index, n_free, hold), parts in ((held, _apart(out, sizes)) for held in held_mlps):
            parts[index][n_free:, :, 0] = hold.values[layer]
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
    """attn_out of all tokens (the last positions, if `is_last`), each path over its own past."""
    read = attn_read(block, pre)
    asking = _joined([part[:, :, -1:] for part in _apart(read, sizes)]) if is_last else read
    query, keys, values = block.attn.calculate_qkv_matrices(asking[None], read[None], read[None])
    asked = [torch.Size([*size[:2], 1 if is_last else size[2], size[3]]) for size in sizes]
    z = [
        attend(block, q, k, v, *past).flatten(0, 2)
        for q, k, v, past in zip(
            _apart(query[0], asked),
            _apart(keys[0], sizes),
            _apart(values[0], sizes),
            pasts,
            strict=True,
        )
    ]
    return attn_written(block, F.linear(torch.cat(z), w_o(block), block.attn.b_O))


def _own_attention(
    block: TransformerBlock,
    pre: Float[Tensor, "token d_model"],
    sizes: Sequence[torch.Size],
    pasts: Sequence[Past],
    is_last: bool,
) -> Float[Tensor, "written_token d_model"]:
    """`_plain_attention` for every other family, by TransformerLens' own attention: slower."""
    written = []
    for part, past in zip(_apart(attn_read(block, pre), sizes), pasts, strict=True):
        read = part.flatten(0, 1)
        out = block.attn(read, read, read, past_kv_cache_entry=_SharedPast(*past, len(part)))
        written.append((out[:, -1:] if is_last else out).flatten(0, 1))
    return attn_written(block, torch.cat(written))


def _joined(parts: Sequence[Tensor]) -> Float[Tensor, "token width"]:
    """All tokens of all paths, one after the other."""
    return torch.cat([part.flatten(0, 2) for part in parts])


def _apart(tokens: Tensor, sizes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of each path's tokens as [row, sample, pos, ...]."""
    counts = [size[:3].numel() for size in sizes]
    return [
        part.unflatten(0, size[:3]) for part, size in zip(tokens.split(counts), sizes, strict=True)
    ]


class _SharedPast:
    """One run's keys and values, read by every row, as TransformerLens' attention takes them."""

    def __init__(self, past_keys: Tensor, past_values: Tensor, n_rows: int) -> None:
        self.past_keys, self.past_values, self._n_rows = past_keys, past_values, n_rows

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return (
            behind(self.past_keys, keys, self._n_rows),
            behind(self.past_values, values, self._n_rows),
        )
