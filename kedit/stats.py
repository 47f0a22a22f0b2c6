"""Intervals on plain arrays: by the bootstrap, which draws the facts again, and of rates."""

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray


class Interval(NamedTuple):
    """An estimate and the bounds of its interval, all of one shape; a bound that is NaN is none.

    There is no interval over fewer than two units: one fact does not say how much facts differ.
    """

    mean: Float[ndarray, "*shape"]
    low: Float[ndarray, "*shape"]
    high: Float[ndarray, "*shape"]

    def floats(self, unit: int | float = 1) -> tuple[float, float, float]:
        """Mean, low and high of a single estimate, times `unit`."""
        return unit * float(self.mean), unit * float(self.low), unit * float(self.high)

    def named(self, name: str) -> dict[str, float | None]:
        """Of a single estimate, as columns of a table; None, not NaN, for what there is not."""
        columns = (name, f"{name} low", f"{name} high")
        values = (value if isfinite(value) else None for value in self.floats())
        return dict(zip(columns, values, strict=True))


def resamples(n: int, draws: int, seed: int) -> Int[ndarray, "draw n"]:
    """How often each of `n` units is in each bootstrap draw."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def bootstrap_ratio(
    sums: Float[ndarray, "n *shape"],
    counts: Float[ndarray, " n"],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """sum(sums) / sum(counts) over the units, with a percentile interval over draws of units.

    With counts of one this is the mean. Draws in which all counts are zero are left out; where
    every count is zero the result is NaN, and where only one is not there is no interval.
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
    """The mean of all values, with an interval over draws of whole groups of them."""
    sums, counts = (np.array([size(group) for group in groups], float) for size in (sum, len))
    return bootstrap_ratio(sums, counts, draws, seed)


