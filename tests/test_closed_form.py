"""The least-squares inserts: they hit their targets and no rival disturbs less."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedit.editing.closed_form import (
    Spared,
    exact_insert,
    legacy_insert,
    null_space,
    ridge_insert,
    sparing,
)
from kedit.editing.edit import LowRank
from kedit.errors import InputError

D_KEY, D_MODEL = 12, 5


def drawn(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, residuals, and a moment that is nothing like the identity."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    text = normal(60, D_KEY) * torch.logspace(-1, 1, D_KEY, dtype=torch.float64)
    return normal(n, D_KEY), normal(n, D_MODEL), text.T @ text / len(text)


def dense(delta: LowRank) -> Tensor:
    return delta.left @ delta.right


def disturbance(delta: Tensor, moment: Tensor) -> float:
    return float(torch.einsum("km,kj,jm->", delta, moment, delta))


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_an_exact_insert_maps_every_key_and_no_rival_disturbs_less(seed: int, n: int) -> None:
    keys, residuals, moment = drawn(seed, n)
    delta = dense(exact_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x)))
    torch.testing.assert_close(keys @ delta, residuals, atol=1e-8, rtol=1e-8)
    rival = torch.randn(D_KEY, D_MODEL, generator=torch.Generator().manual_seed(seed)).double()
    # any other delta that maps the keys alike differs by something that maps them to nothing
    harmless = rival - keys.T @ torch.linalg.solve(keys @ keys.T, keys @ rival)
    torch.testing.assert_close(keys @ harmless, torch.zeros_like(residuals), atol=1e-8, rtol=0)
    least = disturbance(delta, moment)
    for size in (1e-3, 0.1, 1.0):
        assert disturbance(delta + size * harmless, moment) > least


def test_one_key_gives_the_published_rank_one_update() -> None:
    keys, residuals, moment = drawn(0, 1)
    delta = dense(exact_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x)))
    u = torch.linalg.solve(moment, keys[0])
    torch.testing.assert_close(delta, u.outer(residuals[0]) / (keys[0] @ u))


def test_equal_keys_cannot_be_given_two_values() -> None:
    keys, residuals, moment = drawn(0, 2)
    keys[1] = keys[0]
    with pytest.raises(ValueError, match="equal cannot be mapped to different values"):
        exact_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x))
    with pytest.raises(ValueError, match="zero or equal"):
        exact_insert(0 * keys[:1], residuals[:1], lambda x: torch.linalg.solve(moment, x))


@given(st.integers(0, 10_000), st.integers(1, 20), st.floats(0.01, 100))
def test_a_ridge_insert_is_where_the_gradient_is_zero(seed: int, n: int, weight: float) -> None:
    keys, residuals, moment = drawn(seed, n)
    delta = dense(ridge_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x), weight))
    gradient = keys.T @ (keys @ delta - residuals) + weight * moment @ delta
    assert gradient.abs().max() < 1e-7 * max(1, weight)


def test_a_ridge_insert_with_next_to_no_weight_is_the_exact_one() -> None:
    keys, residuals, moment = drawn(3, 3)
    exact = dense(exact_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x)))
    ridge = dense(ridge_insert(keys, residuals, lambda x: torch.linalg.solve(moment, x), 1e-9))
    torch.testing.assert_close(ridge, exact, atol=1e-5, rtol=1e-4)


def test_the_legacy_insert_agrees_where_both_keys_are_one_and_misses_elsewhere() -> None:
    keys, residuals, moment = drawn(4, 2)

    def solve(x: Tensor) -> Tensor:
        return torch.linalg.solve(moment, x)

    one = dense(legacy_insert(keys[0], keys[0], residuals[0], solve))
    torch.testing.assert_close(one, dense(exact_insert(keys[:1], residuals[:1], solve)))
    other = dense(legacy_insert(keys[0], keys[1], residuals[0], solve))
    torch.testing.assert_close(keys[1] @ other, residuals[0])
    assert (keys[0] @ other - residuals[0]).norm() > 0.1 * residuals[0].norm()


@given(st.integers(0, 10_000), st.integers(0, 20), st.floats(0.01, 100), st.floats(0.1, 100))
def test_sparing_keys_is_adding_their_moment_to_c(
    seed: int, n: int, keep: float, weight: float
) -> None:
    keys, residuals, moment = drawn(seed, 3)
    spared = drawn(seed + 1, n)[0]

    def solve(x: Tensor) -> Tensor:
        return torch.linalg.solve(moment, x)

    whole = Spared(spared, solve(spared.T))
    sparingly = sparing(solve, whole, keep / weight)
    grown = moment + keep / weight * spared.T @ spared
    torch.testing.assert_close(
        sparingly(keys.T), torch.linalg.solve(grown, keys.T), atol=1e-8, rtol=1e-6
    )
    # and in a ridge the same as so many rows with residuals of zero
    delta = dense(ridge_insert(keys, residuals, sparingly, weight))
    rows = torch.cat([keys, keep**0.5 * spared])
    zeros = torch.zeros(n, D_MODEL, dtype=torch.float64)
    as_rows = dense(ridge_insert(rows, torch.cat([residuals, zeros]), solve, weight))
    torch.testing.assert_close(delta, as_rows, atol=1e-7, rtol=1e-6)


@given(st.integers(0, 10_000), st.floats(0.001, 0.5))
def test_in_the_null_space_nothing_is_written_in_the_loudest_directions(
    seed: int, share: float
) -> None:
    keys, residuals, moment = drawn(seed, 2)
    values, vectors = torch.linalg.eigh(moment)
    quiet = values.cumsum(0) <= share * values.sum()
    if quiet.sum() < 2:  # too few for both keys
        return
    solve = null_space(moment, share)
    delta = dense(exact_insert(keys, residuals, solve))
    torch.testing.assert_close(keys @ delta, residuals, atol=1e-6, rtol=1e-6)
    assert (vectors[:, ~quiet].T @ delta).abs().max() < 1e-8 * delta.abs().max()
    # within it the least delta of all that map the keys, in the plain sense
    within = keys @ vectors[:, quiet]
    least = vectors[:, quiet] @ torch.linalg.pinv(within) @ residuals
    torch.testing.assert_close(delta, least, atol=1e-6, rtol=1e-6)


def test_a_whole_null_space_is_the_identity_at_the_scale_of_c() -> None:
    keys, _, moment = drawn(0, 3)
    solved = null_space(moment, 1.0)(keys.T)
    torch.testing.assert_close(solved, keys.T / (moment.trace() / D_KEY))
    with pytest.raises(InputError, match="no direction of the keys holds as little as 1e-09"):
        null_space(moment, 1e-9)
