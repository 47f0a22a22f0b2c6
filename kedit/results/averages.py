"""Averages of traces over facts: effects by token bucket, and total effects (Meng et al. 2022)."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from kedit.errors import InputError
from kedit.results.grids import EffectGrid
from kedit.results.traces import AverageEffect, FactTrace
from kedit.stats import Interval, bootstrap_ratio, flipped, resamples

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


MASK = "mask"  # masked models' bucket for the token at which the answer is read
MASKED_BUCKETS = ("before", *BUCKETS[:-1], MASK)


def masked_buckets(
    corrupted: Sequence[int], n_pos: int, masks: Sequence[int]
) -> dict[str, list[int]]:
    """The positions in each of MASKED_BUCKETS, for a sentence with a masked object.

    In masked models every token sees the corrupted ones, so tokens before them have a bucket, too.

    Args:
        masks: the mask at which the answer is read, and the last token of T5's decoder. They are in
            the bucket MASK only.
    """
    first, last = corrupted[0], corrupted[-1]
    after = [pos for pos in range(last + 1, n_pos) if pos not in masks]
    return {
        "before": [pos for pos in range(first) if pos not in masks],
        "first corrupted": [first],
        "middle corrupted": [pos for pos in corrupted if first < pos < last],
        "last corrupted": [last],
        "between": [p for p in range(first, last) if p not in corrupted and p not in masks],
        "first subsequent": [pos for pos in after if pos == last + 1],
        "further": [pos for pos in after if pos > last + 1],
        MASK: list(masks),
    }


def buckets(corrupted: Sequence[int], n_pos: int) -> dict[str, list[int]]:
    """The positions in each of BUCKETS, for a prompt with one or more corrupted spans.

        The   Eiffel     Tower     is          in       the      city      of
        none  first c.   last c.   first sub.  further  further  further   last token

    The buckets are Meng et al.'s, except for "between", which is kedit's: it holds the tokens
    between two corrupted spans. Tokens before the first corrupted token are in no bucket, since
    there is nothing to restore there.

    A single corrupted token is both "first corrupted" and "last corrupted". If the prompt ends
    with a corrupted token, this token is also the "last token", and "first subsequent" and
    "further" are empty. If exactly one token follows the corrupted tokens, it is only in "last
    token"; there Meng et al.'s notebook differs, see `notebook_buckets`.

    Args:
        corrupted: corrupted positions, in increasing order.
        n_pos: number of tokens of the prompt.
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
    """The positions in each of BUCKETS as Meng et al.'s notebook assigns them.

    This differs from `buckets` if exactly one token follows the corrupted tokens: in the notebook
    this token is in "first subsequent" and in "last token". If no token follows, the notebook stops
    with an error; here "first subsequent" is empty.
    """
    following = corrupted[-1] + 1
    first_subsequent = [following] if following < n_pos else []
    return buckets(corrupted, n_pos) | {"first subsequent": first_subsequent}


def finite_grid(trace: FactTrace, name: str) -> EffectGrid:
    """Returns the grid `name` of a trace, after checking that all its scores are finite.

    Raises:
        InputError: a restored, clean or corrupted score is NaN or infinite, so that an average
            would be, too.
    """
    grid = trace.grids[name]
    if not grid.is_finite:
        raise InputError(
            f"{trace.prompt!r}, {trace.part} corrupted: scores of {name!r} are not finite, so this "
            "fact cannot be averaged. Leave it out, or trace it again with smaller noise or in "
            "float32"
        )
    return grid


