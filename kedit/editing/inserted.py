"""Trains the values of an insert while the insert is in place, so that its leaks are trained too.

An insert maps the keys K of a matrix to values V, and changes its output at any other key k by the
share of each value that k gets:

    k D,   D = U V,   U = C⁻¹Kᵀ (K C⁻¹Kᵀ)⁻¹          at the inserted keys, K U = 1

U is known before the values are. So the values can be trained in a model that has the insert
already, at every position: what a prompt says in training is what it says after the edit. Other
editors train outputs at one position, and find out afterwards what the insert does elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.frozen import Frozen, Row, Slot, freeze, run_frozen
from kedit.editing.targets import slot
from kedit.editing.value_losses import loss_parts, losses_of
from kedit.editing.values import Training, sizes_of, step_within
from kedit.editing.write_sites import WriteSite
from kedit.models.prompts import device
from kedit.models.sites import norm


class Insert(NamedTuple):
    """The keys that an edit inserts into one matrix.

    Args:
        shares: U: k @ shares is how much of each value a key k gets.
        norms: of the matrix's output at each inserted key, ‖v₀‖.
        clamps: the largest norm of each value, in units of ‖v₀‖.
    """

    shares: Float[Tensor, "d_key value"]
    norms: Float[Tensor, " value"]
    clamps: Float[Tensor, " value"]


@dataclass(frozen=True)
class Fitted:
    """The result of training.

    Args:
        values: by site, V: what the insert adds at each inserted key.
        losses: the total loss at each evaluation, in nats.
        likelihood: exp of minus the rows' mean negative log-likelihood, at the last evaluation.
    """

    values: Mapping[WriteSite, Float[Tensor, "value d_model"]]
    losses: tuple[float, ...]
    likelihood: float


def fit(
    model: HookedTransformer,
    rows: Sequence[Row],
    inserts: Mapping[WriteSite, Insert],
    training: Training,
) -> Fitted:
    """Trains the values of `inserts` with which the model says the rows' targets.

    Args:
        rows: `pos` is the position from which on the inserts act; `group` is not used.
        training: settings of the training; the inserts have clamps of their own.
    """
    frozen, _ = freeze(model, rows, [slot(site) for site in inserts])
    parts = loss_parts(model, [rows], training.kl, training.words)
    row, position = torch.cat([part.at for part in parts], 1)
    norms = {slot(site): insert.norms for site, insert in inserts.items()}
    largest = {slot(site): insert.clamps * insert.norms for site, insert in inserts.items()}
    values = {
        place: torch.zeros(len(each), model.cfg.d_model, device=device(model), requires_grad=True)
        for place, each in norms.items()
    }
    optimiser = torch.optim.Adam(list(values.values()), lr=training.lr or 1.0)
    losses: list[float] = []
    nll = torch.zeros(1)
    for step in range(training.steps):
        with torch.enable_grad():
            final = _run(model, frozen, inserts, values)
            normed = norm(model.ln_final, final[row, position])
            sizes = [size.sum() for size in sizes_of(values, norms)]
            decay = training.weight_decay * torch.stack(sizes).sum()
        nll, kl, slope = losses_of(model, parts, normed.detach(), 1, training.words)
        losses.append(float(nll + kl + decay.detach()))
        if step == training.steps - 1 or losses[-1] < training.stop:
            break
        optimiser.zero_grad()
        torch.autograd.backward([normed, decay], [slope, torch.ones_like(decay)])
        step_within(optimiser, values, norms, largest, training)
    found = {site: values[slot(site)].detach() for site in inserts}
    return Fitted(found, tuple(losses), float((-nll).exp()))


def _run(
    model: HookedTransformer,
    frozen: Frozen,
    inserts: Mapping[WriteSite, Insert],
    values: Mapping[Slot, Float[Tensor, "value d_model"]],
) -> Float[Tensor, "row new d_model"]:
    """Returns the final residuals from each row's `pos` on, with the inserts in place."""
    keys: dict[Slot, Tensor] = {}
    sites = {slot(site): site for site in inserts}

    def keep_key(place: Slot):
        def hook(act: Tensor, hook: object) -> None:
            keys[place] = act[0].to(frozen.resid.device)

        return sites[place].key_hook, hook

    def write(layer: int, part: str, act: Tensor) -> Tensor:
        if part == "z":
            keys[Slot(layer, "attn")] = act
        place = Slot(layer, part)
        if place not in sites:
            return act
        shares = keys[place].float() @ inserts[sites[place]].shares.float()
        return act + (shares @ values[place]).to(act.dtype)

    # hooked: each family of models computes its neurons in its own way
    with model.hooks(fwd_hooks=[keep_key(place) for place in sites if place.part == "mlp"]):
        return run_frozen(model, frozen, write)[0]
