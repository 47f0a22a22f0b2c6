"""What studies of heads and halves measured, over many facts; every number with its interval."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from numpy import ndarray

from kedit.heads import Head
from kedit.stats import Interval


@dataclass(frozen=True)
class RelationHeads:
    """Which heads carry which relation: mean indirect effects, relation by relation.

    Args:
        part: "subject" or "relation", whichever was corrupted.
        relations: their names; so many facts each.
        buckets: of tokens; the mean over a bucket's tokens is taken.
        mean, low, high: over the relation's facts, 95 % bootstrap interval over these. A bucket
            without tokens has no effect: zero.
        similarity: Pearson's r of two relations' means.
        order: of the relations, alike ones side by side.
        merges: how they were joined (scipy's linkage: two clusters, their distance 1 − r, size).
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
    """Do relations share heads? Correlations of single facts' maps of effects.

    Args:
        part: whose words were corrupted.
        within: mean Pearson's r of two facts of one relation: how much of a map is not chance.
        between: of two facts of different relations.
        shared: between / within: 1 if all relations have the same heads, 0 if none has another's.
            Chance lowers both alike, and cancels. Intervals over draws of relations.
        p: share of permutations of the facts among the relations in which within − between is as
            large.
        n_relations, n_facts: of relations with two facts or more.
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
    """Where a head looks from a prompt's last token.

    Args:
        roles: kedit.models.prompts.ROLES.
        share: of its attention by role, mean over facts; moved: the same weighted by the size of
            what is moved. 95 % bootstrap intervals over facts.
    """

    head: Head
    roles: tuple[str, ...]
    share: Interval
    moved: Interval
    n_facts: int


@dataclass(frozen=True)
class AttentionShare:
    """Attention's share of an indirect effect, the rest being the MLPs'.

    Args:
        part: whose words were corrupted.
        measure: "restored" or "severed" (probes.kinds).
        kind: of the relations: "symmetric", "asymmetric", "hierarchical", or "all".
        share: ratio of sums over facts, 95 % bootstrap interval over relations.
    """

    part: str
    measure: str
    kind: str
    share: Interval
    n_facts: int
    n_relations: int


@dataclass(frozen=True)
class KindTest:
    """Do kinds of relations differ in attention's share? Kinds are permuted among relations.

    Args:
        spread: of the kinds' shares, largest less smallest.
        p: share of permutations in which it is as large.
    """

    part: str
    measure: str
    spread: float
    p: float
