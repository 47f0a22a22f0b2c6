"""v*: what a site has to write so that the model says the target; one optimiser for all editors.

A delta is added to what a site writes at one position of every row, and trained (Meng et al. 2022,
section 3.1, step 2). Only the layers from the lowest site up are run, in every row from its
written position on; what stands before is read once and kept, and gradients flow to the deltas
alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
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
    """Where a delta enters: a layer's raw MLP or attention output, or the residual behind it.

    A raw output is what an edit of W_out or W_O can reach through any post-norm; MEMIT optimises
    the residual instead.
    """

    layer: int
    part: str  # "mlp", "attn" or "resid"


@dataclass(frozen=True)
class Row:
    """A text and what is wanted of it.

    Args:
        tokens: the prompt and, for targets of several tokens, all of the target but its last.
        pos: where the deltas enter.
        group: rows of one group share their deltas (the same key cannot write two things).
        targets: token ids wanted after the last len(targets) positions; none for a row whose
            next-token distribution at `pos` is to stay (the KL term).
        weight: of the row's negative log-likelihood in the mean over rows with targets.
    """

    tokens: Tokens
    pos: int
    group: int = 0
    targets: Tokens = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Training:
    """How a delta is trained; the defaults are ROME's for GPT-2 XL.

    Args:
        steps: gradient steps at most (evaluations: the last one does not step).
        lr: of Adam.
        weight_decay: of ‖δ‖ / ‖v₀‖², v₀ being what was written before.
        kl: of KL(edited ‖ unedited) where the distribution is to stay.
        clamp: ‖δ‖ at most, in units of ‖v₀‖.
        stop: the loss at which training ends.
        words: tokens that share all probability while training: so many of the likeliest at each
            place that is read, and the targets; 0 for the whole vocabulary, as published. With few
            a step takes a fraction of the time where a vocabulary is large.
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
    """What to write.

    Args:
        deltas: by slot, one a group.
        written: by slot, what was written without deltas, at each row's position.
        wanted: by slot, what is written there with all deltas in place: at slots above others it is
            not `written` and the slot's delta, for they read what those below them bring.
        losses: at each evaluation, in nats: all terms together.
        likelihood: exp of minus the rows' mean negative log-likelihood, at the last evaluation.
    """

    deltas: Mapping[Slot, Float[Tensor, "group d_model"]]
    written: Mapping[Slot, Float[Tensor, "row d_model"]]
    wanted: Mapping[Slot, Float[Tensor, "row d_model"]]
    losses: tuple[float, ...]
    likelihood: float


def train(
    model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot], training: Training
) -> Trained:
    """Deltas at `slots` under which the rows say their targets.

    Raises:
        InputError: the model has blocks that cannot be differentiated here, or live hooks.
    """
    require_plain(model)
    start = _start(model, rows, slots)
    n_groups = 1 + max(row.group for row in rows)
    group_of = torch.tensor([row.group for row in rows], device=device(model))
    firsts = first_rows(rows)
    norms = {slot: start.written[slot][firsts].norm(dim=-1) for slot in slots}
    deltas = {
        slot: torch.zeros(n_groups, model.cfg.d_model, device=device(model), requires_grad=True)
        for slot in slots
    }
    optimiser = torch.optim.Adam(list(deltas.values()), lr=training.lr)
    (index, at), targets, shares = _asked(rows, device(model))
    losses: list[float] = []
    stay: Tensor | None = None
    words: Vocabulary | None = None
    nll, wanted = torch.zeros(()), start.written
    for step in range(training.steps):
        with torch.enable_grad():
            added = {slot: delta[group_of] for slot, delta in deltas.items()}
            final, wanted = _upward(model, start, added)
            read = norm(model.ln_final, final[index, at])
            if training.words and words is None:
                words = likeliest(model, read.detach(), targets, training.words)
            each, kl, stay, slope = losses_and_slope(
                model, read.detach(), targets, shares, training.kl, stay, among=words
            )
            nll = (shares * each).sum()
            # the norm of a zero vector has no gradient
            sizes = [
                (delta.square().sum(-1) + 1e-12).sqrt() / norms[slot] ** 2
                for slot, delta in deltas.items()
            ]
            decay = training.weight_decay * torch.cat(sizes).sum()
        losses.append(float(nll + training.kl * kl + decay.detach()))
        if losses[-1] < training.stop or step == training.steps - 1:
            break
        optimiser.zero_grad()
        torch.autograd.backward([read, decay], [slope, torch.ones_like(decay)])
        optimiser.step()
        with torch.no_grad():
            for slot, delta in deltas.items():
                largest = training.clamp * norms[slot]
                delta.mul_((largest / delta.norm(dim=-1).clamp(min=1e-12)).clamp(max=1)[:, None])
    return Trained(
        {slot: delta.detach() for slot, delta in deltas.items()},
        start.written,
        wanted,
        tuple(losses),
        float((-nll).exp()),
    )


