"""Results on heads and on attention's share, over many facts and with intervals."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from numpy import ndarray

from kedit.heads import Head
from kedit.stats import Interval


@dataclass(frozen=True)
class RelationHeads:
    """Which heads carry which relation: mean indirect effects, relation by relation.

    Args:
        part: whose words were corrupted: "subject" or "relation".
        relations: names of the relations.
        n_facts: number of facts of each relation.
        buckets: names of the token buckets; effects are means over the tokens of a bucket.
        mean, low, high: mean effect over the relation's facts and its 95 % bootstrap interval. The
            effect in a bucket without tokens is zero.
        similarity: Pearson's r between two relations' mean effects.
        order: order of the relations in which similar ones are next to each other.
        merges: the hierarchical clustering, as scipy's linkage matrix: two clusters, their distance
            1 − r, and the size of the new cluster.
    """

    part: str
    relations: tuple[str, ...]
    n_facts: tuple[int, ...]
    buckets: tuple[str, ...]
    mean: Float[ndarray, "relation bucket layer head"]
    low: Float[ndarray, "relation bucket layer head"]
    high: Float[ndarray, "relation bucket layer head"]
    similarity: Float[ndarray, "relation relation"]
    order: Int[ndarray, " relation"]
    merges: Float[ndarray, "merge 4"]


@dataclass(frozen=True)
class Sharing:
    """Whether relations share heads: correlations between single facts' head effects.

    Args:
        part: whose words were corrupted.
        within: mean Pearson's r between two facts of the same relation: how much of a fact's
            effects is not chance.
        between: mean Pearson's r between two facts of different relations.
        shared: between / within: 1 if all relations use the same heads, 0 if no two relations
            share a head. Chance lowers both by the same factor, which cancels. Intervals are over
            draws of relations.
        p: share of permutations of the facts among the relations in which within − between is at
            least as large as observed.
        n_relations: number of relations with two facts or more.
        n_facts: number of facts of these relations.
    """

    part: str
    within: Interval
    between: Interval
    shared: Interval
    p: float
    n_relations: int
    n_facts: int


@dataclass(frozen=True)
class Looks:
    """Where a head attends from a prompt's last token.

    Args:
        head: the head.
        roles: roles of the tokens attended to (`kedit.models.prompts.ROLES`).
        share: share of the head's attention by role, mean over facts with a 95 % bootstrap
            interval over facts.
        moved: the same, with attention weighted by the norm of the vectors that it moves.
        n_facts: number of facts.
    """

    head: Head
    roles: tuple[str, ...]
    share: Interval
    moved: Interval
    n_facts: int


@dataclass(frozen=True)
class AttentionShare:
    """Attention's share of an indirect effect; the rest is the MLPs'.

    Args:
        part: whose words were corrupted.
        measure: how the share is measured: "restored" or "severed" (`probes.kinds`).
        kind: kind of the relations: "symmetric", "asymmetric", "hierarchical", or "all".
        share: ratio of two sums over facts, with a 95 % bootstrap interval over relations.
        n_facts, n_relations: number of facts and of relations.
    """

    part: str
    measure: str
    kind: str
    share: Interval
    n_facts: int
    n_relations: int


@dataclass(frozen=True)
class KindTest:
    """Whether kinds of relations differ in attention's share: a permutation test.

    Args:
        part, measure: see `AttentionShare`.
        spread: the largest share of a kind minus the smallest.
        p: share of permutations of the kinds among the relations in which the spread is at least
            as large.
    """

    part: str
    measure: str
    spread: float
    p: float
