"""v*: what a site has to write so that the model says the target; one optimiser for all editors.

A delta is added to what a site writes at one position of every row, and trained (Meng et al. 2022,
section 3.1, step 2). Only the layers from the lowest site up are run, from the first written
position on; what stands before is read once and kept, and gradients flow to the deltas alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.metrics import last_logits
from kedit.packed import Kept, is_plain, through, unpacked
from kedit.prompts import device
from kedit.reading import Tokens, padded


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
    """

    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 4.0
    stop: float = 0.05


@dataclass(frozen=True)
class Trained:
    """What to write.

    Args:
        deltas: by slot, one a group.
        written: by slot, what was written without deltas, at each row's position.
        losses: at each evaluation, in nats: all terms together.
        likelihood: exp of minus the rows' mean negative log-likelihood, at the last evaluation.
    """

    deltas: Mapping[Slot, Float[Tensor, "group d_model"]]
    written: Mapping[Slot, Float[Tensor, "row d_model"]]
    losses: tuple[float, ...]
    likelihood: float


def train(
    model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot], training: Training
) -> Trained:
    """Deltas at `slots` under which the rows say their targets.

    Raises:
        InputError: the model has blocks that cannot be differentiated here, or live hooks.
    """
    if not is_plain(model):
        raise InputError(
            f"{model.cfg.original_architecture}: editing needs softmax attention without further "
            "ado (no soft cap, no ALiBi) and a model without live hooks"
        )
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
    losses: list[float] = []
    stay: Tensor | None = None
    nll = torch.zeros(())
    for step in range(training.steps):
        with torch.enable_grad():
            final = _upward(model, start, {slot: delta[group_of] for slot, delta in deltas.items()})
            nll = _nll(model, rows, start, final)
            drifted = _log_distribution(model, rows, start, final)
            loss = nll
            if drifted is not None:
                stay = drifted.detach() if stay is None else stay  # δ is zero at first
                kl = (drifted.exp() * (drifted - stay)).sum(-1).mean()
                loss = loss + training.kl * kl
            for slot, delta in deltas.items():
                # the norm of a zero vector has no gradient
                size = (delta.square().sum(-1) + 1e-12).sqrt()
                loss = loss + training.weight_decay * (size / norms[slot] ** 2).sum()
        losses.append(float(loss.detach()))
        if losses[-1] < training.stop or step == training.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slot, delta in deltas.items():
                largest = training.clamp * norms[slot]
                delta.mul_((largest / delta.norm(dim=-1).clamp(min=1e-12)).clamp(max=1)[:, None])
    return Trained(
        {slot: delta.detach() for slot, delta in deltas.items()},
        start.written,
        tuple(losses),
        float((-nll.detach()).exp()),
    )


def first_rows(rows: Sequence[Row]) -> list[int]:
    """The first row of each group: what is written there is v₀, to which the group's delta adds."""
    numbers = [row.group for row in rows]
    return [numbers.index(group) for group in range(1 + max(numbers))]


@dataclass(frozen=True)
class _Start:
    """Everything below and before the deltas."""

    layers: range  # that are run at every step
    resid: Float[Tensor, "token d_model"]  # before the first of them, packed, from `first` on
    keys: Kept
    values: Kept
    mask: Int[Tensor, "row pos"]
    real: Tensor
    at: Int[Tensor, " row"]  # each row's written position among the packed tokens
    written: Mapping[Slot, Tensor]
    n_before: int


@torch.no_grad()
def _start(model: HookedTransformer, rows: Sequence[Row], slots: Sequence[Slot]) -> _Start:
    place, n_layers = device(model), model.cfg.n_layers
    lowest = min(slot.layer for slot in slots)
    tokens = padded([row.tokens for row in rows], place)
    lengths = torch.tensor([len(row.tokens) for row in rows], device=place)
    positions = torch.arange(tokens.shape[1], device=place)
    real = positions < lengths[:, None]
    mask = torch.ones_like(tokens)
    resid = model.embed(tokens[real])
    if model.cfg.positional_embedding_type == "standard":
        resid = resid + model.pos_embed(tokens, 0, mask)[real]
    heads = (len(rows), 0, model.cfg.n_key_value_heads or model.cfg.n_heads, model.cfg.d_head)
    nothing = tuple(resid.new_empty(heads) for _ in range(n_layers))
    below, above = range(lowest), range(lowest, n_layers)
    resid, _, _ = through(model, below, resid, nothing[:lowest], nothing[:lowest], mask, real)
    here = torch.zeros_like(real)
    here[range(len(rows)), [row.pos for row in rows]] = True
    written: dict[Slot, Tensor] = {}

    def keep(layer: int, part: str, raw: Tensor) -> Tensor:
        if Slot(layer, part) in slots:
            written[Slot(layer, part)] = raw[here[real]]
        return raw

    past = nothing[lowest:]
    _, keys, values = through(model, above, resid, past, past, mask, real, keep)
    first = min(row.pos for row in rows)
    behind = real & (positions >= first)
    return _Start(
        layers=above,
        resid=unpacked(resid, real)[behind],
        keys=tuple(layer[:, :first] for layer in keys),
        values=tuple(layer[:, :first] for layer in values),
        mask=mask,
        real=behind[:, first:],
        at=here[behind].nonzero()[:, 0],
        written=written,
        n_before=first,
    )


def _upward(
    model: HookedTransformer, start: _Start, deltas: Mapping[Slot, Float[Tensor, "row d_model"]]
) -> Float[Tensor, "row new d_model"]:
    """Final residuals from the first written position on, with each row's deltas written."""

    def write(layer: int, part: str, raw: Tensor) -> Tensor:
        delta = deltas.get(Slot(layer, part))
        return raw if delta is None else raw.index_add(0, start.at, delta.to(raw.dtype))

    resid, _, _ = through(
        model, start.layers, start.resid, start.keys, start.values, start.mask, start.real, write
    )
    return unpacked(resid, start.real)


def _nll(
    model: HookedTransformer, rows: Sequence[Row], start: _Start, final: Tensor
) -> Float[Tensor, ""]:
    """Mean over rows of their targets' mean negative log-likelihood, in nats."""
    places, targets, shares = [], [], []
    wanted = [(number, row) for number, row in enumerate(rows) if row.targets]
    for number, row in wanted:
        for step, target in enumerate(row.targets, len(row.tokens) - len(row.targets)):
            places.append((number, step - start.n_before))
            targets.append(target)
            shares.append(row.weight / len(row.targets) / len(wanted))
    index, at = torch.tensor(places, device=final.device).T
    logprobs = last_logits(model, final[index, at]).log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(targets, device=final.device)[:, None])[:, 0]
    return -(chosen * torch.tensor(shares, device=final.device)).sum()


def _log_distribution(
    model: HookedTransformer, rows: Sequence[Row], start: _Start, final: Tensor
) -> Float[Tensor, "row vocab"] | None:
    """Log-probabilities at the written position of the rows without targets."""
    places = [(n, row.pos - start.n_before) for n, row in enumerate(rows) if not row.targets]
    if not places:
        return None
    index, at = torch.tensor(places, device=final.device).T
    return last_logits(model, final[index, at]).log_softmax(-1)
