"""Attention's share: ratios by hand, intervals over relations, and kinds that differ or do not."""

import numpy as np
import pytest
import torch

from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.grids import EffectGrid
from kedit.results.traces import FactTrace
from probes.kinds import ALL, SEVERED, Parts, parts, shares

LAYERS, TOKENS = 2, 4
LAST = 2  # the last corrupted token


def grid(
    site: str, effect: torch.Tensor, positions: tuple[int, ...], severed: str = ""
) -> EffectGrid:
    n = len(METRICS)
    return EffectGrid(
        site, 1, severed, positions, effect.expand(n, *effect.shape), torch.ones(n), torch.zeros(n)
    )


def fact(relation: str, attn: float, mlp: float, lost_attn=0.3, lost_mlp=0.1) -> FactTrace:
    """Attention brings `attn` in all and the MLPs `mlp`; severing either loses so much."""
    every = tuple(range(TOKENS))
    whole = torch.full((LAYERS, TOKENS), 0.5)
    cell = torch.zeros(LAYERS, TOKENS)
    cell[1, 3] = 1.0
    grids = {
        "attn_out": grid("attn_out", attn * cell, every),
        "mlp_out": grid("mlp_out", mlp * cell, every),
        "resid_post": grid("resid_post", whole, every),
    }
    for half, lost in (("attn_out", lost_attn), ("mlp_out", lost_mlp)):
        left = torch.full((LAYERS, 1), 0.5 - lost / LAYERS)
        grids[SEVERED[half]] = grid("resid_post", left, (LAST,), half)
    return FactTrace(
        "s", relation, "o", "p", ("a", "b", "c", "d"), "subject", (1, LAST), "", "x", "y", grids
    )


def test_parts_are_what_each_half_brings_and_what_is_lost_without_it():
    one = fact("P1", attn=0.6, mlp=0.2)
    assert parts(one, "restored", "prob") == pytest.approx(Parts(0.6, 0.2))
    assert parts(one, "severed", "prob") == pytest.approx(Parts(0.3, 0.1))


def test_a_half_that_takes_away_brings_nothing():
    assert parts(fact("P1", attn=-0.4, mlp=0.2), "restored", "prob") == pytest.approx((0, 0.2))
    assert parts(fact("P1", 1, 1, lost_attn=-0.2), "severed", "prob") == pytest.approx((0, 0.1))


def test_a_share_is_a_ratio_of_sums():
    traces = [fact("P1", 0.9, 0.1), fact("P1", 0.0, 0.001), fact("P2", 0.2, 0.2)]
    found, test = shares(traces, {"P1": "symmetric", "P2": "asymmetric"}, "restored", "prob")
    by_kind = {one.kind: one for one in found}
    assert set(by_kind) == {ALL, "symmetric", "asymmetric"}
    assert float(by_kind["symmetric"].share.mean) == pytest.approx(0.9 / 1.001)
    assert float(by_kind["asymmetric"].share.mean) == pytest.approx(0.5)
    assert float(by_kind[ALL].share.mean) == pytest.approx(1.1 / 1.401)
    assert (by_kind[ALL].n_relations, by_kind[ALL].n_facts) == (2, 3)
    assert test.spread == pytest.approx(0.9 / 1.001 - 0.5)


def many(symmetric: float, other: float) -> tuple[list[FactTrace], dict[str, str]]:
    """Twelve relations of each kind, whose shares scatter around these."""
    draw = np.random.default_rng(0)
    traces, kinds = [], {}
    for index in range(24):
        relation = f"P{index}"
        kinds[relation] = "symmetric" if index % 2 else "hierarchical"
        share = (symmetric if index % 2 else other) + draw.normal(0, 0.05)
        traces += [fact(relation, share, 1 - share) for _ in range(2)]
    return traces, kinds


def test_kinds_that_differ_are_told_apart_and_equal_ones_are_not():
    differ, kinds = many(0.7, 0.4)
    found, test = shares(differ, kinds, "restored", "prob")
    assert test.p < 0.01 and test.spread == pytest.approx(0.3, abs=0.05)
    own = {one.kind: one.share for one in found}
    assert float(own["hierarchical"].high) < float(own["symmetric"].low)
    same, kinds = many(0.5, 0.5)
    assert shares(same, kinds, "restored", "prob")[1].p > 0.05


def test_nothing_to_share_and_missing_sweeps_are_told():
    one = fact("P1", 0.0, 0.0, 0.0, 0.0)
    found, test = shares([one, one], {"P1": "symmetric"}, "severed", "prob")
    assert np.isnan(float(found[0].share.mean)) and test.spread == 0
    with pytest.raises(InputError, match="no traces"):
        shares([], {}, "restored", "prob")
    lacking = FactTrace(**{**vars(one), "grids": {"mlp_out": one.grids["mlp_out"]}})
    with pytest.raises(InputError, match="'restored' needs the sweeps attn_out"):
        parts(lacking, "restored", "prob")
