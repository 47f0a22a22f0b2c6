"""A screen restores what it keeps, draws a sample of the rest, and tells what it missed."""

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from kedit.results.grids import EffectGrid, Screen
from kedit.results.screens import quality
from kedit.results.traces import FactTrace
from probes.corrupt import Corruption, add_noise, noise_rule
from probes.patch import Patch
from probes.screen import Screening
from probes.trace import trace

FACT = toy_module.facts()[0]
SITES = (Patch("resid_post"), Patch("mlp_out", 3), Patch("attn_out"), Patch("z"))


@pytest.fixture(scope="module")
def noised(toy: HookedTransformer) -> Corruption:
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    return add_noise(toy, encode(toy, FACT), "subject", noise, samples=3, seed=0)


@pytest.fixture(scope="module")
def whole(toy: HookedTransformer, noised: Corruption) -> FactTrace:
    return trace(toy, FACT, "subject", noised, SITES)


def screened(
    toy: HookedTransformer, noised: Corruption, screening: Screening, sites=SITES
) -> FactTrace:
    return trace(toy, FACT, "subject", noised, sites, screening=screening)


def test_what_is_kept_or_sampled_is_exact_and_the_rest_estimated(
    toy: HookedTransformer, noised: Corruption, whole: FactTrace
):
    some = screened(toy, noised, Screening(0.2, sample=0.2))
    for name, grid in some.grids.items():
        assert grid.screen is not None
        asked = grid.screen.kept | grid.screen.sampled
        exact = whole.grids[name]
        torch.testing.assert_close(grid.restored[:, asked], exact.restored[:, asked])
        guess = grid.corrupted.view(-1, 1) + grid.screen.estimated[:, ~asked]
        torch.testing.assert_close(grid.restored[:, ~asked], guess)
        # a control: elsewhere the two differ
        assert (grid.restored[:, ~asked] - exact.restored[:, ~asked]).abs().max() > 1e-4
        assert not (grid.screen.kept & grid.screen.sampled).any()


def test_the_seed_draws_the_sample(toy: HookedTransformer, noised: Corruption):
    one, again, other = (
        screened(toy, noised, Screening(0.2, sample=0.2, seed=seed), SITES[-1:]).grids["z"].screen
        for seed in (0, 0, 1)
    )
    assert one is not None and again is not None and other is not None
    assert torch.equal(one.sampled, again.sampled) and not torch.equal(one.sampled, other.sampled)
    assert torch.equal(one.kept, other.kept)


def test_the_largest_estimates_are_kept_as_many_as_asked_for(
    toy: HookedTransformer, noised: Corruption
):
    some = screened(toy, noised, Screening(0.25, metric="logprob", sample=0.0))
    for grid in some.grids.values():
        assert grid.screen is not None
        size = grid.screen.estimated[METRICS.index("logprob")].abs()
        n_cells = size[:, noised.positions[0] :].numel()
        assert int(grid.screen.kept.sum()) == round(0.25 * n_cells)
        assert not grid.screen.sampled.any()
        assert size[grid.screen.kept].min() >= size[~grid.screen.kept].max()


def test_a_screen_that_keeps_all_is_no_screen(
    toy: HookedTransformer, noised: Corruption, whole: FactTrace
):
    everything = screened(toy, noised, Screening(1.0))
    for name, grid in everything.grids.items():
        torch.testing.assert_close(grid.restored, whole.grids[name].restored)
        found = quality([everything], name, "prob")
        assert float(found.recall.mean) == float(found.mass.mean) == 1


def test_severed_sweeps_are_not_screened(toy: HookedTransformer, noised: Corruption):
    cut = Patch("resid_post", severed="mlp_out")
    some = screened(toy, noised, Screening(0.1), (*SITES, cut))
    plain = trace(toy, FACT, "subject", noised, [cut])
    name = "resid_post-severed-mlp_out"
    assert some.grids[name].screen is None
    torch.testing.assert_close(some.grids[name].restored, plain.grids[name].restored)


