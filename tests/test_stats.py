"""Bootstrap intervals, on numbers small enough to check by hand."""

import itertools

import numpy as np
import pytest

from kedit.stats import (
    bootstrap_groups,
    bootstrap_ratio,
    enough,
    flipped,
    harmonic_mean,
    holm,
    largest,
    other_sign,
    paired,
    rank_correlation,
    ranks,
    rate_interval,
    resampled_means,
    resamples,
    row_interval,
)


def test_a_resample_draws_as_many_units_as_there_are():
    weights = resamples(7, draws=500, seed=0)
    assert weights.shape == (500, 7)
    assert (weights.sum(1) == 7).all() and (weights >= 0).all()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.2)
    assert np.array_equal(weights, resamples(7, 500, seed=0))
    assert not np.array_equal(weights, resamples(7, 500, seed=1))


def test_two_units_give_the_three_draws_that_there_are():
    # (1, 1), (1, 3) or (3, 1), (3, 3): means of 1, 2 and 3 in a quarter, a half, a quarter of draws
    sums, counts = np.array([1.0, 3.0]), np.ones(2)
    assert bootstrap_ratio(sums, counts) == (2, 1, 3)
    assert bootstrap_ratio(sums, counts, level=0.4) == (2, 2, 2)


def test_units_weigh_by_their_counts():
    # 10 tokens in all, 2 + 12 their sum; drawn twice, a unit shows its own ratio: 2 / 1 or 12 / 9
    mean, low, high = bootstrap_ratio(np.array([2.0, 12.0]), np.array([1.0, 9.0]))
    assert mean == pytest.approx(1.4)
    assert (low, high) == pytest.approx((12 / 9, 2))


def test_draws_of_units_without_tokens_are_left_out():
    # in a quarter of the draws, 0 and 0, nothing has a token
    mean, low, high = bootstrap_ratio(np.array([0.0, 6.0, 9.0]), np.array([0.0, 2.0, 2.0]))
    assert (mean, low, high) == (3.75, 3, 4.5)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_one_unit_has_no_interval(others: int):
    """However many there are without any token; its own value stays."""
    sums, counts = np.array([5.0] + [0.0] * others), np.array([2.0] + [0.0] * others)
    for interval in (bootstrap_ratio(sums, counts), rate_interval(sums / 5, counts / 2)):
        assert np.isfinite(interval.mean)
        assert np.isnan(interval.low) and np.isnan(interval.high)
    assert interval.named("rate") == {"rate": 1.0, "rate low": None, "rate high": None}
    two = bootstrap_ratio(np.array([5.0, 4.0]), np.array([2.0, 2.0]))
    assert two.low == 2 and two.high == 2.5


def test_a_column_of_one_unit_has_no_interval_nor_has_what_is_made_of_it():
    values = np.array([[1.0, 4.0], [np.nan, 6.0]])
    rows = resampled_means(values, resamples(2, 100, 0))
    alone, both, difference = (row_interval(row) for row in (*rows.T, rows[:, 1] - rows[:, 0]))
    assert (alone.mean, both.mean, difference.mean) == (1, 5, 4)
    assert (both.low, both.high) == (4, 6)
    assert np.isnan([alone.low, alone.high, difference.low, difference.high]).all()
    assert np.isnan(other_sign(rows[:, 1] - rows[:, 0]))
    without_draws = row_interval(np.array([5.0]))
    assert without_draws.mean == 5 and np.isnan(without_draws.low)


def test_a_rate_of_all_or_none_has_a_width():
    ones = np.ones(51)
    rate, low, high = rate_interval(ones, ones)
    assert (rate, high) == (1, 1) and low == pytest.approx(51 / (51 + 1.959964**2))  # 93 %
    rate, low, high = rate_interval(0 * ones, ones)
    assert (rate, low) == (0, 0) and high == pytest.approx(1 - 51 / (51 + 1.959964**2))
    # cases of several prompts each: the prompts do not count
    assert rate_interval(4 * ones, 4 * ones) == rate_interval(ones, ones)


def test_a_rate_of_single_units_is_wilsons():
    # 15 of 148, an example of Newcombe 1998, table I: 0.0624 to 0.1605
    values = np.r_[np.ones(15), np.zeros(133)]
    found = rate_interval(values, np.ones(148))
    assert found.mean == 15 / 148
    assert (found.low, found.high) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    columns = rate_interval(np.stack([values, np.ones(148)], 1), np.ones(148))
    assert [float(bound[0]) for bound in columns] == pytest.approx([float(one) for one in found])
    assert columns.low[1] == pytest.approx(148 / (148 + 1.959964**2))


def test_units_that_are_shares_are_surer_than_units_of_one_value():
    shares = np.tile([0.4, 0.6], 20)
    single = np.tile([0.0, 1.0], 20)
    narrow, wide = (rate_interval(values, np.ones(40)) for values in (shares, single))
    assert narrow.mean == wide.mean == 0.5
    assert 0.05 < narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


