"""A model's weights: a digest of each, and the edits that are applied at the moment.

Digests are kept for each model and read again only where a weight has changed. While edits are
applied, the digests are those of the unedited weights.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit import digests
from kedit.errors import InputError
from kedit.models.load import storage_orders

SAMPLED = 64  # numbers of each weight that are looked at to see whether it has changed


class Mark(NamedTuple):
    """By what a weight is seen to have changed, without reading all of it.

    Args:
        place: where it lies and how.
        version: torch counts the changes in place, but not those by way of `.data`.
        sample: some of its numbers, as bytes.
    """

    place: tuple[object, ...]
    version: int | None
    sample: bytes


class Digest(NamedTuple):
    """Of a weight's numbers, and the mark it had when they were read."""

    value: str
    mark: Mark


@dataclass(eq=False)
class Applied:
    """An edit that is applied.

    Args:
        before: what each weight was, as far as the edit changes it.
        undone: the edit was taken back before its block ended.
    """

    before: dict[str, Tensor] = field(default_factory=dict)
    undone: bool = False


@dataclass(eq=False)
class _State:
    """What is known of one model.

    Args:
        digests: of its weights, by name.
        held: digests of the unedited weights, by the names of those that edits may have changed.
        stack: the edits that are applied, the innermost last.
        thread: that applied them.
    """

    digests: dict[str, Digest] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    stack: list[Applied] = field(default_factory=list)
    thread: int = 0


# not an attribute of the model: a deep copy of an edited model is a model of its own
_STATES: WeakKeyDictionary[HookedTransformer, _State] = WeakKeyDictionary()
_LOCK = threading.Lock()


def weight_digests(model: HookedTransformer) -> dict[str, str]:
    """A digest of every weight's numbers as float32, by name; without the edits that are applied.

    Equal for equal numbers, whatever the dtype, the device or the order in memory. A change that
    goes by way of `.data` is seen where it reaches one of the numbers that are sampled.
    """
    state, parameters = _state(model), dict(model.named_parameters())
    marks = _marks({name: one for name, one in parameters.items() if name not in state.held})
    changed = [
        name
        for name, mark in marks.items()
        if name not in state.digests or state.digests[name].mark != mark
    ]
    if changed:
        orders = storage_orders(model)
        for name in changed:
            value = digests.of_tensor(parameters[name], orders.get(name, ()))
            state.digests[name] = Digest(value, marks[name])
    return {name: state.held.get(name) or state.digests[name].value for name in parameters}


def enter(model: HookedTransformer) -> Applied:
    """Begins an edit of `model`, inside those that are applied to it already.

    Raises:
        InputError: another thread has an edit applied to the model.
    """
    with _LOCK:
        state = _state(model)
        if state.stack and state.thread != threading.get_ident():
            raise InputError(
                "another thread has an edit applied to this model: a model belongs to one thread "
                "at a time, so load one model for each thread"
            )
        applied = Applied()
        state.thread = threading.get_ident()
        state.stack.append(applied)
    return applied


def hold(model: HookedTransformer, applied: Applied, names: Iterable[str]) -> dict[str, Tensor]:
    """Keeps the weights that `applied` is about to change, and gives them, by name."""
    state, own = _state(model), weight_digests(model)
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in names}
    state.held |= {name: own[name] for name in _tied(parameters, weights)}
    applied.before |= {name: weight.clone() for name, weight in weights.items()}
    return weights


def leave(model: HookedTransformer, applied: Applied) -> None:
    """Ends an edit: every weight that it changed is as it was before, to the bit.

    Raises:
        InputError: blocks did not nest: the edit is not the innermost one, or it was taken back
            already. Then no edit is applied any more, and the model is the unedited one.
    """
    state = _state(model)
    if applied.undone:
        raise InputError(
            "this edit was taken back before its block ended, because blocks did not nest: what "
            "its block did since then, it did with the unedited model"
        )
    in_turn = state.stack[-1] is applied
    ended = [applied] if in_turn else state.stack
    parameters = dict(model.named_parameters())
    try:
        for one in reversed(ended):
            one.undone = True
            with torch.no_grad():
                # in reverse: tied weights were kept one after the other
                for name, before in reversed(one.before.items()):
                    # copied back, not subtracted: a + d - d drifts by rounding, edit after edit
                    parameters[name].detach().copy_(before)
        rest = [one for one in state.stack if one not in ended]
        still = _tied(parameters, {name for one in rest for name in one.before})
        released = {name: value for name, value in state.held.items() if name not in still}
        # these numbers are the old ones, so that they need not be read again
        for name, mark in _marks({name: parameters[name] for name in released}).items():
            state.digests[name] = Digest(state.held.pop(name), mark)
    finally:
        # last, so that no other thread begins while weights are copied
        state.stack = [one for one in state.stack if one not in ended]
    if not in_turn:
        raise InputError(
            "an edit's block ended before one inside it did: blocks have to nest. All edits of "
            "the model are taken back now"
        )


def _state(model: HookedTransformer) -> _State:
    return _STATES.setdefault(model, _State())


def _tied(weights: Mapping[str, Tensor], names: Iterable[str]) -> set[str]:
    """Those of `weights` that lie in the same memory as any of `names`, these among them."""
    memory = {name: weight.untyped_storage().data_ptr() for name, weight in weights.items()}
    own = {memory[name] for name in names}
    return {name for name, place in memory.items() if place in own}


def _marks(weights: Mapping[str, Tensor]) -> dict[str, Mark]:
    samples = [_sample(weight.detach()) for weight in weights.values()]
    if not samples:
        return {}
    # one copy from the device for all of them
    read = torch.cat([one.to(samples[0].device) for one in samples]).double().cpu()
    marks = {}
    for (name, weight), own in zip(weights.items(), read.split([*map(len, samples)]), strict=True):
        place = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight.device)
        version = None if weight.is_inference() else weight._version
        marks[name] = Mark(place, version, own.numpy().tobytes())
    return marks


def _sample(weight: Tensor) -> Tensor:
    """Numbers from all over a weight, in the order in which they lie in memory."""
    strides = weight.stride()
    axes = sorted(range(weight.ndim), key=lambda axis: -strides[axis])
    return weight.permute(axes).reshape(-1)[:: max(1, weight.numel() // SAMPLED)]
