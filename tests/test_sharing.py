"""Heads by relation: planted maps are found alike or not, and chance is not taken for either."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.heads import Head
from kedit.results.averages import BUCKETS
from kedit.results.grids import EffectGrid
from kedit.results.traces import FactTrace
from probes.sharing import by_relation, profile, sharing, strongest

LAYERS, TOKENS, HEADS = 3, 5, 4
CORRUPTED = (1, 2)


def made(relation: str, effect: torch.Tensor) -> FactTrace:
    """A fact whose heads have these effects ("layer pos head") by every metric."""
    n = len(METRICS)
    grid = EffectGrid(
        "z", 1, "", tuple(range(TOKENS)), effect.expand(n, *effect.shape) + 0.1,
        torch.ones(n), torch.full((n,), 0.1),
    )  # fmt: skip
    labels = tuple(f"t{pos}" for pos in range(TOKENS))
    return FactTrace(
        "s", relation, "o", "p", labels, "relation", CORRUPTED, "", "a", "f", {"z": grid}
    )


def facts(heads: dict[str, Head], n: int = 6, noise: float = 0.02) -> list[FactTrace]:
    """`n` facts of each relation, whose own head has an effect of one at the last token."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for relation, head in heads.items():
        for _ in range(n):
            effect = noise * torch.randn(LAYERS, TOKENS, HEADS, generator=draw)
            effect[head.layer, -1, head.head] += 1
            found.append(made(relation, effect))
    return found


NAMES = {"P1": "first", "P2": "second", "P3": "third"}


def test_a_profile_is_the_mean_over_a_buckets_tokens():
    effect = torch.arange(LAYERS * TOKENS * HEADS, dtype=torch.float32)
    effect = effect.view(LAYERS, TOKENS, HEADS) / 100
    found = profile(made("P1", effect), "prob")
    assert found.shape == (len(BUCKETS), LAYERS, HEADS)
    for bucket, columns in (
        ("first corrupted", [1]),
        ("last corrupted", [2]),
        ("first subsequent", [3]),
        ("last token", [4]),
    ):
        row = found[BUCKETS.index(bucket)]
        np.testing.assert_allclose(row, effect[:, columns].mean(1).numpy(), atol=1e-6)
    assert not found[BUCKETS.index("middle corrupted")].any()  # no such token


def test_relations_with_one_head_are_alike_and_those_with_others_are_not():
    same = {"P1": Head(1, 2), "P2": Head(1, 2), "P3": Head(1, 2)}
    other = {"P1": Head(0, 0), "P2": Head(1, 2), "P3": Head(2, 3)}
    together, apart = (sharing(facts(heads), "prob") for heads in (same, other))
    assert float(together.shared.mean) > 0.95 and together.p > 0.05
    assert abs(float(apart.shared.mean)) < 0.1 and apart.p < 0.01
    for found in (together, apart):
        assert float(found.within.mean) > 0.8
        assert float(found.shared.low) <= float(found.shared.mean) <= float(found.shared.high)
        assert (found.n_relations, found.n_facts) == (3, 18)


def test_noise_lowers_both_correlations_and_not_what_is_shared():
    heads = {"P1": Head(1, 2), "P2": Head(1, 2), "P3": Head(0, 1)}
    clear, noisy = (sharing(facts(heads, 24, noise), "prob") for noise in (0.01, 0.15))
    assert float(noisy.within.mean) < 0.8 * float(clear.within.mean)
    assert float(noisy.shared.mean) == pytest.approx(float(clear.shared.mean), abs=0.05)
    assert float(clear.shared.mean) == pytest.approx(1 / 3, abs=0.05)  # one pair of three


def test_facts_without_any_relation_of_their_own_are_not_told_apart():
    draw = torch.Generator().manual_seed(1)
    found = []
    for _ in range(20):
        effects = torch.randn(12, LAYERS, TOKENS, HEADS, generator=draw)
        chance = [made(f"P{index % 3 + 1}", effect) for index, effect in enumerate(effects)]
        found.append(sharing(chance, "prob", draws=200).p)
    assert np.mean(np.array(found) < 0.05) < 0.2
    assert 0.3 < np.mean(found) < 0.7


def test_relations_are_ordered_by_likeness_with_their_means():
    heads = {"P1": Head(0, 0), "P2": Head(2, 3), "P3": Head(0, 0)}
    found = by_relation(facts(heads), NAMES, "prob")
    ordered = [found.relations[row] for row in found.order]
    assert ordered in (["second", "first", "third"], ["first", "third", "second"],
                       ["second", "third", "first"], ["third", "first", "second"])  # fmt: skip
    last = BUCKETS.index("last token")
    row = found.relations.index("second")
    assert found.mean[row, last, 2, 3] == pytest.approx(1, abs=0.05)
    assert (found.low <= found.mean).all() and (found.mean <= found.high).all()
    assert found.similarity[0, 2] > 0.9 > 0.2 > found.similarity[0, 1]
    assert strongest(found, 2) == [(last, Head(0, 0)), (last, Head(2, 3))]


def test_one_relation_or_single_facts_cannot_be_compared():
    one = facts({"P1": Head(0, 0)})
    with pytest.raises(InputError, match="1 of . relations have 2 facts or more"):
        sharing(one, "prob")
    with pytest.raises(InputError, match="0 of 3 relations have 2 facts or more"):
        by_relation(facts({name: Head(0, 0) for name in NAMES}, n=1), NAMES, "prob")
    with pytest.raises((ValueError, TypeCheckError)):
        sharing(one, "no such metric")
