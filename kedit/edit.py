"""Edit: what an editor changed, as deltas on named weights; applied for a while, undone to the bit.

What an edit was made from travels with it, and a model that it was not made for is refused.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit import kept
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.provenance import Provenance, fingerprint
from kedit.weights import enter, hold, leave
from kedit.writes import flat

log = logging.getLogger("kedit")

FORMAT = "2"  # of the files that `Edit.save` writes: 1 had no checksum


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, a delta on a matrix whose heads, if any, stand one below the other."""

    left: Float[Tensor, "d_key rank"]
    right: Float[Tensor, "rank d_model"]


Delta = Tensor | LowRank  # a Tensor has the shape of its parameter


class Norm(NamedTuple):
    """Frobenius norm of a delta, and that norm over the weight's own."""

    delta: float
    relative: float


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to a model that is not carried out yet: `deltas`, by the parameter they add to."""

    deltas: Mapping[str, Delta]
    made: Provenance

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
            if not _fits(delta, parameters[name]):
                raise InputError(
                    f"the delta of {name} is {_shape(delta)}, "
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
            size = _norm(self.deltas[name])
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

    def export(self, folder: str | Path) -> Path:
        """A Hugging Face checkpoint of the edited model: see kedit.export."""
        from kedit.export import export  # it knows Edit, so it cannot be had above

        return export(self, self.made.source, folder)

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


Edits = Callable[[Sequence[EditRequest]], Edit]  # an editor that knows its model already


@runtime_checkable
class Editor(Protocol):
    """Makes the edit that satisfies requests, and leaves the model as it found it."""

    def on(self, model: HookedTransformer) -> Edits:
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
            deltas[name] = _sum(deltas[name], delta) if name in deltas else delta
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


Asked = TypeVar("Asked")  # a request, or several


def one_by_one(
    model: HookedTransformer, asked: Sequence[Asked], make: Callable[[Asked], Edit]
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


def add(name: str, delta: Delta, weight: Tensor) -> None:
    """Adds `delta` to `weight`, which is `name`, in place, so that every view of it changes.

    Raises:
        InputError: the sum is not finite.
    """
    weight.add_(_dense(delta, weight))
    if not weight.isfinite().all():
        raise InputError(f"{name} is no longer finite with the delta of this edit")


def _dense(delta: Delta, weight: Tensor) -> Tensor:
    """`delta` in the shape and on the device of `weight`, in the wider of both dtypes."""
    dtype = torch.promote_types(
        weight.dtype, delta.left.dtype if isinstance(delta, LowRank) else delta.dtype
    )
    if isinstance(delta, LowRank):
        return (delta.left.to(weight.device, dtype) @ delta.right.to(weight.device, dtype)).view(
            weight.shape
        )
    return delta.to(weight.device, dtype)


def _shape(delta: Delta) -> str:
    if isinstance(delta, LowRank):
        return f"{tuple(delta.left.shape)} @ {tuple(delta.right.shape)}"
    return str(tuple(delta.shape))


def _fits(delta: Delta, weight: Tensor) -> bool:
    if isinstance(delta, LowRank):
        (d_key, rank), (right_rank, d_model) = delta.left.shape, delta.right.shape
        return rank == right_rank and weight.ndim > 1 and flat(weight).shape == (d_key, d_model)
    return delta.shape == weight.shape


def _norm(delta: Delta) -> float:
    """‖left right‖² = tr(leftᵀleft rightrightᵀ): squares of the rank's size only."""
    if isinstance(delta, LowRank):
        left, right = delta.left.double(), delta.right.double()
        # rounding may leave the square of a delta that cancels itself below zero
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())
    return float(torch.linalg.vector_norm(delta, dtype=torch.float64))


def _sum(one: Delta, other: Delta) -> Delta:
    """On the device of `one`."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        device = one.left.device
        return LowRank(
            torch.cat([one.left, other.left.to(device)], 1),
            torch.cat([one.right, other.right.to(device)], 0),
        )
    if isinstance(one, LowRank):
        assert isinstance(other, Tensor)
        device = one.left.device
        return _dense(one, other.to(device)) + other.to(device)
    return one + _dense(other, one)


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
