"""Marks edits as failed that change nothing, are not finite, or double held-out perplexity.

Also refuses what no editor can edit: models without usable gradients, and contradicting requests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, PreparedEditor
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.kept import KeptStates
from kedit.forward.packed import require_plain
from kedit.forward.reading import Tokens, read
from kedit.models.masked import AnyModel, is_masked
from kedit.models.prompts import prompt_ids
from kedit.models.sites import require_gradients, require_unhooked
from kedit.progress import working
from kedit.scoring.drift import Baseline, Drift, drift

On = TypeVar("On", bound=Callable[[Any, Any], PreparedEditor])  # an editor's `on`
BLOWN_UP = 2.0  # perplexity after / before, above which the edit counts as having broken the model


def guarded(on: On) -> On:
    """Wraps an editor's `on` so that it first refuses what no editor can edit.

    This is a model whose gradients cannot be computed here, no request at all, or requests that
    contradict each other.
    """

    @wraps(on)
    def checking(editor: Any, model: AnyModel) -> PreparedEditor:
        _require_editable(model)
        if is_masked(model) and not getattr(editor, "edits_masked", False):
            name = type(editor).__name__
            raise InputError(f"{name} cannot edit BERT and T5: use rome or joint")
        make = on(editor, model)

        def edits(requests: Sequence[EditRequest]) -> Edit:
            _require_editable(model)
            if not requests:
                raise InputError("there is no request: at least one is needed")
            require_consistent(model, requests, removal=getattr(editor, "removal", True))
            count = f"{len(requests)} requests" if len(requests) > 1 else "a request"
            with working(f"editing {count} by {type(editor).__name__}"):
                return make(requests)

        return edits

    return cast(On, checking)


def _require_editable(model: AnyModel) -> None:
    """Raises InputError if the model's gradients cannot be computed, or hooks are live."""
    if is_masked(model):
        require_gradients(model)
        require_unhooked(model)
    else:
        require_plain(model)


def require_consistent(
    model: AnyModel, requests: Sequence[EditRequest], removal: bool = True
) -> None:
    """Raises InputError if two requests have different targets after the same prompt; names both.

    Args:
        removal: whether the removals of relation edits are part of the edit too.
    """
    demands: dict[Tokens | str, Demand] = {}
    for request in requests:
        for demand in request.demands if removal else request.demands[:1]:
            prompt = demand.fact.prompt
            key = prompt if is_masked(model) else prompt_ids(model, prompt)
            first = demands.setdefault(key, demand)
            if first.target.strip() != demand.target.strip():
                raise InputError(
                    f"two requests contradict each other: after {prompt!r} the model should say "
                    f"both {first.target!r} and {demand.target!r}: leave one of them out"
                )


@dataclass(frozen=True)
class Checked:
    """The result of `checked`: whether an edit failed, and what it did to held-out text.

    Args:
        trouble: why it must not count as a success; "" if nothing is wrong with it.
        drift: on held-out text; None if the edit could not be applied.
    """

    trouble: str
    drift: Drift | None


def checked(
    model: HookedTransformer,
    edit: Edit,
    requests: Sequence[EditRequest],
    before: Baseline,
    blown_up: float = BLOWN_UP,
    kept: KeptStates | None = None,
) -> Checked:
    """Applies `edit` to the model it was made for, measures what it does, and removes it again.

    The edit is in trouble if it is not finite, moves no weight, moves no logit after any prompt it
    was made for, or raises the perplexity of held-out text to more than `blown_up` times its value
    before.

    Args:
        requests: those the edit was made for.
        before: the unedited model's result on held-out text.
        blown_up: perplexity after over perplexity before.
        kept: states of the prompts and of the text in the layers below the lowest edited one.
    """
    prompts = [demand.fact.prompt for request in requests for demand in request.demands]
    unedited = _last(model, prompts, kept)
    try:
        n_moved = sum(edit.n_moved(model).values())
    except InputError as error:
        return Checked(str(error), None)
    if not n_moved:
        return Checked("it moves no weight: its deltas are rounded away", None)
    with edit.applied(model):
        edited, drifted = _last(model, prompts, kept), drift(model, before, kept)
    if not edited.isfinite().all():
        return Checked("logits are no longer finite", drifted)
    # `_last` reads the residual stream before these, so it cannot show what they change
    after_blocks = any(name.startswith(("ln_final.", "unembed.")) for name in edit.deltas)
    if torch.equal(edited, unedited) and not after_blocks:
        return Checked("it moves no logit after the prompts it was made for", drifted)
    ppl_before, ppl_after = drifted.perplexity
    if not math.isfinite(ppl_after) or ppl_after > blown_up * ppl_before:
        return Checked(f"perplexity {ppl_before:.4g} has become {ppl_after:.4g}", drifted)
    return Checked("", drifted)


@torch.no_grad()
def _last(
    model: HookedTransformer, prompts: Sequence[str], kept: KeptStates | None
) -> Float[Tensor, "prompt d_model"]:
    """Returns the final residual after each prompt, bit for bit the same at every call."""
    return read(model, [prompt_ids(model, text) for text in prompts], kept).last
