"""Closed-form edits of a linear memory: map keys to values and disturb other text least.

Layout as in TransformerLens: value = key @ weight. The disturbance of a delta D is E‖kD‖² over the
keys k of running text. It equals the trace of Dᵀ C D with the second moment C = E[k kᵀ].
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.editing.edit import LowRank
from kedit.errors import InputError

Solve = Callable[[Tensor], Tensor]  # x -> C⁻¹x, columns


def exact_insert(
    keys: Float[Tensor, "n d_key"], residuals: Float[Tensor, "n d_model"], solve: Solve
) -> LowRank:
    """Returns the delta D with keys @ D = residuals that disturbs other text least.

        D = C⁻¹Kᵀ (K C⁻¹ Kᵀ)⁻¹ R          n = 1: Meng et al. 2022 (ROME), equation 2

    Args:
        keys: K, one row per key; linearly independent.
        residuals: R = V − K W, the target values minus what the weight writes now.
        solve: x -> C⁻¹x for columns x.

    Raises:
        InputError: keys are so alike that no delta can map them to different values.
    """
    whitened = solve(keys.double().T)
    leverage = keys.double() @ whitened
    size = leverage.diagonal().clamp(min=0).sqrt()
    alike = leverage / size.outer(size).clamp(min=1e-300)
    # Correlations instead of raw products, so that the rank doesn't depend on the keys' lengths.
    rank = int(torch.linalg.matrix_rank(alike)) if (leverage.diagonal() > 0).all() else 0
    if rank < len(keys):
        raise InputError(
            f"keys that are zero or equal cannot be mapped to different values: of {len(keys)} "
            f"keys only {rank} are linearly independent"
        )
    right = torch.linalg.solve(leverage, residuals.double())
    return LowRank(whitened.to(keys.dtype), right.to(residuals.dtype))


def ridge_insert(
    keys: Float[Tensor, "n d_key"],
    residuals: Float[Tensor, "n d_model"],
    solve: Solve,
    weight: float,
) -> LowRank:
    """Returns the delta D that minimises ‖K D − R‖² + weight · tr(Dᵀ C D).

        D = (weight · C + KᵀK)⁻¹ Kᵀ R             Meng et al. 2023 (MEMIT), equation 14
          = C⁻¹Kᵀ (weight + K C⁻¹Kᵀ)⁻¹ R          the form used here

    The second form solves a system of one row per key instead of one row per number in a key.

    Args:
        keys: K, one row per key.
        residuals: R, the target values minus what the weight writes now.
        solve: x -> C⁻¹x for columns x.
        weight: λ of the disturbance against the errors; above zero (zero would be `exact_insert`).
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
    """Returns ROME's delta as the published code computes it.

        D = u rᵀ / (k u),  u = C⁻¹k*

    The direction u comes from the mean key k* over contexts, the divisor from the bare prompt's key
    k. Unless the two keys are equal, the edited weight maps neither to the trained value. If k u is
    near zero, the delta becomes huge (Gupta et al. 2024, arXiv 2403.07175).

    Args:
        key: k*, the mean over contexts.
        bare_key: k, without a context.
        residual: r, the trained change of the value.
        solve: x -> C⁻¹x for columns x.
    """
    direction = solve(key.double()[:, None])[:, 0]
    scale = bare_key.double() @ direction
    return LowRank((direction / scale).to(key.dtype)[:, None], residual[None])


class Spared(NamedTuple):
    """Keys at which a delta should write nothing, with C⁻¹ of them: computing it is expensive."""

    keys: Float[Tensor, "n d_key"]
    whitened: Float[Tensor, "d_key n"]


def sparing(solve: Solve, spared: Spared, weight: float) -> Solve:
    """Returns x -> (C + weight · KᵀK)⁻¹x, where K are the spared keys.

    With it, what a delta writes at these keys counts as disturbance, just as what it writes for
    running text does. Passed to `ridge_insert` with weight λ, each spared key acts like a row with
    residual zero and weight λ · weight. This is equivalent to adding the moment of many keys to C,
    as RETS does (arXiv 2408.15091). Done through `solve`, it also works with the exact insert, and
    the delta's rank does not grow with the number of spared keys (Woodbury identity).

    Args:
        solve: x -> C⁻¹x for columns x.
        spared: the keys K and C⁻¹Kᵀ.
        weight: of KᵀK against C.
    """
    rows, whitened = spared
    system = rows @ whitened
    system.diagonal().add_(1 / weight)

    def solved(columns: Tensor) -> Tensor:
        unspared = solve(columns)
        return unspared - whitened @ torch.linalg.solve(system, rows @ unspared)

    return solved


def null_space(moment: Float[Tensor, "d_key d_key"], share: float) -> Solve:
    """Returns x -> Px / s: deltas made with it write nothing where other keys are large.

    P projects onto eigenvectors of C: the smallest ones, as many as together hold at most `share`
    of its trace. AlphaEdit (Fang et al. 2024, arXiv 2410.02355) selects eigenvalues below 0.01
    instead, whatever the model's scale. Within the projection all directions cost the same: s is
    the mean eigenvalue of C, so a ridge's weight has the same meaning as with C.

    The time grows with the cube of the keys' length.

    Args:
        moment: C.
        share: largest part of C's trace that the directions may hold.

    Raises:
        InputError: no direction is left, because the smallest alone holds more.
    """
    values, vectors = torch.linalg.eigh(moment.double())  # ascending
    energy = values.clamp(min=0).cumsum(0)
    quiet = vectors[:, energy <= share * energy[-1]]
    if not quiet.shape[1]:
        raise InputError(f"no direction of the keys holds as little as {share} of their energy")
    scale = energy[-1] / len(energy)
    return lambda columns: quiet @ (quiet.T @ columns.to(quiet)) / scale
