"""Runs rows with deltas added to what write sites write, again and again, and only what changes.

A step of training runs the layers from the lowest slot up, and in every row the positions from the
written one on. Everything below and before is computed once and cached. Gradients flow to the
deltas only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.write_sites import WriteSite
from kedit.forward.packed import (
    LayerCache,
    Write,
    empty_cache,
    log_attention,
    run_blocks,
    run_first_layers,
    to_right,
    unpacked,
)
from kedit.forward.reading import Tokens
from kedit.models.prompts import device


class Slot(NamedTuple):
    """Where a delta is added: a raw MLP or attention output, or the residual after a layer.

    With a post-norm, an edit of W_out or W_O can change the raw output only, so deltas for such
    edits are added there. MEMIT trains the residual instead.
    """

    layer: int
    part: str  # "mlp", "attn" or "resid"


@dataclass(frozen=True)
class Row:
    """A text to train on, and what the model should say.

    Args:
        tokens: the prompt, followed by all tokens of the target except the last.
        pos: position at which the deltas are added.
        group: rows with the same group share their deltas, because they have the same key, and one
            key cannot be mapped to two values.
        targets: token ids that should follow the last len(targets) positions, one each. Empty for a
            row whose next-token distribution should stay the same (the KL term).
        weight: of the row's negative log-likelihood in the mean over rows with targets.
        staying: without targets: the position whose next-token distribution should stay; None: that
            of `pos`.
    """

    tokens: Tokens
    pos: int
    group: int = 0
    targets: Tokens = ()
    weight: float = 1.0
    staying: int | None = None


@dataclass(frozen=True)
class Frozen:
    """Everything that the deltas cannot change, computed once.

    A delta enters at layer `layers[0]` or above, at position `pos` of its row. Below that layer
    nothing changes. In the layers above, attention is causal, so the keys and values of positions
    before `pos` do not change either. Running the blocks on the positions from `pos` on with these
    keys and values therefore gives exactly what the full forward gives.

    `run_blocks` needs all cached positions to end at the same column. Rows have different `pos`, so
    their cached keys and values are shifted to the right edge. The gap on the left is masked
    (capitals: positions from `pos` on; dots: masked or padding):

        tokens                cached | run at every step
        a b C D E             . . a b | C D E
        a b c d E F           a b c d | E F .

    Shifting does not change positions: cached keys include the rotary embedding, positions of new
    tokens are counted along `mask`, and other position embeddings are part of `resid`.

    Args:
        layers: the layers that are run at every step, from the lowest slot up.
        resid: residual before the first of `layers`, of all positions from `pos` on, packed.
        keys, values: by layer, of the positions before `pos`, aligned at the right edge.
        mask: 1 for cached positions of a row's own tokens and for the new positions, 0 for the gap.
        real: which new positions are not padding.
    """

    layers: range
    resid: Float[Tensor, "token d_model"]
    keys: LayerCache
    values: LayerCache
    mask: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row new"]

    @property
    def at(self) -> Int[Tensor, " row"]:
        """The index of each row's position `pos` among the packed positions: its first one."""
        n_new = self.real.sum(1)
        return n_new.cumsum(0) - n_new

    @property
    def n_cached(self) -> int:
        """The number of cached positions; the first new one, `pos`, comes after them."""
        return self.mask.shape[1] - self.real.shape[1]

    def only(self, kept: Bool[Tensor, " row"]) -> "Frozen":
        """Returns the same for the rows at which `kept` is true."""
        tokens = kept[:, None].expand_as(self.real)[self.real]
        return Frozen(
            self.layers,
            self.resid[tokens],
            tuple(layer[kept] for layer in self.keys),
            tuple(layer[kept] for layer in self.values),
            self.mask[kept],
            self.real[kept],
        )


class Clean(NamedTuple):
    """What is read at each row's position without any delta.

    Args:
        written: by slot, the output.
        keys: by MLP slot, W_out's key.
    """

    written: Mapping[Slot, Float[Tensor, "row d_model"]]
    keys: Mapping[Slot, Float[Tensor, "row d_mlp"]]


