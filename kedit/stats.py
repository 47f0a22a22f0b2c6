"""Computes intervals, tests and ranks on plain arrays.

Intervals of means come from a bootstrap over units (facts or cases), intervals of rates from
Wilson's score. Tests flip signs or permute labels.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray


class Interval(NamedTuple):
    """An estimate and the bounds of its interval, all of one shape.

    The bounds are NaN where there is no interval, as for fewer than two units: a single fact does
    not show how much facts differ.
    """

    mean: Float[ndarray, "*shape"]
    low: Float[ndarray, "*shape"]
    high: Float[ndarray, "*shape"]

    def floats(self, unit: int | float = 1) -> tuple[float, float, float]:
        """Returns mean, low and high of a single estimate, multiplied by `unit`."""
        return unit * float(self.mean), unit * float(self.low), unit * float(self.high)

    def at(self, *index: int) -> "Interval":
        """Returns one of several estimates, with its bounds."""
        return Interval(*(np.asarray(values[index]) for values in self))

    def named(self, name: str) -> dict[str, float | None]:
        """Returns a single estimate as three columns of a table; None replaces NaN."""
        columns = (name, f"{name} low", f"{name} high")
        values = (value if isfinite(value) else None for value in self.floats())
        return dict(zip(columns, values, strict=True))


def resamples(n: int, draws: int, seed: int) -> Int[ndarray, "draw n"]:
    """Draws bootstrap samples: how often each of `n` units is in each draw."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def bootstrap_ratio(
    sums: Float[ndarray, "n *shape"],
    counts: Float[ndarray, " n"],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Computes sum(sums) / sum(counts) over units, with a percentile interval of a unit bootstrap.

    If all counts are 1, this is the mean. Draws in which all counts are zero are left out. If all
    counts are zero, the result is NaN; if only one is not, there is no interval.

    Args:
        sums: the sum of the values of each unit.
        counts: the number of values of each unit.
        draws: number of bootstrap draws.
        level: coverage of the interval.
    """
    n = len(sums)
    nothing = np.full(sums.shape[1:], np.nan)
    if counts.sum() == 0:
        return Interval(nothing, nothing, nothing)
    if (counts != 0).sum() < 2:
        return Interval(np.asarray(sums.sum(0) / counts.sum()), nothing, nothing)
    flat = sums.reshape(n, -1).astype(float)
    weights = resamples(n, draws, seed)
    drawn = weights @ counts
    ratios = (weights[drawn > 0] @ flat) / drawn[drawn > 0, None]
    whole = percentile_interval(flat.sum(0) / counts.sum(), ratios, level)
    return Interval(*(values.reshape(sums.shape[1:]) for values in whole))


def bootstrap_groups(
    groups: Sequence[Sequence[int | float]], draws: int = 2000, seed: int = 0
) -> Interval:
    """Computes the mean of all values, with an interval of a bootstrap over whole groups."""
    sums, counts = (np.array([size(group) for group in groups], float) for size in (sum, len))
    return bootstrap_ratio(sums, counts, draws, seed)


def rate_interval(
    sums: Float[ndarray, "n *shape"], counts: Float[ndarray, " n"], level: float = 0.95
) -> Interval:
    """Computes a rate, sum(sums) / sum(counts), with Wilson's score interval over the units.

    If 51 of 51 units are 1, a percentile bootstrap has no width; Wilson's interval is [0.93, 1]:

        (n p + z²/2 ± z √(n p (1 − p) + z²/4)) / (n + z²)                   Wilson 1927

    The value of a unit is 0 or 1, or a share, such as the share of a case's prompts. The prompts of
    a case are not independent, so n counts units. But shares vary less than p (1 − p), so n is
    divided by the ratio of their variance to p (1 − p). To keep this ratio above 0, it is computed
    with z²/2 more units of 0 and z²/2 more units of 1 (Agresti and Coull 1998 add these; this use
    of them is ours). If all units are 0 or 1, the ratio is 1 and the interval is Wilson's: 51 cases
    of 51 give [0.93, 1], however many prompts they have. Units of several sizes count as Kish's
    effective number, (Σ counts)² / Σ counts².

    Args:
        sums: the sum of the values of each unit, which are 0 or 1.
        counts: the number of values of each unit; units without values are left out.
        level: coverage of the interval.
    """
    there = counts > 0
    sums, counts = sums[there].astype(float), counts[there].astype(float)
    if not len(counts):
        nothing = np.full(sums.shape[1:], np.nan)
        return Interval(nothing, nothing, nothing)
    rate = np.asarray(sums.sum(0) / counts.sum())
    if len(counts) < 2:
        return Interval(rate, np.full_like(rate, np.nan), np.full_like(rate, np.nan))
    z, weights = NormalDist().inv_cdf((1 + level) / 2), counts.reshape(-1, *[1] * rate.ndim)
    n, added = counts.sum() ** 2 / (counts**2).sum(), z * z / 2
    centre = (n * rate + added) / (n + 2 * added)
    squares = n * ((sums - weights * centre) ** 2).sum(0) / (counts**2).sum()
    squares = squares + added * ((1 - centre) ** 2 + centre**2)
    n = n * centre * (1 - centre) / (squares / (n + 2 * added))
    middle, width = n * rate + z * z / 2, z * np.sqrt(n * rate * (1 - rate) + z * z / 4)
    bounds = ((middle + side * width) / (n + z * z) for side in (-1, 1))
    low, high = (np.asarray(bound).clip(0, 1) for bound in bounds)
    # rounding may move a bound past a rate of 0 or 1
    return Interval(rate, np.minimum(low, rate), np.maximum(high, rate))


def percentile_interval(
    mean: Float[ndarray, "*shape"], drawn: Float[ndarray, "draw *shape"], level: float = 0.95
) -> Interval:
    """Builds the interval of `mean` from percentiles of its bootstrap draws, without NaN draws."""
    lost = np.isnan(drawn).all(0)
    if lost.all():  # also if there are no draws
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    drawn = np.where(lost, 0.0, drawn)
    bounds = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(lost | np.isnan(mean), np.nan, bounds)
    return Interval(mean, np.asarray(low), np.asarray(high))  # arrays even if 0-d


def row_interval(row: Float[ndarray, " one_and_draws"]) -> Interval:
    """Builds the interval of an estimate, row[0], from its bootstrap draws, row[1:]."""
    return percentile_interval(np.asarray(row[0]), row[1:])


def other_sign(row: Float[ndarray, " one_and_draws"]) -> float:
    """Computes the two-sided p that a difference has the other sign, from its bootstrap draws.

    The estimate counts as one draw, so that p is never zero. Without any draw p is NaN.

    Args:
        row: the estimate, then its bootstrap draws.
    """
    drawn = row[1:][~np.isnan(row[1:])]
    if not len(drawn):
        return float("nan")
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(drawn)))


def resampled_means(
    values: Float[ndarray, "n column"], weights: Int[ndarray, "draw n"]
) -> Float[ndarray, "one_and_draws column"]:
    """Computes each column's mean over all units (first row) and over each draw (further rows).

    Values that are NaN do not count. If only one unit has a value in a column, the column's draws
    are NaN, so that nothing computed from them gets an interval.
    """
    there = ~np.isnan(values)
    weights = np.concatenate([np.ones((1, len(values))), weights])
    drawn = weights @ there
    with np.errstate(invalid="ignore"):  # 0 / 0 in draws in which no unit has a value
        means = np.where(drawn > 0, weights @ np.where(there, values, 0) / drawn, np.nan)
    means[1:, there.sum(0) < 2] = np.nan
    return means


def ranks(values: Float[ndarray, "*row n"]) -> Float[ndarray, "*row n"]:
    """Ranks along the last axis, 1 for the smallest; equal values share the mean of their ranks."""
    rows = values.reshape(-1, values.shape[-1])
    ranked = np.empty(rows.shape)
    for row, row_ranks in zip(rows, ranked, strict=True):
        ordered = np.sort(row)
        row_ranks[:] = (
            ordered.searchsorted(row, "left") + ordered.searchsorted(row, "right") + 1
        ) / 2
    return ranked.reshape(values.shape)


def rank_correlation(
    first: Float[ndarray, "*row n"], second: Float[ndarray, "*row n"]
) -> Float[ndarray, "*row"]:
    """Computes Spearman's ρ along the last axis: Pearson's correlation of the ranks, with ties.

    It is NaN if all values of one side are equal, if a value is NaN, or for fewer than three pairs.
    """
    n = first.shape[-1]
    if n < 3:
        return np.full(first.shape[:-1], np.nan)
    # to 12 decimals, so that rounding errors do not make equal values differ
    a, b = (ranks(np.round(values, 12)) - (n + 1) / 2 for values in (first, second))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    lost = np.isnan(first + second).any(-1) | (size == 0)
    return np.where(lost, np.nan, (a * b).sum(-1) / np.where(lost, 1, size))


def harmonic_mean(values: Float[ndarray, "part *shape"]) -> Float[ndarray, "*shape"]:
    """Computes the harmonic mean over the first axis.

    It is 0 where a part is 0 or less, and NaN where a part is NaN.
    """
    positive = (values > 0).all(0)
    inverse = np.where(positive, 1 / np.where(values > 0, values, 1), 0).sum(0)
    nothing = np.where(np.isnan(values).any(0), np.nan, 0.0)
    return np.where(positive, len(values) / np.maximum(inverse, 1e-300), nothing)


class Paired(NamedTuple):
    """A mean difference of paired values, and the p of a difference this large by chance."""

    difference: Interval
    p: float


def paired(
    first: Float[ndarray, " n"], second: Float[ndarray, " n"], draws: int = 10_000, seed: int = 0
) -> Paired:
    """Computes mean(first - second) over pairs, with a bootstrap interval and a sign-flip test.

    The test is two-sided. Under the null hypothesis each difference has a random sign. The observed
    signs count as one draw, so that p is never zero. Pairs with a NaN are left out; without any
    pair p is NaN.
    """
    differences = (first - second)[~np.isnan(first - second)]
    interval = bootstrap_ratio(differences, np.ones(len(differences)), seed=seed)
    if len(differences) == 0:
        return Paired(interval, float("nan"))
    signs = np.random.default_rng(seed).integers(0, 2, (draws, len(differences))) * 2 - 1
    # with a tolerance, so that rounding errors do not make equal sums differ
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12 * len(differences)
    return Paired(interval, float((1 + as_large.sum()) / (1 + draws)))


def flipped(
    values: Float[ndarray, "fact *cell"], draws: int = 2000, seed: int = 0
) -> Float[ndarray, "*cell"]:
    """Tests whether each cell's mean over facts differs from 0, corrected for the number of cells.

    Under the null hypothesis all of a fact's values have one random sign. In each draw of signs the
    largest statistic of all cells counts, and p is the share of draws in which it reaches the
    cell's own: the probability that any cell would look as strong by chance. So cells that depend
    on each other cost less than by Holm's method (Westfall and Young 1993; Nichols and Holmes
    2002). The statistic is |sum| divided by the root of the sum of squares, which signs do not
    change. The observed signs count as one draw. p is NaN where all values are 0, and everywhere
    with fewer than two facts.
    """
    flat = values.reshape(len(values), -1)
    size = np.sqrt((flat * flat).sum(0))
    p = np.full(flat.shape[1], np.nan)
    if len(flat) >= 2 and (size > 0).any():
        scaled = flat[:, size > 0] / size[size > 0]
        generator = np.random.default_rng(seed)
        largest_of_draws = np.concatenate(
            [
                np.abs((generator.integers(0, 2, (n, len(flat))) * 2 - 1) @ scaled).max(1)
                for n in np.diff([*range(0, draws, 100), draws])  # 100 draws at a time in memory
            ]
        )
        # with a tolerance, so that rounding errors do not make equal sums differ
        own = np.abs(scaled.sum(0)) - 1e-12 * len(flat)
        below = np.searchsorted(np.sort(largest_of_draws), own)
        p[size > 0] = (1 + draws - below) / (1 + draws)
    return p.reshape(values.shape[1:])


def permuted(
    statistic: Callable[[Shaped[ndarray, " n"]], float],
    labels: Shaped[ndarray, " n"],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """Computes `statistic` of the labels and its one-sided p under permutations of the labels.

    The labels in their given order count as one draw, so that p is never zero.
    """
    generator, observed = np.random.default_rng(seed), statistic(labels)
    # with a tolerance, so that rounding errors do not make equal values differ
    as_large = sum(
        statistic(generator.permutation(labels)) >= observed - 1e-12 for _ in range(draws)
    )
    return observed, float((1 + as_large) / (1 + draws))


FEWEST = 10  # facts


def enough(n_facts: Sequence[int]) -> tuple[bool, ...]:
    """Whether each group has enough facts to be named as a peak or to set a colour scale.

    A group needs FEWEST facts, or half of all facts if these are fewer than twice FEWEST. Without
    this rule, the largest of many means would often belong to the group with the fewest facts,
    since means of few facts vary most.

    Args:
        n_facts: number of facts of each group (a token bucket); at least one group has all facts.
    """
    least = min(FEWEST, max(n_facts, default=0) / 2)
    return tuple(n > 0 and n >= least for n in n_facts)


def largest(values: Shaped[ndarray, "..."], n: int) -> list[tuple[int, ...]]:
    """Returns the indices of the `n` largest |values|, in descending order; NaN counts as zero."""
    size = np.nan_to_num(np.abs(values))
    order = np.argsort(-size, axis=None, kind="stable")[:n]
    return [tuple(map(int, np.unravel_index(flat, size.shape))) for flat in order]


def holm(p_values: Float[ndarray, " test"]) -> Float[ndarray, " test"]:
    """Corrects p-values for several tests (Holm 1979); NaN does not count as a test."""
    adjusted = np.array(p_values, dtype=float)
    order = [index for index in np.argsort(p_values) if not np.isnan(p_values[index])]
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
