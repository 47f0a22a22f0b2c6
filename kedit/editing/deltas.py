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
    """left @ right, a delta on a matrix whose heads, if any, stand one below the other."""

    left: Float[Tensor, "d_key rank"]
    right: Float[Tensor, "rank d_model"]


Delta = Tensor | LowRank  # a Tensor has the shape of its parameter


class Norm(NamedTuple):
    """Frobenius norm of a delta, and that norm over the weight's own."""

    delta: float
    relative: float


def add(name: str, delta: Delta, weight: Tensor) -> None:
    """Adds `delta` to `weight`, which is `name`, in place, so that every view of it changes.

    Raises:
        InputError: the sum is not finite.
    """
    weight.add_(dense(delta, weight))
    if not weight.isfinite().all():
        raise InputError(f"{name} is no longer finite with the delta of this edit")


def dense(delta: Delta, weight: Tensor) -> Tensor:
    """`delta` in the shape and on the device of `weight`, in the wider of both dtypes."""
    dtype = torch.promote_types(
        weight.dtype, delta.left.dtype if isinstance(delta, LowRank) else delta.dtype
    )
    if isinstance(delta, LowRank):
        return (delta.left.to(weight.device, dtype) @ delta.right.to(weight.device, dtype)).view(
            weight.shape
        )
    return delta.to(weight.device, dtype)


def shape_of(delta: Delta) -> str:
    if isinstance(delta, LowRank):
        return f"{tuple(delta.left.shape)} @ {tuple(delta.right.shape)}"
    return str(tuple(delta.shape))


def fits(delta: Delta, weight: Tensor) -> bool:
    if isinstance(delta, LowRank):
        (d_key, rank), (right_rank, d_model) = delta.left.shape, delta.right.shape
        return rank == right_rank and weight.ndim > 1 and flat(weight).shape == (d_key, d_model)
    return delta.shape == weight.shape


def norm_of(delta: Delta) -> float:
    """‖left right‖² = tr(leftᵀleft rightrightᵀ): squares of the rank's size only."""
    if isinstance(delta, LowRank):
        left, right = delta.left.double(), delta.right.double()
        # rounding may leave the square of a delta that cancels itself below zero
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())
    return float(torch.linalg.vector_norm(delta, dtype=torch.float64))


def sum_of(one: Delta, other: Delta) -> Delta:
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
        return dense(one, other.to(device)) + other.to(device)
    return one + dense(other, one)
