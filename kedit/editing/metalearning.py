"""Training batches for MEND: makes edits with the network, and measures what they do.

The edits of a batch are independent: each one acts only on the texts of its own exercise. An edit
is not written into the weights. Its rank-one factors are added to what the matrices write. So all
edits of a batch run in one forward, and the gradient reaches the network through the factors.
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


@dataclass(frozen=True)
class Exercise:
    """An edit to train on, and the texts that test it, as token ids.

    Args:
        edits: the edit's prompts and targets.
        wanted: what the edited model should say afterwards: the same prompts in other words.
        staying: texts on which the edited model's distributions should not change.
    """

    edits: tuple[TargetText, ...]
    wanted: tuple[TargetText, ...]
    staying: tuple[Staying, ...]


@dataclass(frozen=True)
class Practised:
    """The losses of a batch of exercises, in nats.

    Args:
        edit: negative log-likelihood of `Exercise.wanted` with the edits: mean over targets of the
            mean over their tokens.
        before: the same without an edit.
        kl: KL(unedited ‖ edited) per token on `Exercise.staying`.
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
    """Makes the edit of each exercise on its own, and measures the losses with it.

    Args:
        edit_weight: weight of the edits' negative log-likelihood relative to the KL (c_e in the
            paper).
        share: factor of this batch's gradients, which are added to the network's; None: no
            gradients are computed.
    """
    first_layer = min(matrix.layer for matrix in network.maps)
    targets = [(n, text) for n, exercise in enumerate(exercises) for text in exercise.wanted]
    staying = [(n, text) for n, exercise in enumerate(exercises) for text in exercise.staying]
    taught = lesson(
        model, first_layer, [text for _, text in targets], [text for _, text in staying]
    )
    n_targets, shares = len(taught.targets), taught.shares
    with torch.no_grad():
        log_probs = unembedded(model, recited(model, taught)).log_softmax(-1)
    before = -log_probs[:n_targets].gather(1, taught.targets[:, None])[:, 0]
    exercise_of = torch.tensor([number for number, _ in targets + staying]).to(taught.at)
    with torch.set_grad_enabled(share is not None):
        changes = network(factors_of(model, network.maps, exercises))
        read = _recited_edited(model, taught, exercise_of, changes)
        n_staying = len(log_probs) - n_targets
        stay_shares = shares.new_full((n_staying,), 1 / max(1, n_staying))
        nll, kl, _, slope = losses_and_slope(
            model, read.detach(), taught.targets, edit_weight * shares, stay_shares,
            log_probs[n_targets:], "before || now",
        )  # fmt: skip
        if share is not None:
            read.backward(share * slope)
    return Practised(
        float((shares * nll).sum()), float((shares * before).sum()), float((stay_shares * kl).sum())
    )


def factors_of(
    model: HookedTransformer, maps: Sequence[LinearMap], exercises: Sequence[Exercise]
) -> dict[LinearMap, Factors]:
    """Returns the factors of each edit's gradient; rows are numbered by exercise."""
    edits = [(number, edit) for number, exercise in enumerate(exercises) for edit in exercise.edits]
    taught = lesson(model, min(matrix.layer for matrix in maps), [edit for _, edit in edits])
    # the loss of each exercise is a mean over its edits, as if it were alone in the batch
    shares = [
        1 / len(edit.target) / len(exercises[n].edits) for n, edit in edits for _ in edit.target
    ]
    taught = replace(taught, shares=torch.tensor(shares).to(taught.shares))
    found, _ = gradient_factors(model, taught, maps)
    exercise_of = torch.tensor([number for number, _ in edits]).to(taught.at)
    return {
        matrix: factors._replace(row=exercise_of[factors.row]) for matrix, factors in found.items()
    }


def _recited_edited(
    model: HookedTransformer,
    taught: Lesson,
    exercise_of: Int[Tensor, " row"],
    changes: Mapping[LinearMap, RowChange],
) -> Float[Tensor, "read d_model"]:
    """Returns what the unembedding reads if each row sees only the edit of its own exercise.

    Args:
        exercise_of: the exercise of each row of the lesson.
        changes: the edits, by matrix.
    """
    exercises = exercise_of[taught.real.nonzero()[:, 0]]  # one per packed token
    read: dict[tuple[int, str], Tensor] = {}
    by_point = {(matrix.layer, matrix.written_at(model)): matrix for matrix in changes}

    def changed(layer: int, part: str, act: Tensor) -> Tensor:
        """Returns what the matrix writes, plus what the edit adds to it."""
        matrix = by_point.get((layer, part))
        if matrix is None:
            return act
        change, keys = changes[matrix], read[layer, READ_AT[matrix.name]]
        # zero for the factors of other exercises' edits; float32, whatever the model's dtype is
        coefficients = keys.reshape(len(exercises), -1).float() @ change.left.T
        coefficients = coefficients * (exercises[:, None] == change.row)
        return act + (coefficients @ change.right).view(act.shape).to(act.dtype)

    def write(layer: int, part: str, act: Tensor) -> Tensor:
        read[layer, part] = act
        return changed(layer, part, act)

    def hooked(layer: int, part: str):
        def hook(act: Tensor, hook: object) -> Tensor:
            at_home = act.to(taught.resid.device)
            return write(layer, part, at_home).to(act.device)

        return hook

    hooks: list[Any] = [
        (get_act_name(part, layer), hooked(layer, part))
        for layer, part in inner_points(model, changes)
    ]
    with model.hooks(fwd_hooks=hooks):
        return recited(model, taught, write)