def average(
    traces: Iterable[FactTrace],
    name: str,
    baseline: Baseline = "own",
    seed: int = 0,
    draws: int = 2000,
) -> AverageEffect:
    """Average indirect effect by token bucket and layer, with bootstrap intervals over facts.

    All tokens of a bucket count equally, so a fact with more tokens in it has more weight.

    Args:
        traces: traces with the same corrupted part, each with the grid `name`.
        name: name of the grid (`EffectGrid.name`).
        baseline: what is subtracted from a restored score: the fact's "own" corrupted score, or the
            "pooled" corrupted score, which is the mean over all facts. "pooled" is the average of
            Meng et al.'s notebook, in `notebook_buckets`. The two differ if facts have different
            numbers of tokens in a bucket.
        seed: seed of the bootstrap.
        draws: number of bootstrap draws of facts.

    Raises:
        InputError: there are no traces, or a score is not finite.
    """
    pairs = [(trace, finite_grid(trace, name)) for trace in traces]
    if not pairs:
        raise InputError(f"no traces with {name!r} to average")
    low_scores = np.stack([grid.corrupted.numpy() for _, grid in pairs])
    positions = [_buckets_of(trace, baseline) for trace, _ in pairs]
    names = MASKED_BUCKETS if pairs[0][0].masks else BUCKETS
    results: list[Interval] = []
    effects: list[Float[ndarray, "fact metric layer *head"]] = []
    n_tokens, n_facts = [], []
    for bucket in names:
        parts = (
            _sum(grid, fact_buckets[bucket])
            for fact_buckets, (_, grid) in zip(positions, pairs, strict=True)
        )
        sums, counts = zip(*parts, strict=True)
        total, count = np.stack(sums).astype(float), np.array(counts, dtype=float)
        # [fact, metric] -> [fact, metric, 1 (layer), 1 (head)], to broadcast against `total`
        expand = (slice(None), slice(None), *[None] * (total.ndim - 2))
        if baseline == "own":
            effects.append(total - (low_scores * count[:, None])[expand])
            results.append(bootstrap_ratio(effects[-1], count, draws, seed))
        else:
            results.append(_pooled(total, count, low_scores[expand], draws, seed))
        n_tokens.append(int(count.sum()))
        n_facts.append(int((count > 0).sum()))
    trace, grid = pairs[0]
    mean, low, high = (np.stack(values, axis=1) for values in zip(*results, strict=True))
    return AverageEffect(
        name=name,
        part=trace.part,
        window=grid.window,
        buckets=names,
        n_tokens=tuple(n_tokens),
        n_facts=tuple(n_facts),
        mean=mean,
        low=low,
        high=high,
        p=_corrected(effects, draws, seed) if effects else None,
    )


def _corrected(
    effects: Sequence[Float[ndarray, "fact metric layer *head"]], draws: int, seed: int
) -> Float[ndarray, "metric bucket layer *head"]:
    """p of the effects of each bucket, corrected for all cells of a metric together."""
    by_metric = np.moveaxis(np.stack(effects, axis=2), 1, 0)  # [metric, fact, bucket, layer, head]
    return np.stack([flipped(values, draws, seed) for values in by_metric])


def _buckets_of(trace: FactTrace, baseline: Baseline) -> dict[str, list[int]]:
    """The positions of a trace's tokens in each bucket."""
    n_pos = len(trace.labels)
    if trace.masks:
        return masked_buckets(trace.corrupted, n_pos, trace.masks)
    return (buckets if baseline == "own" else notebook_buckets)(trace.corrupted, n_pos)


def total_effects(traces: Sequence[FactTrace], seed: int = 0) -> dict[str, Interval]:
    """Mean clean score, corrupted score and total effect over facts, each by metric.

    Raises:
        InputError: a score is not finite.
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
    grid: EffectGrid, positions: Sequence[int]
) -> tuple[Float[Tensor, "metric layer *head"], int]:
    """Sum of the restored scores over those `positions` that the grid has, and their number."""
    columns = [index for index, pos in enumerate(grid.positions) if pos in positions]
    return grid.restored[:, :, columns].sum(2), len(columns)


def _pooled(
    total: Float[ndarray, "fact metric layer *head"],
    count: Float[ndarray, " fact"],
    low_scores: Float[ndarray, "fact metric *one"],
    draws: int,
    seed: int,
) -> Interval:
    """Mean effect over the pooled baseline: sum(total) / sum(count) - mean(low_scores).

    Both terms are computed over the same drawn facts, so that the interval includes how the
    baseline varies. As in `bootstrap_ratio`, there is no interval if only one fact has tokens.
    """
    shift = np.broadcast_to(low_scores, total.shape)
    if (count > 0).sum() < 2:
        ratio = bootstrap_ratio(total, count)
        return ratio._replace(mean=ratio.mean - shift.mean(0))
    weights = resamples(len(total), draws, seed)
    weights = weights[weights @ count > 0]
    flat, flat_shift = total.reshape(len(total), -1), shift.reshape(len(total), -1)
    drawn = (weights @ flat) / (weights @ count)[:, None] - weights @ flat_shift / len(total)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    mean = flat.sum(0) / count.sum() - flat_shift.mean(0)
    return Interval(*(values.reshape(total.shape[1:]) for values in (mean, low, high)))
