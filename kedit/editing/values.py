"""Trains v*: what a write site should write so that the model says the target. All editors use it.

A delta is added to what a site writes at one position of every row, and trained with Adam (Meng et
al. 2022, section 3.1, step 2). A step runs only what the deltas can change: see
`kedit.editing.frozen`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.frozen import Row, Slot, freeze, run_from_slots
from kedit.forward.metrics import Vocabulary, likeliest, losses_and_slope
from kedit.forward.packed import require_plain
from kedit.models.prompts import device
from kedit.models.sites import norm


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
    frozen = freeze(model, rows, slots)
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
            final, outputs = run_from_slots(model, frozen, added)
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