@torch.no_grad()
def freeze(
    model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot]
) -> tuple[Frozen, Clean]:
    """Runs the whole rows once, without deltas, and keeps what steps need."""
    on, n_layers = device(model), model.cfg.n_layers
    lowest = min(slot.layer for slot in slots)
    above = range(lowest, n_layers)
    resid, mask, real = run_first_layers(model, [row.tokens for row in rows], lowest)
    pos = torch.tensor([[row.pos] for row in rows], device=on)
    positions = torch.arange(real.shape[1], device=on)
    is_pos = positions == pos
    written: dict[Slot, Tensor] = {}
    w_out_keys: dict[Slot, Tensor] = {}

    def keep_key(slot: Slot):
        def hook(act: Tensor, hook: object) -> None:
            w_out_keys[slot] = act[0].to(on)[is_pos[real]]

        return WriteSite(slot.layer).key_hook, hook

    def keep(layer: int, part: str, raw: Tensor) -> Tensor:
        if Slot(layer, part) in slots:
            written[Slot(layer, part)] = raw[is_pos[real]]
        return raw

    past = empty_cache(model, len(rows), above)
    # hooked: each family of models computes its neurons in its own way
    with model.hooks(fwd_hooks=[keep_key(slot) for slot in slots if slot.part == "mlp"]):
        _, keys, values = run_blocks(model, above, resid, past, past, mask, real, keep)
    n_before, from_pos = int(pos.max()), real & (positions >= pos)
    n_new = from_pos.sum(1, keepdim=True)
    # Shift to the right edge. The gap is filled with copies of the first column; `mask` hides it.
    columns = torch.arange(n_before, device=on)
    source = (columns - (n_before - pos)).clamp(min=0)
    new = torch.arange(int(n_new.max()), device=on)
    is_cached = columns >= n_before - pos
    frozen = Frozen(
        layers=above,
        resid=unpacked(resid, real)[from_pos],
        keys=to_right(keys, source),
        values=to_right(values, source),
        mask=torch.cat([is_cached, torch.ones(len(rows), len(new)).to(is_cached)], 1).long(),
        real=new < n_new,
    )
    return frozen, Clean(written, w_out_keys)


class Watched(NamedTuple):
    """Tokens whose attention is read, one in each of some rows.

    Args:
        rows: indices of the rows.
        columns: the tokens' positions, counted from the `pos` of their rows.
    """

    rows: Int[Tensor, " watched"]
    columns: Int[Tensor, " watched"]


class FromSlots(NamedTuple):
    """What a run with deltas gives.

    Args:
        final: the final residuals from each row's `pos` on.
        outputs: by slot, the output at `pos`.
        attention: logarithms of the attention from the watched tokens, at the layers above the
            lowest slot; None if no token is watched or there is no such layer. The position `pos`
            is the first after those that are cached.
    """

    final: Float[Tensor, "row new d_model"]
    outputs: Mapping[Slot, Float[Tensor, "row d_model"]]
    attention: Float[Tensor, "layer watched head pos"] | None


def run_from_slots(
    model: HookedTransformer,
    frozen: Frozen,
    deltas: Mapping[Slot, Float[Tensor, "row d_model"]],
    watched: Watched | None = None,
) -> FromSlots:
    """Runs the rows with the deltas added at `pos`."""
    outputs: dict[Slot, Tensor] = {}
    reads: dict[int, Tensor] = {}  # by layer, the input of attention at watched tokens
    at = frozen.at

    def write(layer: int, part: str, raw: Tensor) -> Tensor:
        if part == "attn_in" and watched and layer > frozen.layers[0]:
            reads[layer] = raw[at[watched.rows] + watched.columns]
        slot = Slot(layer, part)
        if slot not in deltas:
            return raw
        raw = raw.index_add(0, at, deltas[slot].to(raw.dtype))
        outputs[slot] = raw.detach()[at]
        return raw

    final, keys = run_frozen(model, frozen, write)
    if not watched or not reads:
        return FromSlots(final, outputs, None)
    rows, columns = watched
    mask, real = frozen.mask[rows], frozen.real[rows]
    patterns = [
        log_attention(
            model.blocks[layer], read, keys[layer - frozen.layers[0]][rows], mask, real, columns
        )
        for layer, read in reads.items()
    ]
    return FromSlots(final, outputs, torch.stack(patterns))


def run_frozen(
    model: HookedTransformer, frozen: Frozen, write: Write
) -> tuple[Float[Tensor, "row new d_model"], LayerCache]:
    """Returns the final residuals from each row's `pos` on, and the keys of all positions.

    Args:
        write: as for `run_blocks`.
    """
    resid, keys, _ = run_blocks(
        model,
        frozen.layers,
        frozen.resid,
        frozen.keys,
        frozen.values,
        frozen.mask,
        frozen.real,
        write,
    )
    return unpacked(resid, frozen.real), keys
