"""Averages of traces: effects by token bucket, and what the corruption costs (Meng et al. 2022)."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from kedit.errors import InputError
from kedit.results.grids import EffectGrid
from kedit.results.traces import AverageEffect, FactTrace
from kedit.stats import Interval, bootstrap_ratio, resamples

Baseline = Literal["own", "pooled"]
BUCKETS = (
    "first corrupted",
    "middle corrupted",
    "last corrupted",
    "between",
    "first subsequent",
    "further",
    "last token",
)


def buckets(corrupted: Sequence[int], n_pos: int) -> dict[str, list[int]]:
    """The positions in each of BUCKETS: Meng et al.'s, and "between", for one or more spans.

    A corrupted span's only token is both its first and its last; a span that ends the prompt makes
    the last corrupted token the last token too, and leaves "first subsequent" and "further" empty.
    "between" (ours) holds the tokens that two corrupted spans enclose; tokens before the first
    corrupted one are in no bucket, since nothing can be restored there. A token that is all that
    follows the corrupted ones is the "last token" only, which is ours too: see `notebook_buckets`.
    """
    first, last, end = corrupted[0], corrupted[-1], n_pos - 1
    return {
        "first corrupted": [first],
        "middle corrupted": [pos for pos in corrupted if first < pos < last],
        "last corrupted": [last],
        "between": [pos for pos in range(first, last) if pos not in corrupted],
        "first subsequent": [last + 1] if last + 1 < end else [],
        "further": list(range(last + 2, end)),
        "last token": [end],
    }


def notebook_buckets(corrupted: Sequence[int], n_pos: int) -> dict[str, list[int]]:
    """`buckets` as Meng et al.'s notebook fills them.

    They differ where one token follows the corrupted ones: in the notebook it is the "first
    subsequent" token as well as the "last token". Where none follows, the notebook stops with an
    error, and "first subsequent" is empty here.
    """
    following = corrupted[-1] + 1
    first_subsequent = [following] if following < n_pos else []
    return buckets(corrupted, n_pos) | {"first subsequent": first_subsequent}


def finite_grid(trace: FactTrace, name: str) -> EffectGrid:
    """The grid `name` of a trace whose scores are all numbers: nothing else can be averaged.

    Raises:
        InputError: a restored, clean or corrupted score is NaN or infinite.
    """
    grid = trace.grids[name]
    if not grid.is_finite:
        raise InputError(
            f"{trace.prompt!r}, {trace.part} corrupted: scores of {name!r} are not finite, so this "
            "fact has no effect. Leave it out, or trace it anew with smaller noise or in float32"
        )
    return grid


def average(
    traces: Iterable[FactTrace],
    name: str,
    baseline: Baseline = "own",
    seed: int = 0,
    draws: int = 2000,
) -> AverageEffect:
    """Average indirect effect by bucket and layer, tokens pooled, with intervals over facts.

    Args:
        traces: of one part, each with the grid `name`.
        baseline: what is subtracted from a restored score: the fact's "own" corrupted score, or the
            "pooled" average of all facts'. "pooled" is the average of Meng et al.'s notebook, in
            `notebook_buckets`; subtracting their own scores differs from it where facts have
            unequally many tokens in a bucket.
        seed, draws: of the bootstrap, which draws facts.

    Raises:
        InputError: no traces, or a score that is not finite.
    """
    kept = [(trace, finite_grid(trace, name)) for trace in traces]
    if not kept:
        raise InputError(f"no traces with {name!r} to average")
    low_scores = np.stack([grid.corrupted.numpy() for _, grid in kept])
    places_of = buckets if baseline == "own" else notebook_buckets
    places = [places_of(trace.corrupted, len(trace.labels)) for trace, _ in kept]
    results: list[Interval] = []
    n_tokens, n_facts = [], []
    for bucket in BUCKETS:
        parts = (_sum(grid, own[bucket]) for own, (_, grid) in zip(places, kept, strict=True))
        sums, counts = zip(*parts, strict=True)
        total, count = np.stack(sums).astype(float), np.array(counts, dtype=float)
        spread = (slice(None), slice(None), *[None] * (total.ndim - 2))
        if baseline == "own":
            centred = total - (low_scores * count[:, None])[spread]
            results.append(bootstrap_ratio(centred, count, draws, seed))
        else:
            results.append(_pooled(total, count, low_scores[spread], draws, seed))
        n_tokens.append(int(count.sum()))
        n_facts.append(int((count > 0).sum()))
    trace, grid = kept[0]
    mean, low, high = (np.stack(values, axis=1) for values in zip(*results, strict=True))
    return AverageEffect(
        name=name,
        part=trace.part,
        window=grid.window,
        buckets=BUCKETS,
        n_tokens=tuple(n_tokens),
        n_facts=tuple(n_facts),
        mean=mean,
        low=low,
        high=high,
    )


def total_effects(traces: Sequence[FactTrace], seed: int = 0) -> dict[str, Interval]:
    """Clean and corrupted scores and their difference, averaged over facts: each by metric.

    Raises:
        InputError: a score that is not finite.
    """
    grids = [finite_grid(trace, next(iter(trace.grids))) for trace in traces]
    clean = np.stack([grid.clean.numpy() for grid in grids]).astype(float)
    corrupted = np.stack([grid.corrupted.numpy() for grid in grids]).astype(float)
    ones = np.ones(len(grids))
    return {
        "clean": bootstrap_ratio(clean, ones, seed=seed),
        "corrupted": bootstrap_ratio(corrupted, ones, seed=seed),
        "total effect": bootstrap_ratio(clean - corrupted, ones, seed=seed),
    }


def _sum(
    grid: EffectGrid, wanted: Sequence[int]
) -> tuple[Float[Tensor, "metric layer *head"], int]:
    """Over the wanted positions that the grid has, and how many these are."""
    columns = [index for index, pos in enumerate(grid.positions) if pos in wanted]
    return grid.restored[:, :, columns].sum(2), len(columns)


def _pooled(
    total: Float[ndarray, "fact metric layer *head"],
    count: Float[ndarray, " fact"],
    low_scores: Float[ndarray, "fact metric *one"],
    draws: int,
    seed: int,
) -> Interval:
    """sum(total) / sum(count) - mean(low_scores), both over the same drawn facts.

    As `bootstrap_ratio`, it is without an interval where a single fact has tokens.
    """
    shift = np.broadcast_to(low_scores, total.shape)
    if (count > 0).sum() < 2:
        alone = bootstrap_ratio(total, count)
        return alone._replace(mean=alone.mean - shift.mean(0))
    weights = resamples(len(total), draws, seed)
    weights = weights[weights @ count > 0]
    flat, flat_shift = total.reshape(len(total), -1), shift.reshape(len(total), -1)
    drawn = (weights @ flat) / (weights @ count)[:, None] - weights @ flat_shift / len(total)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    mean = flat.sum(0) / count.sum() - flat_shift.mean(0)
    return Interval(*(values.reshape(total.shape[1:]) for values in (mean, low, high)))
