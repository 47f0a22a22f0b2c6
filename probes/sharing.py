"""Do relations share heads? Compares facts by which heads restore their answers.

If a relation has heads of its own, then facts of this relation should have similar head effects,
and more similar ones than facts of different relations. A fact's profile is its head effects,
averaged over the tokens of each bucket (`probes.patch` sweeps the heads). This module averages the
profiles of each relation, correlates and clusters them, and tests whether facts are more similar
within relations than between them.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from kedit.errors import InputError
from kedit.heads import Head
from kedit.results.averages import BUCKETS, buckets, finite_grid
from kedit.results.heads import RelationHeads, Sharing
from kedit.results.traces import FactTrace
from kedit.stats import bootstrap_ratio, largest, permuted, resamples, row_interval

FEWEST = 2  # facts of a relation, so that there are pairs to correlate within it


def profile(trace: FactTrace, metric: str, name: str = "z") -> Float[ndarray, "bucket layer head"]:
    """Averages a fact's indirect effects over each bucket's tokens (0 for an empty bucket).

    Raises:
        InputError: a score is not finite. It would make the fact's correlations NaN, which count as
            zero.
    """
    effect = finite_grid(trace, name).indirect_effect(metric).numpy()
    positions = buckets(trace.corrupted, len(trace.labels))
    found = np.zeros((len(BUCKETS), effect.shape[0], *effect.shape[2:]))
    for row, bucket in enumerate(BUCKETS):
        columns = [trace.grids[name].positions.index(pos) for pos in positions[bucket]]
        if columns:
            found[row] = effect[:, columns].mean(1)
    return found


def by_relation(
    traces: Sequence[FactTrace], names: dict[str, str], metric: str, seed: int = 0
) -> RelationHeads:
    """Averages every head's effects by relation, and clusters relations by their correlations.

    Args:
        traces: traces with the grid "z" in which the same part was corrupted.
        names: names of the relations, by id.
        metric: metric of the effects.
        seed: seed of the bootstrap over a relation's facts.

    Raises:
        InputError: fewer than two relations have FEWEST facts.
    """
    groups = _groups(traces, metric)
    means = [
        bootstrap_ratio(profiles, np.ones(len(profiles)), 500, seed) for profiles in groups.values()
    ]
    mean, low, high = (np.stack(values) for values in zip(*means, strict=True))
    similarity = np.nan_to_num(np.corrcoef(mean.reshape(len(mean), -1)), nan=0.0)
    distance = squareform(np.clip(1 - similarity, 0, 2), checks=False)
    merges = optimal_leaf_ordering(linkage(distance, "average"), distance)
    return RelationHeads(
        part=traces[0].part,
        relations=tuple(names.get(relation, relation) for relation in groups),
        n_facts=tuple(map(len, groups.values())),
        buckets=BUCKETS,
        mean=mean,
        low=low,
        high=high,
        similarity=similarity,
        order=leaves_list(merges),
        merges=merges,
    )


def sharing(traces: Sequence[FactTrace], metric: str, draws: int = 2000, seed: int = 0) -> Sharing:
    """Compares correlations of facts' profiles within relations and between them.

    Args:
        traces: traces with the grid "z" in which the same part was corrupted.
        metric: metric of the effects.
        draws: number of bootstrap draws of relations, and of permutations of facts.
        seed: seed of both.

    Raises:
        InputError: fewer than two relations have FEWEST facts.
    """
    groups = _groups(traces, metric)
    owner = np.repeat(np.arange(len(groups)), [len(profiles) for profiles in groups.values()])
    flat = np.concatenate([profiles.reshape(len(profiles), -1) for profiles in groups.values()])
    correlation = np.nan_to_num(np.corrcoef(flat), nan=0.0)
    sums, counts = _blocks(correlation, owner)
    # how often each relation is drawn: the first row is the data, the others bootstrap draws
    weights = np.concatenate([np.ones((1, len(groups))), resamples(len(groups), draws, seed)])
    within = _ratio(weights, sums.diagonal(), counts.diagonal())
    # a relation that is drawn twice is still one relation: its copies are no pair
    across = ~np.eye(len(groups), dtype=bool)
    pairs = np.einsum("di,dj->dij", weights, weights) * across
    with np.errstate(invalid="ignore"):  # a draw may consist of a single relation
        between = (pairs * sums).sum((1, 2)) / (pairs * counts).sum((1, 2))
        shared = between / within
    return Sharing(
        part=traces[0].part,
        within=row_interval(within),
        between=row_interval(between),
        shared=row_interval(shared),
        p=permuted(partial(_apart, correlation), owner, draws, seed)[1],
        n_relations=len(groups),
        n_facts=len(flat),
    )


def strongest(heads: RelationHeads, n: int) -> list[tuple[int, Head]]:
    """Finds the `n` largest absolute effects, averaged over relations; returns bucket and head."""
    found = largest(heads.mean.mean(0), n)
    return [(bucket, Head(layer, head)) for bucket, layer, head in found]


def _groups(
    traces: Sequence[FactTrace], metric: str
) -> dict[str, Float[ndarray, "fact bucket layer head"]]:
    """Profiles by relation, for relations with enough facts.

    Raises:
        InputError: fewer than two relations have enough facts.
    """
    found: dict[str, list[ndarray]] = {}
    for trace in traces:
        found.setdefault(trace.relation, []).append(profile(trace, metric))
    groups = {
        relation: np.stack(profiles)
        for relation, profiles in sorted(found.items())
        if len(profiles) >= FEWEST
    }
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} of {len(found)} relations have {FEWEST} facts or more: comparing needs "
            "at least two; raise --limit, or name fewer --relations"
        )
    return groups


def _blocks(
    correlation: Float[ndarray, "fact fact"], owner: Int[ndarray, " fact"]
) -> tuple[Float[ndarray, "relation relation"], Float[ndarray, "relation relation"]]:
    """Sums correlations over the pairs of two relations' facts, and counts these pairs.

    A fact is not paired with itself.
    """
    member = (owner[:, None] == np.arange(owner.max() + 1)).astype(float)
    pairs = 1 - np.eye(len(owner))
    return member.T @ (correlation * pairs) @ member, member.T @ pairs @ member


def _ratio(
    weights: Float[ndarray, "draw relation"],
    sums: Float[ndarray, " relation"],
    counts: Float[ndarray, " relation"],
) -> Float[ndarray, " draw"]:
    """Weighted sum of sums over weighted sum of counts, for each draw."""
    return (weights @ sums) / (weights @ counts)


def _apart(correlation: Float[ndarray, "fact fact"], owner: Int[ndarray, " fact"]) -> float:
    """Mean correlation within relations minus that between them."""
    sums, counts = _blocks(correlation, owner)
    inside = sums.trace() / counts.trace()
    outside = (sums.sum() - sums.trace()) / (counts.sum() - counts.trace())
    return float(inside - outside)
