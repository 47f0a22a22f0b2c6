"""What a hypernetwork learns from: edits that are made on the fly, and what they should do.

Edits of a batch do not meet: each is seen by its own texts only. It is not written into the
weights but added to what they write, by its rank-one factors, so that all edits of a batch run
together and the gradient reaches the network through the factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.factors import READ_AT, Factors, LinearMap, gradient_factors, inner_points
from kedit.editing.hypernetwork import Hypernetwork, RowChange
from kedit.editing.teaching import Lesson, Staying, TargetText, lesson, recited
from kedit.forward.metrics import losses_and_slope, unembedded
from kedit.forward.packed import Part


@dataclass(frozen=True)
class Exercise:
    """An edit to practise, as token ids.

    Args:
        edits: what is asked of the editor.
        wanted: what the edited model should say then (the same prompt in other words).
        staying: where it should say what it said before.
    """

    edits: tuple[TargetText, ...]
    wanted: tuple[TargetText, ...]
    staying: tuple[Staying, ...]


@dataclass(frozen=True)
class Practised:
    """Losses of a batch of exercises, in nats.

    Args:
        edit: nll of what is wanted, a mean over targets of the mean over their tokens.
        before: the same without an edit.
        kl: KL(unedited ‖ edited) a token of what should stay.
    """

    edit: float
    before: float
    kl: float


def practise(
    model: HookedTransformer,
    network: Hypernetwork,
    exercises: Sequence[Exercise],
    edit_weight: float = 0.1,
    share: float | None = None,
) -> Practised:
    """Makes all edits, each by itself, and looks what they do.

    Args:
        edit_weight: of the edits' nll against the KL of what should stay (c_e in the paper).
        share: times which the loss's gradients are added to the network's; None: they are not
            worked out.
    """
    lowest = min(one.layer for one in network.maps)
    wanted = [(number, one) for number, each in enumerate(exercises) for one in each.wanted]
    staying = [(number, one) for number, each in enumerate(exercises) for one in each.staying]
    taught = lesson(model, lowest, [one for _, one in wanted], [one for _, one in staying])
    n_targets, shares = len(taught.targets), taught.shares
    with torch.no_grad():
        plain = unembedded(model, recited(model, taught)).log_softmax(-1)
    before = -plain[:n_targets].gather(1, taught.targets[:, None])[:, 0]
    numbers = torch.tensor([number for number, _ in wanted + staying]).to(taught.at)
    with torch.set_grad_enabled(share is not None):
        changes = network(factors_of(model, network.maps, exercises))
        read = _recited_with(model, taught, numbers, changes)
        each, kl, _, slope = losses_and_slope(
            model, read.detach(), taught.targets, edit_weight * shares, 1.0, plain[n_targets:],
            "before || now",
        )  # fmt: skip
        if share is not None:
            read.backward(share * slope)
    return Practised(float((shares * each).sum()), float((shares * before).sum()), float(kl))


def factors_of(
    model: HookedTransformer, maps: Sequence[LinearMap], exercises: Sequence[Exercise]
) -> dict[LinearMap, Factors]:
    """Of the gradients of all edits, each by itself; rows are numbered by exercise."""
    edits = [(number, one) for number, each in enumerate(exercises) for one in each.edits]
    taught = lesson(model, min(one.layer for one in maps), [one for _, one in edits])
    # every exercise's own loss is a mean over its own edits, as if it stood alone
    own = [1 / len(one.target) / len(exercises[n].edits) for n, one in edits for _ in one.target]
    taught = replace(taught, shares=torch.tensor(own).to(taught.shares))
    found, _ = gradient_factors(model, taught, maps)
    numbers = torch.tensor([number for number, _ in edits]).to(taught.at)
    return {one: each._replace(row=numbers[each.row]) for one, each in found.items()}


def _recited_with(
    model: HookedTransformer,
    taught: Lesson,
    numbers: Int[Tensor, " row"],
    changes: Mapping[LinearMap, RowChange],
) -> Float[Tensor, "read d_model"]:
    """What the unembedding reads where each row meets the edit of its own exercise only.

    Args:
        numbers: the exercise of each row of the lesson.
    """
    own = numbers[taught.real.nonzero()[:, 0]]  # of each packed token
    read: dict[tuple[int, str], Tensor] = {}
    by_place = {(one.layer, one.written_at(model)): one for one in changes}

    def changed(layer: int, part: str, there: Tensor) -> Tensor:
        """What is written, with what the edit adds to it."""
        one = by_place.get((layer, part))
        if one is None:
            return there
        change, keys = changes[one], read[layer, READ_AT[one.name]]
        met = (keys.reshape(len(own), -1) @ change.left.T) * (own[:, None] == change.row)
        return there + (met @ change.right).view(there.shape)

    def write(layer: int, part: Part, there: Tensor) -> Tensor:
        read[layer, part] = there
        return changed(layer, part, there)

    def hooked(layer: int, part: str):
        def hook(act: Tensor, hook: object) -> Tensor:
            read[layer, part] = act
            return changed(layer, part, act)

        return hook

    hooks: list[Any] = [
        (get_act_name(part, layer), hooked(layer, part))
        for layer, part in inner_points(model, changes)
    ]
    with model.hooks(fwd_hooks=hooks):
        return recited(model, taught, write)
