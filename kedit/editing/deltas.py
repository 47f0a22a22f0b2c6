"""Deltas of weights, dense or of low rank: their norms, their sums, and adding them in place."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.editing.write_sites import flat
from kedit.errors import InputError


@dataclass(frozen=True, eq=False)
class LowRank:
    """The delta left @ right of a matrix. If the matrix has heads, their rows are concatenated."""

    left: Float[Tensor, "d_key rank"]
    right: Float[Tensor, "rank d_model"]


Delta = Tensor | LowRank  # a Tensor has the shape of the parameter


class Norm(NamedTuple):
    """Frobenius norm of a delta, and the ratio of this norm to the weight's."""

    delta: float
    relative: float


def add(name: str, delta: Delta, weight: Tensor) -> None:
    """Adds `delta` in place to `weight`, the parameter `name`, so every view of the weight changes.

    Raises:
        InputError: the sum is not finite.
    """
    weight.add_(dense(delta, weight))
    if not weight.isfinite().all():
        raise InputError(f"{name} is no longer finite with the delta of this edit")


def dense(delta: Delta, weight: Tensor) -> Tensor:
    """Returns `delta` in the shape and on the device of `weight`, in the wider of both dtypes."""
    dtype = torch.promote_types(
        weight.dtype, delta.left.dtype if isinstance(delta, LowRank) else delta.dtype
    )
    if isinstance(delta, LowRank):
        return (delta.left.to(weight.device, dtype) @ delta.right.to(weight.device, dtype)).view(
            weight.shape
        )
    return delta.to(weight.device, dtype)


def shape_of(delta: Delta) -> str:
    """Returns the delta's shape as text, as in "(3072, 1) @ (1, 768)" for a low rank."""
    if isinstance(delta, LowRank):
        return f"{tuple(delta.left.shape)} @ {tuple(delta.right.shape)}"
    return str(tuple(delta.shape))


def fits(delta: Delta, weight: Tensor) -> bool:
    """Returns whether `delta` can be added to `weight`."""
    if isinstance(delta, LowRank):
        (d_key, rank), (right_rank, d_model) = delta.left.shape, delta.right.shape
        return rank == right_rank and weight.ndim > 1 and flat(weight).shape == (d_key, d_model)
    return delta.shape == weight.shape


def norm_of(delta: Delta) -> float:
    """Returns the Frobenius norm of a delta.

    For a low rank, ‖left right‖² = tr(leftᵀleft rightrightᵀ), which needs only rank × rank
    matrices.
    """
    if isinstance(delta, LowRank):
        left, right = delta.left.double(), delta.right.double()
        # if the parts of a delta cancel, rounding can make the square negative
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())
    return float(torch.linalg.vector_norm(delta, dtype=torch.float64))


def sum_of(first: Delta, second: Delta) -> Delta:
    """Returns the sum of two deltas, on the device of the first. Two low ranks give a low rank."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        device = first.left.device
        return LowRank(
            torch.cat([first.left, second.left.to(device)], 1),
            torch.cat([first.right, second.right.to(device)], 0),
        )
    if isinstance(first, LowRank):
        assert isinstance(second, Tensor)
        device = first.left.device
        return dense(first, second.to(device)) + second.to(device)
    return first + dense(second, first)
