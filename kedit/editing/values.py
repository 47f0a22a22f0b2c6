"""Trains v*: what a write site should write so that the model says the target. All editors use it.

A delta is added to what a site writes at one position of every row, and trained with Adam (Meng et
al. 2022, section 3.1, step 2). A step runs only what the deltas can change: see
`kedit.editing.frozen`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.attention_drift import AttentionDrift, attention_drift
from kedit.editing.frozen import FromSlots, Frozen, Row, Slot, freeze, run_from_slots
from kedit.editing.value_losses import LossPart, loss_parts, losses_of
from kedit.forward.packed import require_plain
from kedit.forward.patched import max_tokens
from kedit.models.prompts import device
from kedit.models.sites import norm
from kedit.progress import progress

# The longest first step of a delta, in units of ‖v₀‖, where Training.lr is None. The lr of 0.3 that
# was tuned on Gemma 3 270M gives 1.6 for ROME, and 1.3 and 1.5 for W_out and W_O of layer 11
# (medians over 40 built-in cases); a third of this needs no more steps on Gemma and SmolLM2 135M,
# and is as good for a residual, which is longer than an MLP's output.
STEP = 0.5
SlotOrHook = TypeVar("SlotOrHook")  # what names the place of deltas


@dataclass(frozen=True)
class Training:
    """Settings for training a delta. The defaults are ROME's for GPT-2 XL.

    Args:
        steps: largest number of evaluations; each is followed by a gradient step, except the last.
        lr: Adam's learning rate; None: STEP / sqrt(d_model) of the norm ‖v₀‖ of each delta's own
            output without δ, so that it suits any scale of outputs.
        weight_decay: weight of ‖δ‖ / ‖v₀‖² in the loss, where v₀ is the output without δ.
        kl: weight of KL(edited ‖ unedited) on rows whose distribution should stay the same.
        clamp: upper bound for ‖δ‖, in units of ‖v₀‖.
        stop: the loss, in nats, below which training ends.
        attention_kl: weight of the KL between each head's attention before and now, from the last
            token of a row's prompt (see `kedit.editing.attention_drift`).
        words: 0: the softmax is over the whole vocabulary, as published. Otherwise it is over the
            targets and this number of the likeliest tokens at each position that is read. With a
            large vocabulary, a small number makes steps much faster.
    """

    steps: int = 20
    lr: float | None = 0.5
    weight_decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 4.0
    stop: float = 0.05
    attention_kl: float = 0.0
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
    return train_all(model, [rows], slots, training)[0]


def train_all(
    model: HookedTransformer,
    problems: Sequence[Sequence[Row]],
    slots: Sequence[Slot],
    training: Training,
) -> list[Trained]:
    """Trains the deltas of each problem, as `train` would alone, up to rounding.

    Problems share their forwards, as many together as fit in memory; on a CPU fewer, because larger
    batches are not faster. A problem whose training has ended leaves its batch.

    Args:
        problems: the rows of each; groups are counted in each problem anew.

    Raises:
        InputError: see `train`.
    """
    require_plain(model)
    longest = max((len(row.tokens) for rows in problems for row in rows), default=0)
    # a step keeps what each of its layers computes, for the gradient
    room = max_tokens(model, longest) // (model.cfg.n_layers - min(slot.layer for slot in slots))
    batches: list[list[Sequence[Row]]] = []
    n_tokens = 0
    for rows in problems:
        n_own = sum(len(row.tokens) for row in rows)
        if not batches or n_tokens + n_own > room:
            batches.append([])
            n_tokens = 0
        batches[-1].append(rows)
        n_tokens += n_own
    trained: list[Trained] = []
    with progress("edits") as bars:
        bar = bars.add_task("training values", total=len(problems))
        for batch in batches:
            trained += _train_batch(model, batch, slots, training)
            bars.update(bar, completed=len(trained))
    return trained


def first_rows(rows: Sequence[Row]) -> list[int]:
    """Returns each group's first row: the output there is v₀, to which the delta is added."""
    groups = [row.group for row in rows]
    return [groups.index(group) for group in range(1 + max(groups))]


@dataclass(frozen=True)
class _Batch:
    """The rows of the problems that are being trained.

    Args:
        frozen: what the deltas cannot change.
        problem: the number of each row's problem.
        delta: the index of each row's delta among those of all problems.
        parts: where final residuals are read.
        drift: the attention that should stay; None if it may change.
    """

    frozen: Frozen
    problem: Int[Tensor, " row"]
    delta: Int[Tensor, " row"]
    parts: Sequence[LossPart]
    drift: AttentionDrift | None

    def only(self, kept: Bool[Tensor, " row"]) -> "_Batch":
        """Returns the same for the rows at which `kept` is true."""
        parts = [part.only(kept) for part in self.parts]
        parts = [part for part in parts if len(part.problem)]
        drift = self.drift.only(kept) if self.drift else None
        return _Batch(self.frozen.only(kept), self.problem[kept], self.delta[kept], parts, drift)


