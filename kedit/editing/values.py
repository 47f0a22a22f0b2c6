"""Trains v*: what a write site should write so that the model says the target. All editors use it.

A delta is added to what a site writes at one position of every row, and trained with Adam (Meng et
al. 2022, section 3.1, step 2). A step runs only what the deltas can change: the layers from the
lowest slot up, and in every row the positions from the written one on. Everything below and before
is computed once and cached. Gradients flow to the deltas only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.write_sites import WriteSite
from kedit.forward.metrics import Vocabulary, likeliest, losses_and_slope
from kedit.forward.packed import (
    LayerCache,
    empty_cache,
    require_plain,
    run_blocks,
    run_first_layers,
    to_right,
    unpacked,
)
from kedit.forward.reading import Tokens
from kedit.models.prompts import device
from kedit.models.sites import norm


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
            row whose next-token distribution at `pos` should stay the same (the KL term).
        weight: of the row's negative log-likelihood in the mean over rows with targets.
    """

    tokens: Tokens
    pos: int
    group: int = 0
    targets: Tokens = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Training:
    """Settings for training a delta. The defaults are ROME's for GPT-2 XL.

    Args:
        steps: largest number of evaluations; each is followed by a gradient step, except the last.
        lr: Adam's learning rate.
        weight_decay: weight of ‖δ‖ / ‖v₀‖² in the loss, where v₀ is the output without δ.
        kl: weight of KL(edited ‖ unedited) on rows whose distribution should stay the same.
        clamp: upper bound for ‖δ‖, in units of ‖v₀‖.
        stop: the loss, in nats, below which training ends.
        words: 0: the softmax is over the whole vocabulary, as published. Otherwise it is over the
            targets and this number of the likeliest tokens at each position that is read. With a
            large vocabulary, a small number makes steps much faster.
    """

    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 4.0
    stop: float = 0.05
    words: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)


@dataclass(frozen=True)
class Trained:
    """The result of training: deltas, and the outputs without and with them.

    Args:
        deltas: by slot, one per group.
        written: by slot, the output at each row's position without any delta.
        keys: by MLP slot, W_out's key at each row's position without any delta.
        wanted: by slot, the output there with all deltas in place. For the upper slots this is not
            `written` plus the slot's delta, because their inputs include what lower slots add.
        losses: the total loss at each evaluation, in nats.
        likelihood: exp of minus the rows' mean negative log-likelihood, at the last evaluation.
    """

    deltas: Mapping[Slot, Float[Tensor, "group d_model"]]
    written: Mapping[Slot, Float[Tensor, "row d_model"]]
    keys: Mapping[Slot, Float[Tensor, "row d_mlp"]]
    wanted: Mapping[Slot, Float[Tensor, "row d_model"]]
    losses: tuple[float, ...]
    likelihood: float


def train(
    model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot], training: Training
) -> Trained:
    """Trains deltas at `slots` with which the model says the rows' targets.

    Raises:
        InputError: the model has blocks that cannot be differentiated here, or live hooks.
    """
    require_plain(model)
    frozen = _freeze(model, rows, slots)
    n_groups = 1 + max(row.group for row in rows)
    group_of = torch.tensor([row.group for row in rows], device=device(model))
    firsts = first_rows(rows)
    base_norms = {slot: frozen.written[slot][firsts].norm(dim=-1) for slot in slots}
    deltas = {
        slot: torch.zeros(n_groups, model.cfg.d_model, device=device(model), requires_grad=True)
        for slot in slots
    }
    optimiser = torch.optim.Adam(list(deltas.values()), lr=training.lr)
    (row_index, position), targets, shares = _positions_read(rows, device(model))
    losses: list[float] = []
    unedited: Tensor | None = None
    vocabulary: Vocabulary | None = None
    nll, outputs = torch.zeros(()), frozen.written
    for step in range(training.steps):
        with torch.enable_grad():
            added = {slot: delta[group_of] for slot, delta in deltas.items()}
            final, outputs = _run_from_slots(model, frozen, added)
            normed = norm(model.ln_final, final[row_index, position])
            if training.words and vocabulary is None:
                vocabulary = likeliest(model, normed.detach(), targets, training.words)
            nll_each, kl, unedited, slope = losses_and_slope(
                model, normed.detach(), targets, shares, training.kl, unedited, among=vocabulary
            )
            nll = (shares * nll_each).sum()
            # 1e-12: deltas start at zero, where the norm has no gradient
            sizes = [
                (delta.square().sum(-1) + 1e-12).sqrt() / base_norms[slot] ** 2
                for slot, delta in deltas.items()
            ]
            decay = training.weight_decay * torch.cat(sizes).sum()
        losses.append(float(nll + training.kl * kl + decay.detach()))
        if losses[-1] < training.stop or step == training.steps - 1:
            break
        optimiser.zero_grad()
        torch.autograd.backward([normed, decay], [slope, torch.ones_like(decay)])
        optimiser.step()
        with torch.no_grad():
            for slot, delta in deltas.items():
                largest = training.clamp * base_norms[slot]
                delta.mul_((largest / delta.norm(dim=-1).clamp(min=1e-12)).clamp(max=1)[:, None])
    return Trained(
        {slot: delta.detach() for slot, delta in deltas.items()},
        frozen.written,
        frozen.w_out_keys,
        outputs,
        tuple(losses),
        float((-nll).exp()),
    )