def rate_interval(
    sums: Float[ndarray, "n *shape"], counts: Float[ndarray, " n"], level: float = 0.95
) -> Interval:
    """sum(sums) / sum(counts) of what is 0 or 1, with Wilson's score interval over the units.

    Where 51 of 51 are 1, a percentile bootstrap has no width; Wilson's interval is [0.93, 1]:

        (n p + z²/2 ± z √(n p (1 − p) + z²/4)) / (n + z²)                   Wilson 1927

    A unit may be 0 or 1 itself, or a share, such as that of a case's prompts. Prompts of a case are
    not independent, so n counts units. But shares vary less than p (1 − p), so n is divided by the
    ratio of their variance to that. This ratio is taken with z²/2 more units of 0 and as many of 1
    (Agresti and Coull 1998 add them; this use is ours), so that it is never 0. Where all units are
    0 or 1 it is 1, and the interval is Wilson's: 51 cases of 51 give [0.93, 1] however many prompts
    they have. Units of several sizes count as Kish's effective number, (Σ counts)² / Σ counts².
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
    # rounding may carry a bound past a rate of 0 or 1
    return Interval(rate, np.minimum(low, rate), np.maximum(high, rate))


def percentile_interval(
    mean: Float[ndarray, "*shape"], drawn: Float[ndarray, "draw *shape"], level: float = 0.95
) -> Interval:
    """`mean` with the percentiles of its bootstrap draws; draws that are NaN do not count."""
    lost = np.isnan(drawn).all(0)
    if lost.all():  # or there are no draws
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    drawn = np.where(lost, 0.0, drawn)
    bounds = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(lost | np.isnan(mean), np.nan, bounds)
    return Interval(mean, np.asarray(low), np.asarray(high))  # 0-d where `mean` is


def row_interval(row: Float[ndarray, " one_and_draws"]) -> Interval:
    """Of an estimate and, behind it, its bootstrap draws."""
    return percentile_interval(np.asarray(row[0]), row[1:])


def other_sign(row: Float[ndarray, " one_and_draws"]) -> float:
    """p, two-sided, that a difference has the other sign, from its bootstrap draws.

    The estimate counts as one draw, so that p is never zero; without any draw it is NaN.
    """
    drawn = row[1:][~np.isnan(row[1:])]
    if not len(drawn):
        return float("nan")
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(drawn)))


def resampled_means(
    values: Float[ndarray, "n column"], weights: Int[ndarray, "draw n"]
) -> Float[ndarray, "one_and_draws column"]:
    """Each column's mean over all units, then over every draw of them; NaN does not count.

    The draws of a column that a single unit has are NaN, so that whatever is made of them has no
    interval.
    """
    there = ~np.isnan(values)
    weights = np.concatenate([np.ones((1, len(values))), weights])
    drawn = weights @ there
    with np.errstate(invalid="ignore"):  # a draw without any unit that has it
        means = np.where(drawn > 0, weights @ np.where(there, values, 0) / drawn, np.nan)
    means[1:, there.sum(0) < 2] = np.nan
    return means


def ranks(values: Float[ndarray, "*row n"]) -> Float[ndarray, "*row n"]:
    """Along the last axis, from 1 for the smallest; equal values share the mean of their ranks."""
    rows = values.reshape(-1, values.shape[-1])
    ranked = np.empty(rows.shape)
    for row, own in zip(rows, ranked, strict=True):
        ordered = np.sort(row)
        own[:] = (ordered.searchsorted(row, "left") + ordered.searchsorted(row, "right") + 1) / 2
    return ranked.reshape(values.shape)


def rank_correlation(
    one: Float[ndarray, "*row n"], other: Float[ndarray, "*row n"]
) -> Float[ndarray, "*row"]:
    """Spearman's ρ along the last axis, ties included: Pearson's of the ranks.

    NaN where all values of one side are equal, where one is NaN, and for fewer than three pairs.
    """
    if one.shape[-1] < 3:
        return np.full(one.shape[:-1], np.nan)
    # rounded, lest rounding tell equal values apart
    a, b = (ranks(np.round(values, 12)) - (one.shape[-1] + 1) / 2 for values in (one, other))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    lost = np.isnan(one + other).any(-1) | (size == 0)
    return np.where(lost, np.nan, (a * b).sum(-1) / np.where(lost, 1, size))


def harmonic_mean(values: Float[ndarray, "part *shape"]) -> Float[ndarray, "*shape"]:
    """Over the first axis; zero where a part is zero or less, NaN where one is NaN."""
    positive = (values > 0).all(0)
    inverse = np.where(positive, 1 / np.where(values > 0, values, 1), 0).sum(0)
    nothing = np.where(np.isnan(values).any(0), np.nan, 0.0)
    return np.where(positive, len(values) / np.maximum(inverse, 1e-300), nothing)


class Paired(NamedTuple):
    """A mean difference of paired values, and how likely one so large is by chance alone."""

    difference: Interval
    p: float


def paired(
    one: Float[ndarray, " n"], other: Float[ndarray, " n"], draws: int = 10_000, seed: int = 0
) -> Paired:
    """mean(one - other) over pairs, with a bootstrap interval and a two-sided sign-flip test.

    Under the null the sign of every difference is a coin's; the observed signs count as one draw,
    so that p is never zero. Pairs of which one is NaN are left out; without any p is NaN.
    """
    differences = (one - other)[~np.isnan(one - other)]
    interval = bootstrap_ratio(differences, np.ones(len(differences)), seed=seed)
    if len(differences) == 0:
        return Paired(interval, float("nan"))
    signs = np.random.default_rng(seed).integers(0, 2, (draws, len(differences))) * 2 - 1
    # rounding must not tell equal sums apart
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12 * len(differences)
    return Paired(interval, float((1 + as_large.sum()) / (1 + draws)))


def permuted(
    statistic: Callable[[Shaped[ndarray, " n"]], float],
    labels: Shaped[ndarray, " n"],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """`statistic` of the labels, and p, one-sided, of one as large with the labels dealt out anew.

    The labels as they are count as one draw, so that p is never zero.
    """
    draw, seen = np.random.default_rng(seed), statistic(labels)
    # rounding must not tell equal values apart
    as_large = sum(statistic(draw.permutation(labels)) >= seen - 1e-12 for _ in range(draws))
    return seen, float((1 + as_large) / (1 + draws))


FEWEST = 10  # facts


def enough(n_facts: Sequence[int]) -> tuple[bool, ...]:
    """Which groups have facts enough to hold a peak, or to set the ends of a colour scale.

    FEWEST, or half of the facts if there are fewer than twice as many. The largest of many means
    is otherwise that of the group with the fewest facts, since these vary most.

    Args:
        n_facts: of each group (a token bucket); one group at least has all of them.
    """
    least = min(FEWEST, max(n_facts, default=0) / 2)
    return tuple(n > 0 and n >= least for n in n_facts)


def largest(values: Shaped[ndarray, "..."], n: int) -> list[tuple[int, ...]]:
    """The places of the `n` largest |values|, from the largest down; NaN counts as zero."""
    size = np.nan_to_num(np.abs(values))
    order = np.argsort(-size, axis=None, kind="stable")[:n]
    return [tuple(map(int, np.unravel_index(flat, size.shape))) for flat in order]


def holm(p_values: Float[ndarray, " test"]) -> Float[ndarray, " test"]:
    """p-values that hold for all tests at once (Holm 1979); NaN counts as no test."""
    adjusted = np.array(p_values, dtype=float)
    order = [index for index in np.argsort(p_values) if not np.isnan(p_values[index])]
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
