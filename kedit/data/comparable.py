"""Checks, before a model is loaded, whether the facts allow a comparison of relations or kinds."""

from collections import Counter
from collections.abc import Sequence

from kedit.errors import InputError
from kedit.facts import Fact

# facts per relation, so that facts of the same relation can be compared; and relations (or kinds),
# so that they can be compared with each other
PAIR = 2


def require_relations_to_compare(order: Sequence[Sequence[Fact]], limit: int) -> None:
    """Checks that two relations have two facts each among the first `limit` facts.

    Args:
        order: facts in the order in which they are used, each in all its wordings.
        limit: number of facts that are used; 0 for all.

    Raises:
        InputError: fewer than two relations have two facts.
    """
    available = Counter(_relations(order))
    used = Counter(_relations(_first(order, limit)))
    if _n_paired(used) >= PAIR:
        return
    if _n_paired(available) < PAIR:
        raise InputError(
            "a comparison of relations needs two relations with two facts each. Facts: "
            f"{len(order)}, relations: {len(available)}, with two facts: {_n_paired(available)}. "
            "Give more facts, or use trace_relation --sites z, which compares nothing"
        )
    raise InputError(
        f"--limit {limit}: a comparison of relations needs two relations with two facts each. "
        f"Relations of the first {limit} facts: {len(used)}, with two facts: {_n_paired(used)}. "
        f"Use --limit {PAIR * len(available)}, or fewer relations, as in --relations {PAIR}"
    )


def require_kinds_to_compare(order: Sequence[Sequence[Fact]], limit: int) -> None:
    """Checks that the first `limit` facts have relations of two kinds.

    Args:
        order, limit: as in `require_relations_to_compare`.

    Raises:
        InputError: all these relations are of one kind.
    """
    used = _first(order, limit)
    kinds = {worded[0].relation.kind or "unknown" for worded in used}
    if len(kinds) < PAIR:
        raise InputError(
            f"a comparison of kinds needs relations of two kinds. Facts: {len(used)}, kinds: "
            f"{len(kinds)} ({', '.join(kinds)}). Use a larger --limit, or other --facts: kedit's "
            "own facts have kinds (--facts builtin)"
        )


def _first(order: Sequence[Sequence[Fact]], limit: int) -> Sequence[Sequence[Fact]]:
    return order[: limit or None]


def _relations(order: Sequence[Sequence[Fact]]) -> list[str]:
    return [worded[0].relation.id for worded in order]


def _n_paired(counts: Counter[str]) -> int:
    return sum(n >= PAIR for n in counts.values())
