"""Edit: what an editor changed, as deltas on named weights; applied for a while, undone to the bit.

What an edit was made from travels with it, and a model that it was not made for is refused.
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

from kedit import cache as kept
from kedit.editing.deltas import Delta, LowRank, Norm, add, fits, norm_of, shape_of, sum_of
from kedit.editing.provenance import Provenance, fingerprint
from kedit.editing.weights import enter, hold, leave
from kedit.errors import InputError
from kedit.facts import EditRequest

log = logging.getLogger("kedit")

FORMAT = "2"  # of the files that `Edit.save` writes: 1 had no checksum


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to a model that is not carried out yet: `deltas`, by the parameter they add to."""

    deltas: Mapping[str, Delta]
    made: Provenance

    def __repr__(self) -> str:
        deltas = (f"{name}: {shape_of(delta)}" for name, delta in self.deltas.items())
        n = len(self.made.requests)
        asked = "1 request" if n == 1 else f"{n} requests"
        return f"Edit({self.made.editor}, {asked}, {'; '.join(deltas)})"

    @contextlib.contextmanager
    def applied(self, model: HookedTransformer) -> Iterator[HookedTransformer]:
        """`model` with the deltas added in place, while the block runs; then it is as it was.

        Blocks nest, of this edit and of others. A model belongs to one thread at a time: while
        one thread has an edit applied, others can apply none. An edit that changes no number is
        logged as such.

        Raises:
            InputError: the edit was made for another model, a parameter is missing or of another
                shape, a sum is not finite, or another thread has an edit applied: the model is
                left untouched. Or, at the end, the blocks did not nest: then all edits of the
                model are taken back.
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
            with contextlib.suppress(InputError):  # what ended the block is the news
                leave(model, applied)
            raise
        leave(model, applied)

    def weights(self, model: HookedTransformer) -> dict[str, Tensor]:
        """The parameters of `model` that the deltas add to, by name.

        Raises:
            InputError: as `applied`, but for what is not finite.
        """
        own = fingerprint(model)
        if own != self.made.fingerprint:
            raise InputError(
                f"this edit was made for another model: for {self.made.source or 'one'} with "
                f"fingerprint {self.made.fingerprint[:12]}, not {own[:12]}; apply it to that model "
                "(in a dtype that rounds its weights, a model counts as another)"
            )
        parameters = dict(model.named_parameters())
        for name, delta in self.deltas.items():
            if name not in parameters:
                raise InputError(f"the model has no {name}, which this edit changes")
            if not fits(delta, parameters[name]):
                raise InputError(
                    f"the delta of {name} is {shape_of(delta)}, "
                    f"the parameter is {tuple(parameters[name].shape)}"
                )
        return {name: parameters[name].detach() for name in self.deltas}

    def n_moved(self, model: HookedTransformer) -> dict[str, int]:
        """How many numbers of each parameter the edit changes; small deltas are rounded away."""
        weights = self.weights(model)
        with self.applied(model):
            edited = {name: weight.clone() for name, weight in weights.items()}
        return {name: int((edited[name] != weights[name]).sum()) for name in weights}

    def norms(self, model: HookedTransformer) -> dict[str, Norm]:
        """How large the edit is at each parameter, beside the weight that `model` has there."""
        found = {}
        for name, weight in self.weights(model).items():
            own = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
            size = norm_of(self.deltas[name])
            found[name] = Norm(size, size / own if own else float("inf"))
        return found

    def scaled(self, factor: float) -> "Edit":
        """`factor` times the change."""
        deltas: dict[str, Delta] = {
            name: LowRank(delta.left, factor * delta.right)
            if isinstance(delta, LowRank)
            else factor * delta
            for name, delta in self.deltas.items()
        }
        told = {"scaled": factor * self.made.settings.get("scaled", 1.0)}
        return Edit(deltas, replace(self.made, settings={**self.made.settings, **told}))

    def save(self, path: str | Path) -> Path:
        """One safetensors file with deltas, provenance and a checksum of both, written whole or not
        at all.
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
        kept.write(path, tensors, {"kedit_edit": FORMAT, "made": made})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Edit":
        """The edit that `save` wrote, bit for bit, on the CPU.

        Raises:
            InputError: no such file, a damaged one, or one that this kedit did not write.
        """
        path = Path(path)
        try:
            tensors, told = kept.read(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a saved edit: {error}") from error
        version = told.get("kedit_edit")
        if version is None:
            raise InputError(f"{path} is a safetensors file, but no edit that kedit saved")
        if version == "1":
            raise InputError(
                f"{path} was saved by an earlier kedit, without a checksum and for a fingerprint "
                "of a part of the model: make the edit again, with the settings that it was made "
                "by, and save it"
            )
        if version != FORMAT:
            raise InputError(
                f"{path} has format {version}, this kedit reads {FORMAT}: update kedit"
            )
        if not kept.checksum_of(tensors, told):
            raise InputError(
                f"{path} is damaged, its checksum is wrong: take another copy of it, or make the "
                "edit again"
            )
        try:
            made = Provenance.from_record(json.loads(told["made"]))
            return cls(_deltas(tensors), made)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is a broken edit: {error!r}") from error


PreparedEditor = Callable[[Sequence[EditRequest]], Edit]  # an editor that knows its model already


@runtime_checkable
class Editor(Protocol):
    """Makes the edit that satisfies requests, and leaves the model as it found it."""

    def on(self, model: HookedTransformer) -> PreparedEditor:
        """What hangs on the model alone is done once, for many edits."""
        ...

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """`self.on(model)(requests)`."""
        ...


def combined(edits: Sequence[Edit]) -> Edit:
    """One edit that does what `edits` do, applied one inside the other, up to rounding.

    Low-rank deltas stay low rank, their factors side by side.

    Raises:
        InputError: no edits, or edits made for different models.
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
                f"edits for different models cannot be combined: {first.source or 'one'} "
                f"({first.fingerprint[:12]}) and {edit.made.source or 'another'} "
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


Requests = TypeVar("Requests")  # a request, or several


def edit_in_turn(
    model: HookedTransformer, asked: Sequence[Requests], make: Callable[[Requests], Edit]
) -> Edit:
    """The edits of all that is `asked`, each made on the model with those before it, as one.

    Raises:
        InputError: nothing is asked.
    """
    edits: list[Edit] = []
    with contextlib.ExitStack() as applied:
        for one in asked:
            edits.append(make(one))
            applied.enter_context(edits[-1].applied(model))
    return combined(edits)


def _deltas(tensors: Mapping[str, Tensor]) -> dict[str, Delta]:
    """The inverse of the names that `Edit.save` gives."""
    found: dict[str, Delta] = {}
    for key, value in tensors.items():
        name, part = key.split("|")
        if part == "left":
            found[name] = LowRank(value, tensors[f"{name}|right"])
        elif part == "dense":
            found[name] = value
        elif part != "right" or f"{name}|left" not in tensors:
            raise ValueError(f"a tensor {key!r}")
    return found
