"""Rails: an edit that is no edit, or wrecks the model, is called so before anyone counts it."""

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
from kedit.forward.packed import require_plain
from kedit.forward.reading import Tokens, read
from kedit.models.prompts import prompt_ids
from kedit.progress import working
from kedit.scoring.drift import Baseline, Drift, drift

On = TypeVar("On", bound=Callable[[Any, HookedTransformer], PreparedEditor])  # an editor's `on`
BLOWN_UP = 2.0  # times the perplexity before: text is no longer what it was


def guarded(on: On) -> On:
    """`on` of an editor, which first refuses what no editor can edit.

    A model whose gradients are not to be had here, and requests that contradict each other.
    """

    @wraps(on)
    def refusing(editor: Any, model: HookedTransformer) -> PreparedEditor:
        require_plain(model)
        make = on(editor, model)

        def edits(requests: Sequence[EditRequest]) -> Edit:
            require_plain(model)
            require_consistent(model, requests, removal=getattr(editor, "removal", True))
            number = f"{len(requests)} requests" if len(requests) > 1 else "a request"
            with working(f"editing {number} by {type(editor).__name__}"):
                return make(requests)

        return edits

    return cast(On, refusing)


def require_consistent(
    model: HookedTransformer, requests: Sequence[EditRequest], removal: bool = True
) -> None:
    """Raises InputError where two targets are wanted after one prompt; names both.

    Args:
        removal: whether relation edits' removals are asked for too.
    """
    asked: dict[Tokens, Demand] = {}
    for request in requests:
        for demand in request.demands if removal else request.demands[:1]:
            prompt = demand.fact.prompt
            first = asked.setdefault(prompt_ids(model, prompt), demand)
            if first.target.strip() != demand.target.strip():
                raise InputError(
                    f"two requests contradict each other: after {prompt!r} both {first.target!r} "
                    f"and {demand.target!r} are to be said: leave one of them out"
                )


@dataclass(frozen=True)
class Checked:
    """What there is to say of an edit as such.

    Args:
        trouble: why it must not count as a success; "" if nothing is wrong with it.
        drift: on held-out text; None where the edit could not be applied.
    """

    trouble: str
    drift: Drift | None


def checked(
    model: HookedTransformer,
    edit: Edit,
    requests: Sequence[EditRequest],
    before: Baseline,
    blown_up: float = BLOWN_UP,
) -> Checked:
    """`edit` on the model it was made for, which is left as it was.

    It is in trouble if it is not finite, moves no weight, moves no logit after any of the prompts
    it was made for, or brings the perplexity of held-out text to `blown_up` times what it was.
    """
    prompts = [demand.fact.prompt for request in requests for demand in request.demands]
    unedited = _last(model, prompts)
    try:
        n_moved = sum(edit.n_moved(model).values())
    except InputError as error:
        return Checked(str(error), None)
    if not n_moved:
        return Checked("it moves no weight: its deltas are rounded away", None)
    with edit.applied(model):
        now, drifted = _last(model, prompts), drift(model, before)
    if not now.isfinite().all():
        return Checked("logits are no longer finite", drifted)
    behind = any(name.startswith(("ln_final.", "unembed.")) for name in edit.deltas)
    if torch.equal(now, unedited) and not behind:
        return Checked("it moves no logit after the prompts it was made for", drifted)
    then, after = drifted.perplexity
    if not math.isfinite(after) or after > blown_up * then:
        return Checked(f"perplexity {then:.4g} has become {after:.4g}", drifted)
    return Checked("", drifted)


@torch.no_grad()
def _last(model: HookedTransformer, prompts: Sequence[str]) -> Float[Tensor, "prompt d_model"]:
    """The final residual after each prompt, computed in the same way at every call, to the bit."""
    return read(model, [prompt_ids(model, text) for text in prompts]).last
