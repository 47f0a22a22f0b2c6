"""Edit: deltas on named weights, which can be applied for a while and are undone bit for bit.

An edit carries its provenance: what it was made from. It refuses models it was not made for.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit import cache
from kedit.editing.deltas import Delta, LowRank, Norm, add, fits, norm_of, shape_of, sum_of
from kedit.editing.provenance import Provenance, fingerprint
from kedit.editing.weights import enter, hold, leave
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.masked import AnyModel, Model
from kedit.progress import progress

log = logging.getLogger("kedit")

FORMAT = "2"  # version of the files that `Edit.save` writes; version 1 had no checksum


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's weights, as deltas; `applied` carries it out.

    Args:
        deltas: by the name of the parameter that the delta is added to.
        made: what the edit was made from.
    """

    deltas: Mapping[str, Delta]
    made: Provenance

    def __repr__(self) -> str:
        deltas = (f"{name}: {shape_of(delta)}" for name, delta in self.deltas.items())
        n = len(self.made.requests)
        count = "1 request" if n == 1 else f"{n} requests"
        return f"Edit({self.made.editor}, {count}, {'; '.join(deltas)})"

    @contextlib.contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """Adds the deltas to `model` in place within a `with` block, then restores the weights.

        Blocks can be nested, with this edit and with others. A model belongs to one thread at a
        time: while one thread has an edit applied, other threads cannot apply any. If the edit
        changes no number, a warning is logged.

        Raises:
            InputError: the edit was made for another model, a parameter is missing or has another
                shape, a sum is not finite, or another thread has an edit applied; then the model is
                left untouched. Or, at the end: the blocks were not properly nested; then all edits
                of the model are undone.
        """
        applied = enter(model)
        try:
            weights = hold(model, applied, self.weights(model))
            with torch.no_grad():
                for name, weight in weights.items():
                    add(name, self.deltas[name], weight)
            if all(torch.equal(weights[name], before) for name, before in applied.before.items()):
                log.warning("The edit of %s changes no weight of this model", self.made.editor)
            yield model
        except BaseException:
            with contextlib.suppress(InputError):  # raise the error that ended the block instead
                leave(model, applied)
            raise
        leave(model, applied)

    def weights(self, model: AnyModel) -> dict[str, Tensor]:
        """Returns the parameters of `model` that the deltas add to, by name.

        Raises:
            InputError: see `applied`, except for sums that are not finite.
        """
        found = fingerprint(model)
        if found != self.made.fingerprint:
            raise InputError(
                f"this edit was made for another model: for {self.made.source or 'a model'} with "
                f"fingerprint {self.made.fingerprint[:12]}, but this one has {found[:12]}; apply "
                "it to that model (a dtype that rounds the weights makes it a different model)"
            )
        parameters = dict(model.named_parameters())
        for name, delta in self.deltas.items():
            if name not in parameters:
                raise InputError(f"the model has no {name}, which this edit changes")
            if not fits(delta, parameters[name]):
                raise InputError(
                    f"the delta of {name} has shape {shape_of(delta)}, "
                    f"but the parameter has {tuple(parameters[name].shape)}"
                )
        return {name: parameters[name].detach() for name in self.deltas}

    def n_moved(self, model: AnyModel) -> dict[str, int]:
        """Returns how many numbers of each parameter change; small deltas may be rounded away."""
        weights = self.weights(model)
        with self.applied(model):
            edited = {name: weight.clone() for name, weight in weights.items()}
        return {name: int((edited[name] != weights[name]).sum()) for name in weights}

    def norms(self, model: AnyModel) -> dict[str, Norm]:
        """Returns the edit's norm at each parameter, absolute and relative to the weight's."""
        found = {}
        for name, weight in self.weights(model).items():
            weight_norm = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
            delta_norm = norm_of(self.deltas[name])
            found[name] = Norm(
                delta_norm, delta_norm / weight_norm if weight_norm else float("inf")
            )
        return found

    def scaled(self, factor: float) -> "Edit":
        """Returns the edit with `factor` times the change."""
        deltas: dict[str, Delta] = {
            name: LowRank(delta.left, factor * delta.right)
            if isinstance(delta, LowRank)
            else factor * delta
            for name, delta in self.deltas.items()
        }
        scale = {"scaled": factor * self.made.settings.get("scaled", 1.0)}
        return Edit(deltas, replace(self.made, settings={**self.made.settings, **scale}))

    def save(self, path: str | Path) -> Path:
        """Writes deltas, provenance and a checksum of both to one safetensors file.

        The file is written completely or not at all.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        for name, delta in self.deltas.items():
            parts = vars(delta) if isinstance(delta, LowRank) else {"dense": delta}
            # cloned: safetensors refuses one tensor under two names
            tensors |= {
                f"{name}|{part}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for part, value in parts.items()
            }
        made = json.dumps(self.made.to_record(), ensure_ascii=False)
        cache.write(path, tensors, {"kedit_edit": FORMAT, "made": made})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Edit":
        """Reads the edit that `save` wrote, bit for bit, to the CPU.

        Raises:
            InputError: the file doesn't exist, is damaged, or was not written by this version of
                kedit.
        """
        path = Path(path)
        try:
            tensors, metadata = cache.read(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a saved edit: {error}") from error
        version = metadata.get("kedit_edit")
        if version is None:
            raise InputError(f"{path} is a safetensors file, but not an edit that kedit saved")
        if version == "1":
            raise InputError(
                f"{path} was saved by an earlier kedit, without a checksum and with a fingerprint "
                "of only a part of the model: make the edit again with the same settings, and "
                "save it"
            )
        if version != FORMAT:
            raise InputError(
                f"{path} has format {version}, but this kedit reads format {FORMAT}: update kedit"
            )
        if not cache.checksum_of(tensors, metadata):
            raise InputError(
                f"{path} is damaged, its checksum is wrong: use another copy, or make the edit "
                "again"
            )
        try:
            made = Provenance.from_record(json.loads(metadata["made"]))
            return cls(_deltas(tensors), made)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is a broken edit: {error!r}") from error


PreparedEditor = Callable[[Sequence[EditRequest]], Edit]  # an editor prepared for its model


@runtime_checkable
class Editor(Protocol):
    """A method with its settings, which makes the edit that satisfies requests.

    It leaves the model as it was.
    """

    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares the editor for a model: computes once what many edits need."""
        ...

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for the requests: `self.on(model)(requests)`."""
        ...


def combined(edits: Sequence[Edit]) -> Edit:
    """Returns one edit that does what `edits` do when applied one inside the other, up to rounding.

    The sum of low-rank deltas is stored as a low rank, with concatenated factors.

    Raises:
        InputError: there are no edits, or they were made for different models.
    """
    if not edits:
        raise InputError("there are no edits to combine")
    if len(edits) == 1:
        return edits[0]
    first = edits[0].made
    deltas: dict[str, Delta] = {}
    for edit in edits:
        if edit.made.fingerprint != first.fingerprint:
            raise InputError(
                f"edits for different models cannot be combined: {first.source or 'one model'} "
                f"({first.fingerprint[:12]}) and {edit.made.source or 'another model'} "
                f"({edit.made.fingerprint[:12]})"
            )
        for name, delta in edit.deltas.items():
            deltas[name] = sum_of(deltas[name], delta) if name in deltas else delta
    parts = tuple(part for edit in edits for part in edit.made.parts or (edit.made,))
    made = Provenance(
        editor=" + ".join(dict.fromkeys(part.editor for part in parts)),
        settings={},
        requests=tuple(request for part in parts for request in part.requests),
        fingerprint=first.fingerprint,
        source=first.source,
        parts=parts,
    )
    return Edit(deltas, made)


Requests = TypeVar("Requests")  # a request, or a batch of them


def edit_in_turn(
    model: AnyModel, asked: Sequence[Requests], make: Callable[[Requests], Edit]
) -> Edit:
    """Makes each item's edit on the model with the edits before it; returns them as one.

    Args:
        asked: the items: requests, or batches of requests.
        make: makes the edit of one item.

    Raises:
        InputError: there are no items.
    """
    edits: list[Edit] = []
    with contextlib.ExitStack() as applied, progress("edits") as bars:
        for item in bars.track(asked, description="editing one after the other"):
            edits.append(make(item))
            applied.enter_context(edits[-1].applied(model))
    return combined(edits)


def _deltas(tensors: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Rebuilds deltas from the tensors that `Edit.save` wrote, by their names."""
    found: dict[str, Delta] = {}
    for key, value in tensors.items():
        name, part = key.split("|")
        if part == "left":
            found[name] = LowRank(value, tensors[f"{name}|right"])
        elif part == "dense":
            found[name] = value
        elif part != "right" or f"{name}|left" not in tensors:
            raise ValueError(f"unexpected tensor {key!r}")
    return found
