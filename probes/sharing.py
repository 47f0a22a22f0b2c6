"""Do relations share heads? Facts' maps of head effects: averaged, compared, clustered."""

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

FEWEST = 2  # facts of a relation: one has no other to be compared with


def profile(trace: FactTrace, metric: str, name: str = "z") -> Float[ndarray, "bucket layer head"]:
    """A fact's indirect effects, averaged over each bucket's tokens; zero where it has none.

    Raises:
        InputError: a score that is not finite: its correlations would count as zero.
    """
    effect = finite_grid(trace, name).indirect_effect(metric).numpy()
    places = buckets(trace.corrupted, len(trace.labels))
    found = np.zeros((len(BUCKETS), effect.shape[0], *effect.shape[2:]))
    for row, bucket in enumerate(BUCKETS):
        columns = [trace.grids[name].positions.index(pos) for pos in places[bucket]]
        if columns:
            found[row] = effect[:, columns].mean(1)
    return found


def by_relation(
    traces: Sequence[FactTrace], names: dict[str, str], metric: str, seed: int = 0
) -> RelationHeads:
    """Mean effects of every head, relation by relation, and which relations are alike.

    Args:
        traces: of one part, with the grid "z".
        names: of relations, by id.

    Raises:
        InputError: fewer than two relations with FEWEST facts.
    """
    groups = _groups(traces, metric)
    means = [bootstrap_ratio(own, np.ones(len(own)), 500, seed) for own in groups.values()]
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
    """Within and between relations' correlations of single facts' maps.

    Raises:
        InputError: fewer than two relations with FEWEST facts.
    """
    groups = _groups(traces, metric)
    owner = np.repeat(np.arange(len(groups)), [len(own) for own in groups.values()])
    flat = np.concatenate([own.reshape(len(own), -1) for own in groups.values()])
    alike = np.nan_to_num(np.corrcoef(flat), nan=0.0)
    sums, counts = _blocks(alike, owner)
    weights = np.concatenate([np.ones((1, len(groups))), resamples(len(groups), draws, seed)])
    within = _ratio(weights, sums.diagonal(), counts.diagonal())
    across = ~np.eye(len(groups), dtype=bool)  # copies of one relation are not two relations
    pairs = np.einsum("di,dj->dij", weights, weights) * across
    with np.errstate(invalid="ignore"):  # a draw of one relation alone
        between = (pairs * sums).sum((1, 2)) / (pairs * counts).sum((1, 2))
        shared = between / within
    return Sharing(
        part=traces[0].part,
        within=row_interval(within),
        between=row_interval(between),
        shared=row_interval(shared),
        p=permuted(partial(_apart, alike), owner, draws, seed)[1],
        n_relations=len(groups),
        n_facts=len(flat),
    )


def strongest(heads: RelationHeads, n: int) -> list[tuple[int, Head]]:
    """The `n` largest mean effects over relations, of either sign: bucket and head."""
    places = largest(heads.mean.mean(0), n)
    return [(bucket, Head(layer, head)) for bucket, layer, head in places]


def _groups(
    traces: Sequence[FactTrace], metric: str
) -> dict[str, Float[ndarray, "fact bucket layer head"]]:
    """Profiles by relation, of those with enough facts."""
    found: dict[str, list[ndarray]] = {}
    for trace in traces:
        found.setdefault(trace.relation, []).append(profile(trace, metric))
    groups = {key: np.stack(own) for key, own in sorted(found.items()) if len(own) >= FEWEST}
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} relations with {FEWEST} facts or more ({len(found)} in all): two are "
            "wanted to be compared; raise --limit, or name fewer --relations"
        )
    return groups


def _blocks(
    alike: Float[ndarray, "fact fact"], owner: Int[ndarray, " fact"]
) -> tuple[Float[ndarray, "relation relation"], Float[ndarray, "relation relation"]]:
    """Sums and counts of the pairs of two relations' facts; a fact is no pair with itself."""
    member = (owner[:, None] == np.arange(owner.max() + 1)).astype(float)
    pairs = 1 - np.eye(len(owner))
    return member.T @ (alike * pairs) @ member, member.T @ pairs @ member


def _ratio(
    weights: Float[ndarray, "draw relation"],
    sums: Float[ndarray, " relation"],
    counts: Float[ndarray, " relation"],
) -> Float[ndarray, " draw"]:
    return (weights @ sums) / (weights @ counts)


def _apart(alike: Float[ndarray, "fact fact"], owner: Int[ndarray, " fact"]) -> float:
    """Mean r within relations less that between them."""
    sums, counts = _blocks(alike, owner)
    inside = sums.trace() / counts.trace()
    outside = (sums.sum() - sums.trace()) / (counts.sum() - counts.trace())
    return float(inside - outside)
