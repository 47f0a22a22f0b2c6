"""The least-squares inserts: deltas of a linear memory that map keys to values, disturbing least.

Layout as in TransformerLens: value = key @ weight. The disturbance of a delta D is E‖kD‖² over
running text, the trace of Dᵀ C D with C = E[k kᵀ].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kedit.editing.edit import LowRank
from kedit.errors import InputError

Solve = Callable[[Tensor], Tensor]  # x -> C⁻¹x, columns


def exact_insert(
    keys: Float[Tensor, "n d_key"], residuals: Float[Tensor, "n d_model"], solve: Solve
) -> LowRank:
    """The least disturbing delta D with keys @ D = residuals.

        D = C⁻¹Kᵀ (K C⁻¹ Kᵀ)⁻¹ R          n = 1: Meng et al. 2022 (ROME), equation 2

    Args:
        keys: K, one row a key; linearly independent.
        residuals: R = V − K W, what is missing of each wanted value.

    Raises:
        InputError: keys so alike that no delta can tell them apart.
    """
    whitened = solve(keys.double().T)
    leverage = keys.double() @ whitened
    size = leverage.diagonal().clamp(min=0).sqrt()
    alike = leverage / size.outer(size).clamp(min=1e-300)
    rank = int(torch.linalg.matrix_rank(alike)) if (leverage.diagonal() > 0).all() else 0
    if rank < len(keys):
        raise InputError(
            f"keys that are zero or equal cannot be given values of their own: of {len(keys)} keys "
            f"{rank} can be told apart"
        )
    right = torch.linalg.solve(leverage, residuals.double())
    return LowRank(whitened.to(keys.dtype), right.to(residuals.dtype))


def ridge_insert(
    keys: Float[Tensor, "n d_key"],
    residuals: Float[Tensor, "n d_model"],
    solve: Solve,
    weight: float,
) -> LowRank:
    """The delta D that minimises ‖K D − R‖² + weight · tr(Dᵀ C D).

        D = (weight · C + KᵀK)⁻¹ Kᵀ R             Meng et al. 2023 (MEMIT), equation 14
          = C⁻¹Kᵀ (weight + K C⁻¹Kᵀ)⁻¹ R          which is as large as the keys are many

    Args:
        weight: above zero; at zero this is `exact_insert`.
    """
    whitened = solve(keys.double().T)
    system = keys.double() @ whitened
    system.diagonal().add_(weight)
    right = torch.linalg.solve(system, residuals.double())
    return LowRank(whitened.to(keys.dtype), right.to(residuals.dtype))


def legacy_insert(
    key: Float[Tensor, " d_key"],
    bare_key: Float[Tensor, " d_key"],
    residual: Float[Tensor, " d_model"],
    solve: Solve,
) -> LowRank:
    """ROME as published code has it: along C⁻¹k* of the mean key, scaled by the bare prompt's key.

        D = u rᵀ / (k u),  u = C⁻¹k*

    Neither k* nor k is then mapped to the value that was sought unless they are equal; k u may come
    near zero, which blows the delta up (Gupta et al. 2024, arXiv 2403.07175).
    """
    direction = solve(key.double()[:, None])[:, 0]
    scale = bare_key.double() @ direction
    return LowRank((direction / scale).to(key.dtype)[:, None], residual[None])


class Spared(NamedTuple):
    """Keys at which nothing shall be written, and C⁻¹ of them, which takes the time."""

    keys: Float[Tensor, "n d_key"]
    whitened: Float[Tensor, "d_key n"]

    def beside(self, other: "Spared") -> "Spared":
        """Both."""
        return Spared(
            torch.cat([self.keys, other.keys]), torch.cat([self.whitened, other.whitened], 1)
        )

    def but(self, left_out: Bool[Tensor, " n"]) -> "Spared":
        return Spared(self.keys[~left_out], self.whitened[:, ~left_out])


def sparing(solve: Solve, spared: Spared, weight: float) -> Solve:
    """x -> (C + weight · KᵀK)⁻¹x: what a delta writes at these keys disturbs as text does.

    In `ridge_insert`, whose weight be λ, each of them is a row with a residual of zero that weighs
    λ · weight; the moment of many keys added to C, as RETS (arXiv 2408.15091) has it, is the same
    thing. Here it serves the exact insert too, and makes no delta of a higher rank (Woodbury).
    """
    rows, whitened = spared
    system = rows @ whitened
    system.diagonal().add_(1 / weight)

    def solved(columns: Tensor) -> Tensor:
        own = solve(columns)
        return own - whitened @ torch.linalg.solve(system, rows @ own)

    return solved


def null_space(moment: Float[Tensor, "d_key d_key"], share: float) -> Solve:
    """x -> Px / s: deltas made with it write nothing along the directions in which keys are large.

    P projects onto those eigenvectors of C that, from the smallest up, together hold at most
    `share` of its trace (AlphaEdit, Fang et al. 2024, arXiv 2410.02355, takes those with
    eigenvalues below 0.01, whatever the model's scale); within, all directions cost the same: s,
    the mean eigenvalue of C, so that a ridge's weight means what it does beside C.

    Takes the cube of the keys' length in time.

    Raises:
        InputError: there are none: the smallest alone holds more.
    """
    values, vectors = torch.linalg.eigh(moment.double())  # ascending
    energy = values.clamp(min=0).cumsum(0)
    quiet = vectors[:, energy <= share * energy[-1]]
    if not quiet.shape[1]:
        raise InputError(f"no direction of the keys holds as little as {share} of their energy")
    scale = energy[-1] / len(energy)
    return lambda columns: quiet @ (quiet.T @ columns.to(quiet)) / scale