def first_rows(rows: Sequence[Row]) -> list[int]:
    """Returns each group's first row: the output there is v₀, to which the delta is added."""
    groups = [row.group for row in rows]
    return [groups.index(group) for group in range(1 + max(groups))]


@dataclass(frozen=True)
class _Frozen:
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
        at: index of each row's position `pos` among the packed positions.
        written: by slot, the output at `pos` without deltas.
        w_out_keys: by MLP slot, W_out's key at `pos` without deltas.
    """

    layers: range
    resid: Float[Tensor, "token d_model"]
    keys: LayerCache
    values: LayerCache
    mask: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row new"]
    at: Int[Tensor, " row"]
    written: Mapping[Slot, Tensor]
    w_out_keys: Mapping[Slot, Tensor]


@torch.no_grad()
def _freeze(model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot]) -> _Frozen:
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
            w_out_keys[slot] = act[0][is_pos[real]]

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
    return _Frozen(
        layers=above,
        resid=unpacked(resid, real)[from_pos],
        keys=to_right(keys, source),
        values=to_right(values, source),
        mask=torch.cat([is_cached, torch.ones(len(rows), len(new)).to(is_cached)], 1).long(),
        real=new < n_new,
        at=is_pos[from_pos].nonzero()[:, 0],
        written=written,
        w_out_keys=w_out_keys,
    )


def _run_from_slots(
    model: HookedTransformer, frozen: _Frozen, deltas: Mapping[Slot, Float[Tensor, "row d_model"]]
) -> tuple[Float[Tensor, "row new d_model"], Mapping[Slot, Float[Tensor, "row d_model"]]]:
    """Returns the final residuals from each row's `pos` on, and the slots' outputs."""
    outputs: dict[Slot, Tensor] = {}

    def write(layer: int, part: str, raw: Tensor) -> Tensor:
        slot = Slot(layer, part)
        if slot not in deltas:
            return raw
        raw = raw.index_add(0, frozen.at, deltas[slot].to(raw.dtype))
        outputs[slot] = raw.detach()[frozen.at]
        return raw

    resid, _, _ = run_blocks(
        model,
        frozen.layers,
        frozen.resid,
        frozen.keys,
        frozen.values,
        frozen.mask,
        frozen.real,
        write,
    )
    return unpacked(resid, frozen.real), outputs


def _positions_read(
    rows: Sequence[Row], on: torch.device
) -> tuple[Int[Tensor, "2 read"], Int[Tensor, " target"], Float[Tensor, " target"]]:
    """Returns where final residuals are read for the loss.

    These are rows and positions: first one per target token, with its id and its share of the loss;
    then one per row whose distribution should stay the same. Positions are relative to the row's
    `pos`.
    """
    positions, targets, shares = [], [], []
    with_targets = [(number, row) for number, row in enumerate(rows) if row.targets]
    for number, row in with_targets:
        for position, target in enumerate(row.targets, len(row.tokens) - len(row.targets)):
            positions.append((number, position - row.pos))
            targets.append(target)
            shares.append(row.weight / len(row.targets) / len(with_targets))
    positions += [(number, 0) for number, row in enumerate(rows) if not row.targets]
    return (
        torch.tensor(positions, device=on).T,
        torch.tensor(targets, device=on),
        torch.tensor(shares, device=on),
    )