def first_rows(rows: Sequence[Row]) -> list[int]:
    """The first row of each group: what is written there is v₀, to which the group's delta adds."""
    numbers = [row.group for row in rows]
    return [numbers.index(group) for group in range(1 + max(numbers))]


@dataclass(frozen=True)
class _Start:
    """Everything below and before the deltas."""

    layers: range  # that are run at every step
    resid: Float[Tensor, "token d_model"]  # before the first of them, from the deltas on, packed
    # of the tokens before the deltas, aligned at the right edge: rows are written side by side
    keys: LayerCache
    values: LayerCache
    mask: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row new"]
    at: Int[Tensor, " row"]  # each row's written position among the packed tokens
    written: Mapping[Slot, Tensor]


@torch.no_grad()
def _start(model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot]) -> _Start:
    place, n_layers = device(model), model.cfg.n_layers
    lowest = min(slot.layer for slot in slots)
    above = range(lowest, n_layers)
    resid, mask, real = run_first_layers(model, [row.tokens for row in rows], lowest)
    pos = torch.tensor([[row.pos] for row in rows], device=place)
    positions = torch.arange(real.shape[1], device=place)
    here = positions == pos
    written: dict[Slot, Tensor] = {}

    def keep(layer: int, part: str, raw: Tensor) -> Tensor:
        if Slot(layer, part) in slots:
            written[Slot(layer, part)] = raw[here[real]]
        return raw

    past = empty_cache(model, len(rows), above)
    _, keys, values = run_blocks(model, above, resid, past, past, mask, real, keep)
    n_before, behind = int(pos.max()), real & (positions >= pos)
    n_new = behind.sum(1, keepdim=True)
    # to the right edge, behind a gap that repeats the start
    columns = torch.arange(n_before, device=place)
    source = (columns - (n_before - pos)).clamp(min=0)
    new = torch.arange(int(n_new.max()), device=place)
    before = columns >= n_before - pos
    return _Start(
        layers=above,
        resid=unpacked(resid, real)[behind],
        keys=to_right(keys, source),
        values=to_right(values, source),
        mask=torch.cat([before, torch.ones(len(rows), len(new)).to(before)], 1).long(),
        real=new < n_new,
        at=here[behind].nonzero()[:, 0],
        written=written,
    )


def _upward(
    model: HookedTransformer, start: _Start, deltas: Mapping[Slot, Float[Tensor, "row d_model"]]
) -> tuple[Float[Tensor, "row new d_model"], Mapping[Slot, Float[Tensor, "row d_model"]]]:
    """Final residuals from each row's written position on, and what is written at each slot."""
    wanted: dict[Slot, Tensor] = {}

    def write(layer: int, part: str, raw: Tensor) -> Tensor:
        slot = Slot(layer, part)
        if slot not in deltas:
            return raw
        raw = raw.index_add(0, start.at, deltas[slot].to(raw.dtype))
        wanted[slot] = raw.detach()[start.at]
        return raw

    resid, _, _ = run_blocks(
        model, start.layers, start.resid, start.keys, start.values, start.mask, start.real, write
    )
    return unpacked(resid, start.real), wanted


def _asked(
    rows: Sequence[Row], place: torch.device
) -> tuple[Int[Tensor, "2 asked"], Int[Tensor, " target"], Float[Tensor, " target"]]:
    """Which final residuals are read: their rows and positions, for every target token with its
    id and its share of the loss; then those of the rows that are to stay.
    """
    places, targets, shares = [], [], []
    wanted = [(number, row) for number, row in enumerate(rows) if row.targets]
    for number, row in wanted:
        for step, target in enumerate(row.targets, len(row.tokens) - len(row.targets)):
            places.append((number, step - row.pos))
            targets.append(target)
            shares.append(row.weight / len(row.targets) / len(wanted))
    places += [(number, 0) for number, row in enumerate(rows) if not row.targets]
    return (
        torch.tensor(places, device=place).T,
        torch.tensor(targets, device=place),
        torch.tensor(shares, device=place),
    )
