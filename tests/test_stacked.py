"""Stacked solves on tiny matrices: what they minimise, by hand, and what they spare."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedit.editing.closed_form import exact_insert, ridge_insert, sparing
from kedit.editing.stacked import Stack
from kedit.editing.write_sites import WriteSite

ATTN, MLP = WriteSite(1, "attn"), WriteSite(1, "mlp")
WIDTHS = {ATTN: 6, MLP: 9}
N, D_MODEL = 3, 4
apartness = pytest.mark.parametrize("apart", [False, True])


class Drawn:
    """Keys, what is lacking, and a joint moment with a cross block."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.keys = {site: normal(N, width) for site, width in WIDTHS.items()}
        self.others = {site: normal(5, width) for site, width in WIDTHS.items()}
        self.lacking = {site: normal(N, D_MODEL) for site in WIDTHS}
        size = sum(WIDTHS.values())
        text = normal(80, size) @ normal(size, size) * torch.logspace(-1, 1, size).double()
        self.moment = text.T @ text / len(text)
        self.rival = normal(size, D_MODEL)

    def solve(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.moment, x)

    def stack(self, apart: bool) -> Stack:
        return Stack({site: torch.arange(n) for site, n in WIDTHS.items()}, self.solve, apart)


def by_hand(drawn: Drawn, apart: bool) -> tuple[Tensor, Tensor]:
    """The system A D = R, written out."""
    z, k = drawn.keys[ATTN], drawn.keys[MLP]
    if not apart:
        return torch.cat([z, k], 1), drawn.lacking[ATTN] + drawn.lacking[MLP]
    above = torch.cat([z, torch.zeros(N, WIDTHS[MLP]).double()], 1)
    below = torch.cat([torch.zeros(N, WIDTHS[ATTN]).double(), k], 1)
    return torch.cat([above, below]), torch.cat([drawn.lacking[ATTN], drawn.lacking[MLP]])


def dense(deltas: dict) -> Tensor:
    return torch.cat([deltas[site].left @ deltas[site].right for site in (ATTN, MLP)])


def disturbance(delta: Tensor, moment: Tensor) -> float:
    return float(torch.einsum("km,kj,jm->", delta, moment, delta))


@apartness
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0.01, 100))
def test_it_minimises_error_disturbance_and_what_neighbours_lose(
    apart: bool, seed: int, weight: float, keep: float
) -> None:
    drawn = Drawn(seed)
    stack = drawn.stack(apart)
    others = torch.block_diag(*drawn.others.values())
    spared = stack.spared(drawn.others)
    torch.testing.assert_close(spared.whitened, drawn.solve(others.T))
    insert = partial(ridge_insert, solve=sparing(drawn.solve, spared, keep / weight), weight=weight)
    made = dense(stack.inserted(drawn.keys, drawn.lacking, insert))
    keys, residuals = by_hand(drawn, apart)
    root = torch.linalg.cholesky(drawn.moment).T  # ‖root D‖² = tr(DᵀCD)
    system = torch.cat([keys, weight**0.5 * root, keep**0.5 * others])
    right = torch.cat([residuals, torch.zeros(len(root) + len(others), D_MODEL).double()])
    least = torch.linalg.lstsq(system, right).solution
    torch.testing.assert_close(made, least, atol=1e-6, rtol=1e-5)


@apartness
@given(st.integers(0, 10_000))
def test_an_exact_stack_brings_all_and_no_rival_disturbs_less(apart: bool, seed: int) -> None:
    drawn = Drawn(seed)
    insert = partial(exact_insert, solve=drawn.solve)
    made = dense(drawn.stack(apart).inserted(drawn.keys, drawn.lacking, insert))
    keys, residuals = by_hand(drawn, apart)
    torch.testing.assert_close(keys @ made, residuals, atol=1e-7, rtol=1e-7)
    harmless = drawn.rival - torch.linalg.pinv(keys) @ (keys @ drawn.rival)
    least = disturbance(made, drawn.moment)
    for size in (1e-3, 0.1, 1.0):
        assert disturbance(made + size * harmless, drawn.moment) > least


@pytest.mark.parametrize("exact", [True, False])
def test_apart_and_without_a_cross_block_it_is_two_solves(exact: bool) -> None:
    drawn = Drawn(0)
    n_attn = WIDTHS[ATTN]
    together = dense(drawn.stack(True).inserted(drawn.keys, drawn.lacking, inserting(drawn, exact)))
    drawn.moment[:n_attn, n_attn:] = drawn.moment[n_attn:, :n_attn] = 0
    uncrossed = dense(
        drawn.stack(True).inserted(drawn.keys, drawn.lacking, inserting(drawn, exact))
    )
    blocks = {ATTN: drawn.moment[:n_attn, :n_attn], MLP: drawn.moment[n_attn:, n_attn:]}
    each = []
    for site, block in blocks.items():
        solve = partial(torch.linalg.solve, block)
        insert = (
            partial(exact_insert, solve=solve)
            if exact
            else partial(ridge_insert, solve=solve, weight=2.0)
        )
        alone = Stack({site: torch.arange(WIDTHS[site])}, solve, True)
        delta = alone.inserted({site: drawn.keys[site]}, {site: drawn.lacking[site]}, insert)[site]
        each.append(delta.left @ delta.right)
    torch.testing.assert_close(uncrossed, torch.cat(each))
    assert (together - uncrossed).norm() > 0.01 * uncrossed.norm()  # the block matters


def inserting(drawn: Drawn, exact: bool):
    if exact:
        return partial(exact_insert, solve=drawn.solve)
    return partial(ridge_insert, solve=drawn.solve, weight=2.0)


def test_where_outputs_add_up_only_their_sum_counts() -> None:
    drawn = Drawn(1)
    insert = inserting(drawn, exact=True)
    made = dense(drawn.stack(False).inserted(drawn.keys, drawn.lacking, insert))
    shift = torch.randn(N, D_MODEL, generator=torch.Generator().manual_seed(0)).double()
    exchanged = {ATTN: drawn.lacking[ATTN] + shift, MLP: drawn.lacking[MLP] - shift}
    torch.testing.assert_close(
        dense(drawn.stack(False).inserted(drawn.keys, exchanged, insert)), made
    )


def test_chosen_rows_alone_change_and_are_enough() -> None:
    drawn = Drawn(2)
    chosen = torch.tensor([0, 1, 4, 5])
    index = torch.cat([chosen, torch.arange(WIDTHS[MLP]) + WIDTHS[ATTN]])
    moment = drawn.moment[index][:, index]
    solve = partial(torch.linalg.solve, moment)
    stack = Stack({ATTN: chosen, MLP: torch.arange(WIDTHS[MLP])}, solve, True)
    insert = partial(exact_insert, solve=solve)
    made = stack.inserted(drawn.keys, drawn.lacking, insert)
    delta = made[ATTN].left @ made[ATTN].right
    assert torch.equal(delta[[2, 3]], torch.zeros(2, D_MODEL).double())
    torch.testing.assert_close(drawn.keys[ATTN] @ delta, drawn.lacking[ATTN])
