"""Digests of a model's weights, and the edits that are applied to it at the moment.

Digests are cached per model, and computed again only for weights that have changed. While edits are
applied, the digests are those of the unedited weights.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit import digests
from kedit.errors import InputError
from kedit.models.load import storage_orders
from kedit.models.masked import AnyModel

SAMPLED = 64  # about this many numbers of each weight are compared to detect a change


class Mark(NamedTuple):
    """Shows cheaply whether a weight has changed, without reading all of it.

    Args:
        storage: where and how the weight is stored in memory.
        version: torch's count of in-place changes, which misses changes through `.data`.
        sample: some of the weight's numbers, as bytes.
    """

    storage: tuple[object, ...]
    version: int | None
    sample: bytes


class Digest(NamedTuple):
    """Digest of a weight's numbers, and the weight's mark when they were read."""

    value: str
    mark: Mark


@dataclass(eq=False)
class Applied:
    """An applied edit.

    Args:
        before: the weights that the edit changes, as they were before, by name.
        undone: whether the edit was undone before its block ended.
    """

    before: dict[str, Tensor] = field(default_factory=dict)
    undone: bool = False


@dataclass(eq=False)
class _State:
    """What is known about one model.

    Args:
        digests: of its weights, by name.
        held: digests of the unedited weights, for all weights that applied edits may have changed.
        stack: the applied edits, the innermost last.
        thread: the thread that applied them.
    """

    digests: dict[str, Digest] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    stack: list[Applied] = field(default_factory=list)
    thread: int = 0


# Not an attribute of the model: a deep copy of an edited model would copy it, but the copy is a new
# model whose weights are the edited ones.
_STATES: WeakKeyDictionary[AnyModel, _State] = WeakKeyDictionary()
_LOCK = threading.Lock()


def weight_digests(model: AnyModel) -> dict[str, str]:
    """Returns a digest of every weight's numbers as float32, by name, without the applied edits.

    Equal numbers give equal digests, whatever the dtype, the device or the order in memory. A
    change through `.data` is noticed only if it alters one of the sampled numbers.
    """
    state, parameters = _state(model), dict(model.named_parameters())
    marks = _marks({name: weight for name, weight in parameters.items() if name not in state.held})
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


def applied_digests(model: AnyModel) -> dict[str, str]:
    """Digests of the weights that applied edits may have changed, as these weights are now.

    Empty while no edit is applied. Read anew at each call.
    """
    held, parameters = _state(model).held, dict(model.named_parameters())
    orders = storage_orders(model) if held else {}
    return {name: digests.of_tensor(parameters[name], orders.get(name, ())) for name in held}


def lowest_edited(model: HookedTransformer) -> int:
    """Returns the lowest layer whose weights applied edits may have changed.

    It is 0 if they may have changed the embedding, and the number of layers if they changed no
    block, or nothing at all.
    """
    n_layers = model.cfg.n_layers
    parts = [(n_layers, model.unembed), (n_layers, model.ln_final)]
    # the lowest part last, because it counts if parts share a weight
    parts += [*reversed([*enumerate(model.blocks)]), (0, model.embed)]
    layer_of = {id(weight): layer for layer, part in parts for weight in part.parameters()}
    parameters = dict(model.named_parameters())
    held = (parameters[name] for name in _state(model).held)
    return min((layer_of.get(id(weight), 0) for weight in held), default=n_layers)


def enter(model: AnyModel) -> Applied:
    """Begins an edit of `model`, inside the edits that are already applied.

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


def hold(model: AnyModel, applied: Applied, names: Iterable[str]) -> dict[str, Tensor]:
    """Saves the weights that `applied` is about to change, and returns the parameters, by name."""
    state, unedited = _state(model), weight_digests(model)
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in names}
    state.held |= {name: unedited[name] for name in _tied(parameters, weights)}
    applied.before |= {name: weight.clone() for name, weight in weights.items()}
    return weights


def leave(model: AnyModel, applied: Applied) -> None:
    """Ends an edit: restores every weight that it changed, bit for bit.

    Raises:
        InputError: the blocks were not properly nested: the edit is not the innermost one, or was
            already undone. Then no edit is applied any more, and the model is unedited.
    """
    state = _state(model)
    if applied.undone:
        raise InputError(
            "this edit was undone before its block ended, because blocks were not properly nested: "
            "since then, its block ran with the unedited model"
        )
    is_innermost = state.stack[-1] is applied
    ending = [applied] if is_innermost else state.stack
    parameters = dict(model.named_parameters())
    interrupt: KeyboardInterrupt | None = None
    try:
        try:
            _restore(parameters, ending)
        except KeyboardInterrupt as error:  # from the start again, so that no weight stays edited
            _restore(parameters, ending)
            interrupt = error
        rest = [edit for edit in state.stack if edit not in ending]
        still_edited = _tied(parameters, {name for edit in rest for name in edit.before})
        released = {name: value for name, value in state.held.items() if name not in still_edited}
        # the numbers are the unedited ones again, whose digests are known
        for name, mark in _marks({name: parameters[name] for name in released}).items():
            state.digests[name] = Digest(state.held.pop(name), mark)
    finally:
        # last, so that no other thread begins while weights are copied
        state.stack = [edit for edit in state.stack if edit not in ending]
    if interrupt is not None:
        raise interrupt
    if not is_innermost:
        raise InputError(
            "an edit's block ended before a block inside it: blocks must be properly nested. All "
            "edits of the model have been undone"
        )


def _restore(parameters: Mapping[str, Tensor], ending: Sequence[Applied]) -> None:
    """Copies back the weights from before each edit, those of the last edit first."""
    for edit in reversed(ending):
        edit.undone = True
        with torch.no_grad():
            # in reverse order of saving: tied weights are saved under each of their names
            for name, before in reversed(edit.before.items()):
                # copied, because subtracting the delta (a + d - d) would leave rounding errors
                parameters[name].detach().copy_(before)


def _state(model: AnyModel) -> _State:
    return _STATES.setdefault(model, _State())


def _tied(weights: Mapping[str, Tensor], names: Iterable[str]) -> set[str]:
    """Returns the names of all `weights` that share memory with one of `names`, including these."""
    memory = {name: weight.untyped_storage().data_ptr() for name, weight in weights.items()}
    shared = {memory[name] for name in names}
    return {name for name, address in memory.items() if address in shared}


def _marks(weights: Mapping[str, Tensor]) -> dict[str, Mark]:
    """Returns the marks of the weights, by name."""
    samples = [_sample(weight.detach()) for weight in weights.values()]
    if not samples:
        return {}
    # concatenated, so that only one copy from the device is needed
    read = torch.cat([sample.to(samples[0].device) for sample in samples]).double().cpu()
    marks = {}
    for (name, weight), numbers in zip(
        weights.items(), read.split([*map(len, samples)]), strict=True
    ):
        storage = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight.device)
        version = None if weight.is_inference() else weight._version
        marks[name] = Mark(storage, version, numbers.numpy().tobytes())
    return marks


def _sample(weight: Tensor) -> Tensor:
    """Returns numbers from all over a weight, in the order in which they lie in memory."""
    strides = weight.stride()
    axes = sorted(range(weight.ndim), key=lambda axis: -strides[axis])
    return weight.permute(axes).reshape(-1)[:: max(1, weight.numel() // SAMPLED)]