def test_a_screen_survives_its_file(toy: HookedTransformer, noised: Corruption):
    some = screened(toy, noised, Screening(0.2))
    again = FactTrace.from_record(some.to_record(), some.tensors())
    for name, grid in some.grids.items():
        one, other = grid.screen, again.grids[name].screen
        assert one is not None and other is not None
        for field, value in vars(one).items():
            assert torch.equal(value, getattr(other, field)), field


def made(effects: list[float], kept: list[int], sampled: list[int]) -> FactTrace:
    """A trace of one layer whose positions have these effects, all of them exact."""
    effect = torch.tensor([effects])
    where = [torch.zeros_like(effect, dtype=torch.bool) for _ in range(2)]
    for mask, places in zip(where, (kept, sampled), strict=True):
        mask[0, places] = True
    n_metrics = len(METRICS)
    grid = EffectGrid(
        "z", 1, "", tuple(range(len(effects))), effect.expand(n_metrics, 1, -1),
        torch.ones(n_metrics), torch.zeros(n_metrics),
        Screen(effect.expand(n_metrics, 1, -1), *where),
    )  # fmt: skip
    labels = tuple(map(str, effects))
    return FactTrace("s", "P1", "o", "s", labels, "subject", (0,), "", "a", "b", {"z": grid})


def test_quality_by_hand():
    """Two kept of six; the two sampled stand for four: one of those is larger than a kept one."""
    trace_ = made([0.8, -0.2, 0.5, 0.1, 9.0, 9.0], kept=[0, 1], sampled=[2, 3])
    found = quality([trace_], "z", "prob")
    # of the two largest, .8 was kept; .5 (which stands for two cells) takes the other place
    assert float(found.recall.mean) == pytest.approx(0.5)
    assert float(found.mass.mean) == pytest.approx(1.0 / (1.0 + 2 * 0.6))
    assert (float(found.largest_missed.mean), float(found.largest_kept.mean)) == pytest.approx(
        (0.5, 0.8)
    )
    assert (found.n_kept, found.n_sampled, found.n_cells) == (2, 2, 6)


def test_recall_is_what_it_would_be_without_a_sample(
    toy: HookedTransformer, noised: Corruption, whole: FactTrace
):
    """With everything sampled the estimate is the truth."""
    full = screened(toy, noised, Screening(0.2, sample=1.0), SITES[-1:])
    grid = full.grids["z"]
    assert grid.screen is not None
    exact = whole.grids["z"].indirect_effect("prob").abs()
    top = exact.flatten().topk(int(grid.screen.kept.sum())).indices
    wanted = float(grid.screen.kept.flatten()[top].float().mean())
    recall = float(quality([full], "z", "prob").recall.mean)
    assert recall == pytest.approx(wanted, abs=1e-6)


def test_recall_by_a_sample_is_near_the_truth():
    """Of many cells: with few, one that is found in the sample takes whole places."""
    rng = np.random.default_rng(0)
    effects = rng.exponential(size=600)
    kept = np.argsort(-(effects + rng.normal(size=600)))[:200].tolist()  # by a poor estimate
    rest = np.setdiff1d(np.arange(600), kept)
    wanted = np.isin(np.argsort(-effects)[:200], kept).mean()
    assert 0.3 < wanted < 0.8
    parts = []
    for _ in range(40):
        some = rng.permutation(rest)[: len(rest) // 3].tolist()
        found = quality([made(effects.tolist(), kept, some)], "z", "prob")
        parts.append(float(found.recall.mean))
    assert np.mean(parts) == pytest.approx(wanted, abs=0.02) and np.std(parts) > 0.01


def test_bad_shares_and_unscreened_traces_are_told(whole: FactTrace):
    for share, sample in ((0.0, 0.1), (1.2, 0.1), (0.1, -0.1)):
        with pytest.raises(InputError, match="sample between 0 and 1"):
            Screening(share, sample=sample)
    with pytest.raises(InputError, match="no screened traces of 'z'"):
        quality([whole], "z", "prob")