@pytest.mark.parametrize(("rate", "n_prompts"), [(0.5, 1), (0.9, 1), (0.9, 5), (0.99, 10)])
def test_intervals_of_rates_cover_the_truth_at_least_as_often_as_they_say(
    rate: float, n_prompts: int
):
    """Where a bootstrap would cover it in a third of all samples."""
    source = np.random.default_rng(0)
    own = source.beta(2 * rate, 2 * (1 - rate), (2000, 40)) if n_prompts > 1 else rate
    drawn = source.binomial(n_prompts, own, (2000, 40)) / n_prompts
    bounds = [rate_interval(values, np.ones(40)) for values in drawn]
    covered = np.mean([one.low <= rate <= one.high for one in bounds])
    assert covered > 0.93
    assert all(0 <= one.low <= one.mean <= one.high <= 1 for one in bounds)


def test_groups_of_few_facts_hold_no_peak():
    assert enough([32, 10, 9, 0]) == (True, True, False, False)
    assert enough([8, 4, 3]) == (True, True, False)  # half of the facts
    assert enough([1, 0]) == (True, False)
    assert enough([]) == ()


@pytest.mark.parametrize("n", [0, 1, 4])
def test_nothing_to_average_is_nan_of_the_right_shape(n: int):
    for values in bootstrap_ratio(np.zeros((n, 3, 2)), np.zeros(n)):
        assert values.shape == (3, 2)
        assert np.isnan(values).all()


def test_an_array_is_averaged_entry_by_entry():
    sums = np.random.default_rng(0).normal(size=(12, 3, 4))
    counts = np.arange(1.0, 13.0)
    whole = bootstrap_ratio(sums, counts, draws=300, seed=5)
    alone = bootstrap_ratio(sums[:, 1, 2], counts, draws=300, seed=5)
    assert [float(values[1, 2]) for values in whole] == pytest.approx([float(v) for v in alone])
    assert all(values.shape == (3, 4) for values in whole)