def _train_batch(
    model: HookedTransformer,
    problems: Sequence[Sequence[Row]],
    slots: Sequence[Slot],
    training: Training,
) -> list[Trained]:
    """Trains problems that share their forwards.

    The deltas of all problems are rows of one tensor per slot. Adam, the weight decay and the clamp
    treat each number or each delta alone, so those of problems that have ended do not matter.
    """
    on = device(model)
    rows = _renumbered(problems)
    frozen, clean = freeze(model, rows, slots)
    problem = torch.tensor([n for n, own in enumerate(problems) for _ in own], device=on)
    delta_of = torch.tensor([row.group for row in rows], device=on)
    drift = attention_drift(problems, training.attention_kl, on) if training.attention_kl else None
    parts = loss_parts(model, problems, training.kl, training.words)
    batch = _Batch(frozen, problem, delta_of, parts, drift)
    firsts = first_rows(rows)
    owner = problem[firsts]  # of each delta
    base_norms = {slot: clean.written[slot][firsts].norm(dim=-1) for slot in slots}
    largest = {slot: training.clamp * norms for slot, norms in base_norms.items()}
    deltas = {
        slot: torch.zeros(len(firsts), model.cfg.d_model, device=on, requires_grad=True)
        for slot in slots
    }
    optimiser = torch.optim.Adam(list(deltas.values()), lr=training.lr or 1.0)
    losses: list[list[float]] = []  # by step, of each problem
    trained: dict[int, Trained] = {}
    running = list(range(len(problems)))
    for step in range(training.steps):
        with torch.enable_grad():
            normed, ran = _read(model, batch, deltas)
            decay = training.weight_decay * torch.stack(sizes_of(deltas, base_norms)).sum(0)
            drifted = torch.zeros(len(problems), device=on)
            if batch.drift and ran.attention is not None:
                drifted = batch.drift.losses(ran.attention, batch.frozen.n_cached, len(problems))
            penalty = torch.cat([decay, drifted])
        nll, kl, slope = losses_of(
            model, batch.parts, normed.detach(), len(problems), training.words
        )
        losses.append((nll + kl + drifted.detach()).index_add(0, owner, decay.detach()).tolist())
        is_last = step == training.steps - 1
        ended = [number for number in running if is_last or losses[-1][number] < training.stop]
        for number in ended:
            trained[number] = Trained(
                {slot: delta.detach()[owner == number] for slot, delta in deltas.items()},
                {slot: acts[problem == number] for slot, acts in clean.written.items()},
                {slot: acts[problem == number] for slot, acts in clean.keys.items()},
                {slot: acts[batch.problem == number] for slot, acts in ran.outputs.items()},
                tuple(of_step[number] for of_step in losses),
                float((-nll[number]).exp()),
            )
            running.remove(number)
        if not running:
            break
        optimiser.zero_grad()
        torch.autograd.backward([normed, penalty], [slope, torch.ones_like(penalty)])
        step_within(optimiser, deltas, base_norms, largest, training)
        if ended:
            batch = batch.only(torch.isin(batch.problem, torch.tensor(running, device=on)))
    return [trained[number] for number in range(len(problems))]


def sizes_of(
    deltas: Mapping[SlotOrHook, Float[Tensor, "_ d_model"]],
    base_norms: Mapping[SlotOrHook, Float[Tensor, " _"]],
) -> list[Float[Tensor, " _"]]:
    """Returns ‖δ‖ / ‖v₀‖² of the deltas of each place, which the weight decay multiplies."""
    # 1e-12: deltas start at zero, where the norm has no gradient
    return [
        (delta.square().sum(-1) + 1e-12).sqrt() / base_norms[place] ** 2
        for place, delta in deltas.items()
    ]


@torch.no_grad()
def step_within(
    optimiser: torch.optim.Adam,
    deltas: Mapping[SlotOrHook, Float[Tensor, "_ d_model"]],
    base_norms: Mapping[SlotOrHook, Float[Tensor, " _"]],
    largest: Mapping[SlotOrHook, Float[Tensor, " _"]],
    training: Training,
) -> None:
    """Makes Adam's step, then shortens each delta that is longer than its `largest` norm."""
    if training.lr is None:
        _step_each(optimiser, deltas, base_norms)
    else:
        optimiser.step()
    for place, delta in deltas.items():
        norms = delta.norm(dim=-1).clamp(min=1e-12)
        delta.mul_((largest[place] / norms).clamp(max=1)[:, None])


@torch.no_grad()
def _step_each(
    optimiser: torch.optim.Adam,
    deltas: Mapping[SlotOrHook, Float[Tensor, "delta d_model"]],
    base_norms: Mapping[SlotOrHook, Float[Tensor, " delta"]],
) -> None:
    """Makes Adam's step with a rate for each delta: STEP / sqrt(d_model) of its ‖v₀‖.

    Adam has one rate per tensor, and its step is proportional to this rate. So the optimiser's own
    rate is 1, and each delta goes only its share of the way.
    """
    before = {place: delta.clone() for place, delta in deltas.items()}
    optimiser.step()
    for place, delta in deltas.items():
        rate = STEP / delta.shape[-1] ** 0.5 * base_norms[place]
        delta.copy_(before[place].lerp(delta, rate[:, None].to(delta.dtype)))


def _renumbered(problems: Sequence[Sequence[Row]]) -> list[Row]:
    """Returns the rows of all problems, with groups that differ between problems."""
    rows: list[Row] = []
    for own in problems:
        start = 1 + max((row.group for row in rows), default=-1)
        rows += [replace(row, group=start + row.group) for row in own]
    return rows


def _read(
    model: HookedTransformer, batch: _Batch, deltas: Mapping[Slot, Float[Tensor, "delta d_model"]]
) -> tuple[Float[Tensor, "read d_model"], FromSlots]:
    """Returns the final residuals after ln_final where they are read, and the whole run."""
    added = {slot: delta[batch.delta] for slot, delta in deltas.items()}
    ran = run_from_slots(model, batch.frozen, added, batch.drift and batch.drift.at)
    row, position = torch.cat([part.at for part in batch.parts], 1)
    return norm(model.ln_final, ran.final[row, position]), ran
