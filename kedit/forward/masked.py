"""Computes patched cells of masked models (BERT, T5): runs, their activations, and restored rows.

This is for BERT and T5 what `runs.py` and `patched.py` are for decoders. Attention sees the tokens
on both sides, so a restored cell can change every position of the layers above it: each cell needs
a row with all positions. What is saved: the layers below a cell are not run again, the rows of many
cells go through a block's matrices together, and in the last layer only the position is computed at
which the answer is read.

A `Tower` is a stack of blocks: BERT's blocks, or T5's encoder or decoder. A block is a sequence of
*halves*, which read the residual stream and add to it: attention, in T5's decoder cross attention,
and the MLP. Behind BERT's halves the residual stream is normalised (post-LN), so that what is
called resid_post here is TransformerLens' `hook_normalized_resid_post`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedEncoder, HookedEncoderDecoder

from kedit.forward.patched import max_tokens
from kedit.forward.runs import Run, on_rows
from kedit.models.masked import Masked
from kedit.models.sites import norm

Half = Literal["attn_out", "cross_attn_out", "mlp_out"]
ATTENTION: Mapping[Half, str] = {"attn_out": "attn", "cross_attn_out": "cross_attn"}


@dataclass(frozen=True)
class Tower:
    """A stack of blocks.

    Args:
        name: "" (BERT), "encoder" or "decoder" (T5).
        path: the path of its blocks in the model, as in "blocks.0.hook_attn_out".
        blocks: the blocks, from the lowest one.
        halves: what a block consists of, in this order.
        post_norm: whether the residual stream is normalised behind each half, instead of before it.
    """

    name: str
    path: str
    blocks: Sequence[Any]
    halves: tuple[Half, ...]
    post_norm: bool

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def site(self, plain: str) -> str:
        """Returns the name of a site in results: "mlp_out", or "encoder.mlp_out"."""
        return f"{self.name}.{plain}" if self.name else plain


def towers(model: Masked) -> tuple[Tower, ...]:
    """Returns BERT's blocks, or T5's encoder and decoder."""
    if isinstance(model, HookedEncoder):
        return (Tower("", "blocks", list(model.blocks), ("attn_out", "mlp_out"), True),)
    encoder = Tower("encoder", "encoder", list(model.encoder), ("attn_out", "mlp_out"), False)
    halves: tuple[Half, ...] = ("attn_out", "cross_attn_out", "mlp_out")
    return encoder, Tower("decoder", "decoder", list(model.decoder), halves, False)


@dataclass(frozen=True)
class TowerStates:
    """The activations of one run in one tower, by layer.

    Args:
        resid: the residual stream before each block, then after the last one: n_layers + 1 entries.
        written: what each half added to the residual stream.
        z: the outputs of the heads before W_O, by attention half.
    """

    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    written: Mapping[Half, tuple[Float[Tensor, "batch pos d_model"], ...]]
    z: Mapping[Half, tuple[Float[Tensor, "batch pos head d_head"], ...]]


@dataclass(frozen=True)
class MaskedStates:
    """The activations of one run, by tower, and the position at which the answer is read.

    Args:
        towers: one entry for each of `towers(model)`.
        read_at: this position, in the last tower.
    """

    towers: tuple[TowerStates, ...]
    read_at: int

    @property
    def last(self) -> Float[Tensor, "batch d_model"]:
        """The residual that is unembedded: after the last layer, where the answer is read."""
        return self.towers[-1].resid[-1][:, self.read_at]


@torch.no_grad()
def masked_states(
    model: Masked, runs: Sequence[Run], read_at: int, decoder: Sequence[int] = ()
) -> list[MaskedStates]:
    """Runs the model once, on all `runs` as one batch, and keeps what patching needs.

    Args:
        runs: tokens of BERT or of T5's encoder, all of the same length, with their hooks.
        read_at: the position at which the answer is read, in the last tower.
        decoder: the tokens of T5's decoder, the same in all runs.
    """
    tokens = torch.cat([run.tokens for run in runs])
    parts = torch.arange(len(tokens)).split([len(run.tokens) for run in runs])
    rows = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
    hooks: list[tuple[str | Callable, Callable]] = [
        (name, on_rows(hook, of_run) if len(runs) > 1 else hook)
        for run, of_run in zip(runs, rows, strict=True)
        for name, hook in run.hooks
    ]
    wanted = {name for tower in towers(model) for name in _hook_names(tower)}
    given: list[Any] = [tokens]
    if isinstance(model, HookedEncoderDecoder):
        given.append(tokens.new_tensor(decoder).expand(len(tokens), -1))
    with model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(
            *given,
            return_cache_object=False,
            names_filter=lambda name: name in wanted,
            one_zero_attention_mask=torch.ones_like(tokens),
        )
    return [
        MaskedStates(tuple(_kept(tower, cache, of_run) for tower in towers(model)), read_at)
        for of_run in rows
    ]


def _hook_names(tower: Tower) -> Iterator[str]:
    """The hook points of a tower at which `_kept` reads."""
    for layer in range(tower.n_layers):
        yield f"{tower.path}.{layer}.hook_resid_pre"
        for half in tower.halves:
            yield f"{tower.path}.{layer}.hook_{half}"
            if half in ATTENTION:
                yield f"{tower.path}.{layer}.{ATTENTION[half]}.hook_z"
    yield resid_hook(tower, tower.n_layers - 1)


def resid_hook(tower: Tower, layer: int) -> str:
    """Returns the hook point of the residual stream that a block hands to the next one."""
    name = "hook_normalized_resid_post" if tower.post_norm else "hook_resid_post"
    return f"{tower.path}.{layer}.{name}"


def _kept(tower: Tower, cache: Mapping[str, Tensor], rows: slice) -> TowerStates:
    def by_layer(name: str) -> tuple[Tensor, ...]:
        return tuple(cache[f"{tower.path}.{layer}.{name}"][rows] for layer in range(tower.n_layers))

    return TowerStates(
        resid=(*by_layer("hook_resid_pre"), cache[resid_hook(tower, tower.n_layers - 1)][rows]),
        written={half: by_layer(f"hook_{half}") for half in tower.halves},
        z={
            half: by_layer(f"{ATTENTION[half]}.hook_z")
            for half in tower.halves
            if half in ATTENTION
        },
    )


def added(tower: Tower, block: Any, half: Half, resid: Tensor, written: Tensor) -> Tensor:
    """Adds what a half wrote to the residual stream, which BERT then normalises."""
    if not tower.post_norm:
        return resid + written
    return norm(block.ln1 if half == "attn_out" else block.ln2, resid + written)


def _read(tower: Tower, block: Any, half: Half, resid: Tensor) -> Tensor:
    """What a half reads: the residual stream, which T5 normalises before."""
    if tower.post_norm:
        return resid
    return norm(getattr(block, f"ln{1 + tower.halves.index(half)}"), resid)


class Past:
    """What the rows of one batch share: position biases, and the keys of cross attention.

    Args:
        model: the model.
        encoded: the encoder's output for T5's decoder, [row, sample, pos, d_model]; one row if all
            rows of the batch have the same.
    """

    def __init__(self, model: Masked, encoded: Tensor | None = None) -> None:
        self._model, self._encoded = model, encoded
        self._keys: dict[int, tuple[Tensor, Tensor]] = {}

    def bias(self, tower: Tower, n_pos: int) -> Float[Tensor, "1 head pos pos"] | None:
        """Returns what is added to the scores of self attention; None for BERT."""
        if isinstance(self._model, HookedEncoder):
            return None
        bias = tower.blocks[0].attn.compute_relative_attention_bias(n_pos, n_pos)
        if tower.name == "decoder":
            later = torch.ones(n_pos, n_pos, dtype=torch.bool, device=bias.device).triu(1)
            bias = bias.masked_fill(later, -torch.inf)
        return bias

    def cross_keys(self, block: Any) -> tuple[Tensor, Tensor]:
        """Returns a block's cross-attention keys and values: [row, sample, pos, head, d_head]."""
        assert self._encoded is not None
        if id(block) not in self._keys:
            attn = block.cross_attn
            self._keys[id(block)] = (
                _heads(self._encoded, attn.W_K, attn.b_K),
                _heads(self._encoded, attn.W_V, attn.b_V),
            )
        return self._keys[id(block)]