def test_the_same_seed_gives_the_same_interval():
    sums, counts = np.random.default_rng(0).normal(size=20), np.ones(20)
    assert bootstrap_ratio(sums, counts, seed=3) == bootstrap_ratio(sums, counts, seed=3)
    assert bootstrap_ratio(sums, counts, seed=3) != bootstrap_ratio(sums, counts, seed=4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    source = np.random.default_rng(0)
    covered, n_trials = 0, 400
    for trial in range(n_trials):
        counts = source.integers(1, 5, size=40).astype(float)
        sums = counts * source.normal(1.0, 1.0, size=40)
        _, low, high = bootstrap_ratio(sums, counts, draws=400, seed=trial)
        covered += low <= 1.0 <= high
    assert (
        0.90 < covered / n_trials < 0.98
    )  # 95 % is wanted; percentile intervals fall a little short


def test_a_harmonic_mean_is_nothing_where_a_part_is() -> None:
    parts = np.array([[1.0, 0.5, 0.0, -1.0, np.nan], [0.5, 0.5, 1.0, 1.0, 1.0]])
    found = harmonic_mean(parts)
    np.testing.assert_allclose(found, [2 / 3, 0.5, 0, 0, np.nan])
    assert not np.signbit(found[:4]).any()


def test_a_paired_test_counts_sign_flips():
    # of the eight sign patterns of three equal differences two are as large as the one observed
    found = paired(np.array([2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert found.difference == (1, 1, 1)
    assert found.p == pytest.approx(0.25, abs=0.02)
    nothing = paired(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert nothing.p == 1 and nothing.difference.mean == 0


def test_a_paired_test_tells_a_shift_from_noise_and_is_symmetric():
    noise = np.random.default_rng(0).normal(size=60)
    assert paired(noise + 1, np.zeros(60)).p < 0.001
    assert paired(noise - noise.mean(), np.zeros(60)).p > 0.9
    one, other = paired(noise + 0.2, np.zeros(60)), paired(np.zeros(60), noise + 0.2)
    assert one.p == other.p and one.difference.mean == -other.difference.mean


def test_pairs_that_lack_a_value_are_left_out():
    gap = float("nan")
    with_gaps = paired(np.array([2.0, gap, 3.0, 4.0]), np.array([1.0, 1.0, 2.0, 3.0]))
    assert with_gaps.difference.mean == 1 and with_gaps.p == pytest.approx(0.25, abs=0.02)
    assert np.isnan(paired(np.array([gap]), np.array([1.0])).p)


def test_the_largest_are_of_either_sign_the_first_of_equal_ones_first():
    values = np.array([[1.0, -3.0, np.nan], [2.0, 3.0, 0.0]])
    assert largest(values, 3) == [(0, 1), (1, 1), (1, 0)]
    assert len(largest(values, 9)) == 6


def test_holm_by_hand():
    adjusted = holm(np.array([0.01, 0.04, 0.03, np.nan]))
    assert adjusted[:3] == pytest.approx([0.03, 0.06, 0.06]) and np.isnan(adjusted[3])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_groups_are_drawn_whole():
    mean, low, high = bootstrap_groups([[1, 1, 1, 1], [3], []])
    assert (mean, low, high) == (1.4, 1, 3)  # the bounds are draws of one group alone
    assert np.isnan(bootstrap_groups([[1, 2], []]).low)
    assert np.isnan(bootstrap_groups([[], []]).mean)


def test_equal_values_share_the_mean_of_their_ranks():
    values = np.array([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert ranks(values).tolist() == [[3.5, 1, 3.5, 2], [2.5, 2.5, 2.5, 2.5]]


def test_a_rank_correlation_is_spearmans():
    one = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    both = rank_correlation(np.stack([one, one]), np.stack([np.exp(one), -one]))
    assert both == pytest.approx([1, -1])
    # without ties: 1 - 6 Σd² / (n (n² - 1)), d = (0, 1, 1, 1, 1)
    other = np.array([10.0, 30.0, 20.0, 50.0, 40.0])
    assert float(rank_correlation(one, other)) == pytest.approx(1 - 6 * 4 / (5 * 24))
    # with ties: Pearson's of the ranks (1, 2.5, 2.5, 4) and (1, 3, 2, 4)
    tied, straight = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert float(rank_correlation(tied, straight)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    rounded = tied + np.array([0, 1e-15, -1e-15, 0])
    assert float(rank_correlation(rounded, straight)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@pytest.mark.parametrize("other", [[2.0, 2.0, 2.0], [1.0, np.nan, 3.0], [1.0, 2.0]])
def test_where_nothing_can_be_ranked_there_is_no_correlation(other: list[float]):
    one = np.array([1.0, 2.0, 3.0])[: len(other)]
    assert np.isnan(rank_correlation(one, np.array(other)))


def test_resampled_means_leave_out_what_is_missing():
    nan = np.nan
    values = np.array([[1.0, 4.0, nan], [3.0, 6.0, nan], [2.0, nan, nan]])
    found = resampled_means(values, np.array([[3, 0, 0], [0, 0, 3], [1, 1, 1]]))
    wanted = [[2, 5, nan], [1, 4, nan], [2, nan, nan], [2, 5, nan]]
    np.testing.assert_array_equal(found, wanted)


def test_p_is_the_share_of_draws_with_the_other_sign():
    drawn = np.array([0.9] + [1.0] * 97 + [-1.0] * 2)
    assert other_sign(drawn) == pytest.approx(2 * 3 / 100)
    assert other_sign(np.ones(100)) == pytest.approx(0.02)  # never nothing
    assert other_sign(np.zeros(100)) == 1
    assert np.isnan(other_sign(np.array([1.0, np.nan])))


def test_a_cell_is_tested_beside_the_largest_of_all_cells() -> None:
    """Against every combination of signs, for facts that are few enough to try all of them."""
    draw = np.random.default_rng(3)
    values = draw.normal(size=(8, 5)) + np.array([1.5, 0.6, 0, 0, 0])
    signs = np.array([*itertools.product([-1, 1], repeat=8)])
    scaled = values / np.sqrt((values**2).sum(0))
    largest = np.abs(signs @ scaled).max(1)
    exact = [(largest >= own - 1e-9).mean() for own in np.abs(scaled.sum(0))]
    found = flipped(values, draws=20_000)
    np.testing.assert_allclose(found, exact, atol=0.02)
    one_by_one = [flipped(values[:, [cell]], draws=20_000)[0] for cell in range(5)]
    assert (found >= np.array(one_by_one) - 0.01).all()  # the correction takes nothing away
    assert found[0] < 0.05 < found[2]


def test_cells_that_repeat_a_cell_cost_nothing() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, (12, 1))
    repeated = np.repeat(values, 50, 1).reshape(12, 5, 10)
    assert flipped(repeated).shape == (5, 10)
    np.testing.assert_array_equal(flipped(repeated), flipped(values)[0])


def test_without_effects_few_tests_find_any() -> None:
    """The share of data sets in which any of 40 cells is significant at 5 %, at 400 data sets."""
    draw = np.random.default_rng(1)
    any_found = [
        (flipped(draw.normal(size=(12, 40)), draws=500, seed=number) < 0.05).any()
        for number in range(400)
    ]
    assert 0.01 < np.mean(any_found) < 0.10


def test_nothing_is_tested_where_there_is_nothing() -> None:
    assert np.isnan(flipped(np.zeros((6, 2)))).all()
    assert np.isnan(flipped(np.ones((1, 2)))).all()
    assert np.isnan(flipped(np.array([[0, 1.0]] * 6))).tolist() == [True, False]
