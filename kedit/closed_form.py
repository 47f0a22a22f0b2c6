"""The least-squares inserts: deltas of a linear memory that map keys to values, disturbing least.

Layout as in TransformerLens: value = key @ weight. The disturbance of a delta D is E‖kD‖² over
running text, the trace of Dᵀ C D with C = E[k kᵀ].
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.edit import LowRank

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
        ValueError: keys so alike that no delta can tell them apart.
    """
    whitened = solve(keys.double().T)
    leverage = keys.double() @ whitened
    size = leverage.diagonal().clamp(min=0).sqrt()
    alike = leverage / size.outer(size).clamp(min=1e-300)
    if not (leverage.diagonal() > 0).all() or torch.linalg.matrix_rank(alike) < len(keys):
        raise ValueError("keys that are zero or equal cannot be given values of their own")
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