def half_written(
    tower: Tower,
    block: Any,
    half: Half,
    resid: Float[Tensor, "row sample pos d_model"],
    past: Past,
    queried: slice = slice(None),
) -> Float[Tensor, "row sample queried_pos d_model"]:
    """Computes what a half of a block writes, at the `queried` positions."""
    read = _read(tower, block, half, resid)
    if half == "mlp_out":
        return block.mlp(read[:, :, queried].flatten(0, 1)).unflatten(0, read.shape[:2])
    attn = getattr(block, ATTENTION[half])
    query = _heads(read[:, :, queried], attn.W_Q, attn.b_Q)
    if half == "attn_out":
        keys, values = (
            _heads(read, weight, bias)
            for weight, bias in ((attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
        )
        bias = past.bias(tower, read.shape[2])
        bias = None if bias is None else bias[:, :, queried]
    else:
        (keys, values), bias = past.cross_keys(block), None
    rows = query.shape[:2]
    z = F.scaled_dot_product_attention(
        *(
            part.expand(*rows, *part.shape[2:]).flatten(0, 1).transpose(1, 2)
            for part in (query, keys, values)
        ),
        attn_mask=bias,
        scale=1 / attn.attn_scale,
    )
    return raw_output(attn, z.transpose(1, 2)).unflatten(0, rows)


def raw_output(attn: Any, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
    """Computes the output of W_O from the outputs of all heads."""
    return F.linear(z.flatten(-2), attn.W_O.flatten(0, 1).T, attn.b_O)


def _heads(read: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "*rows head d_head"]:
    """Queries, keys or values of all heads."""
    out = F.linear(read, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
    return out.unflatten(-1, bias.shape)


@dataclass(frozen=True)
class Cell:
    """A restored cell: it enters the corrupted run above a layer, at one position.

    Args:
        number: the cell's number, under which its final residual is returned.
        layer: the state enters as resid_post of this layer.
        pos: the position.
        state: the residual at this position.
        held_until: the last layer at which a half's output is overwritten at this position.
    """

    number: int
    layer: int
    pos: int
    state: Float[Tensor, "sample d_model"]
    held_until: int


@dataclass(frozen=True)
class Held:
    """A half whose output is overwritten at the cell's position, and the values, by layer."""

    half: Half
    values: tuple[Float[Tensor, "#sample pos d_model"], ...]


@torch.no_grad()
def run_cells(
    model: Masked,
    corrupted: MaskedStates,
    number: int,
    cells: Sequence[Cell],
    held: Held | None = None,
) -> Iterator[tuple[int, Float[Tensor, "sample d_model"]]]:
    """Computes restored rows of one tower, in batches that fit in memory.

    Args:
        number: the tower's index in `towers(model)`.
        cells: the cells, in any order.
        held: what is overwritten while cells are held.

    Yields:
        Each cell's number and its final residual, where the answer is read.
    """
    n_samples, n_pos = corrupted.towers[number].resid[0].shape[:2]
    size = max(1, max_tokens(model, n_pos) // (n_samples * n_pos))
    ordered = sorted(cells, key=lambda cell: -cell.layer)
    for start in range(0, len(ordered), size):
        yield from _walk(model, corrupted, number, ordered[start : start + size], held)


def _walk(
    model: Masked,
    corrupted: MaskedStates,
    number: int,
    cells: Sequence[Cell],
    held: Held | None,
) -> Iterator[tuple[int, Tensor]]:
    """Takes one batch of cells up the tower, and through the decoder if the tower is an encoder."""
    both, states = towers(model), corrupted.towers[number]
    tower, is_last = both[number], number == len(both) - 1
    past = Past(model, encoded(model, corrupted.towers[0].resid[-1][None]) if number else None)
    rows = states.resid[0].new_empty(0, *states.resid[0].shape)
    there: list[Cell] = []
    read = slice(corrupted.read_at, corrupted.read_at + 1)
    for layer in range(min(cell.layer for cell in cells), tower.n_layers):
        final = is_last and layer == tower.n_layers - 1
        if there:
            rows = _block(tower, layer, rows, past, there, held, read if final else None)
        entering = [cell for cell in cells if cell.layer == layer]
        if entering:
            new = states.resid[layer + 1].expand(len(entering), -1, -1, -1).clone()
            for row, cell in zip(new, entering, strict=True):
                row[:, cell.pos] = cell.state
            rows = torch.cat(
                [
                    rows[:, :, read] if final and not there else rows,
                    new[:, :, read] if final else new,
                ]
            )
            there += entering
    if not is_last:
        rows = _decoded(model, corrupted, rows)
    final_pos = rows[:, :, 0] if rows.shape[2] == 1 else rows[:, :, corrupted.read_at]
    for cell, row in zip(there, final_pos, strict=True):
        yield cell.number, row


def _block(
    tower: Tower,
    layer: int,
    resid: Float[Tensor, "row sample pos d_model"],
    past: Past,
    cells: Sequence[Cell],
    held: Held | None,
    only: slice | None,
) -> Float[Tensor, "row sample queried_pos d_model"]:
    """Runs rows through one block; with `only`, the result has only these positions."""
    block = tower.blocks[layer]
    for index, half in enumerate(tower.halves):
        # from the first half on, only the positions that are read are left
        queried = only if only is not None and index == 0 else slice(None)
        written = half_written(tower, block, half, resid, past, queried)
        resid = resid[:, :, queried]
        if held is not None and half == held.half:
            _overwrite(written, layer, cells, held, only)
        resid = added(tower, block, half, resid, written)
    return resid


def _overwrite(
    written: Float[Tensor, "row sample pos d_model"],
    layer: int,
    cells: Sequence[Cell],
    held: Held,
    only: slice | None,
) -> None:
    """Overwrites what a half wrote at the positions of the cells that are still held."""
    for row, cell in zip(written, cells, strict=True):
        if cell.held_until >= layer and (only is None or cell.pos == only.start):
            row[:, cell.pos if only is None else 0] = held.values[layer][:, cell.pos]


def encoded(model: Masked, resid: Tensor) -> Tensor:
    """Returns the encoder's output, which T5's decoder reads, from its last residual."""
    assert isinstance(model, HookedEncoderDecoder)
    return norm(model.encoder_final_ln, resid)


def _decoded(
    model: Masked, corrupted: MaskedStates, encoder_rows: Float[Tensor, "row sample pos d_model"]
) -> Float[Tensor, "row sample 1 d_model"]:
    """Runs T5's whole decoder on each row of the encoder; only the last position is returned."""
    decoder = towers(model)[1]
    past = Past(model, encoded(model, encoder_rows))
    first = corrupted.towers[1].resid[0]
    rows = first.expand(len(encoder_rows), *first.shape)
    read = slice(corrupted.read_at, corrupted.read_at + 1)
    for layer in range(decoder.n_layers):
        only = read if layer == decoder.n_layers - 1 else None
        rows = _block(decoder, layer, rows, past, (), None, only)
    return rows
