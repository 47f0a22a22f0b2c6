"""Whether facts can be compared, by relation or by kind: said before a model is loaded."""

from collections import Counter
from collections.abc import Sequence

from kedit.errors import InputError
from kedit.facts import Fact

PAIR = 2  # facts that a relation needs to be like itself, and relations to be compared


def require_relations_to_compare(order: Sequence[Sequence[Fact]], limit: int) -> None:
    """Looks whether two relations have two facts each among those that come first.

    Args:
        order: facts in the order in which they are taken, each in all its wordings.
        limit: how many are taken; 0 for all.

    Raises:
        InputError: they have not.
    """
    every, taken = (Counter(_relations(some)) for some in (order, _taken(order, limit)))
    if _n_paired(taken) >= PAIR:
        return
    if _n_paired(every) < PAIR:
        raise InputError(
            f"relations are compared, and two of them need two facts each. Facts: {len(order)}, "
            f"relations: {len(every)}, with two facts: {_n_paired(every)}. More facts are "
            "wanted; or trace_relation --sites z, which compares nothing"
        )
    raise InputError(
        f"--limit {limit}: relations are compared, and two of them need two facts each. Relations "
        f"whose turn comes: {len(taken)}, with two facts: {_n_paired(taken)}. --limit "
        f"{PAIR * len(every)} is wanted, or fewer relations, as in --relations {PAIR}"
    )


def require_kinds_to_compare(order: Sequence[Sequence[Fact]], limit: int) -> None:
    """Looks whether relations of two kinds are among the facts that come first.

    Raises:
        InputError: they are not.
    """
    taken = _taken(order, limit)
    kinds = {worded[0].relation.kind or "unknown" for worded in taken}
    if len(kinds) < PAIR:
        raise InputError(
            f"kinds of relations are compared, and two are wanted. Facts: {len(taken)}, kinds: "
            f"{len(kinds)} ({', '.join(kinds)}). A larger --limit is wanted, or other --facts: "
            "kedit's own have kinds (--facts builtin)"
        )


def _taken(order: Sequence[Sequence[Fact]], limit: int) -> Sequence[Sequence[Fact]]:
    return order[: limit or None]


def _relations(order: Sequence[Sequence[Fact]]) -> list[str]:
    return [worded[0].relation.id for worded in order]


def _n_paired(counts: Counter[str]) -> int:
    return sum(n >= PAIR for n in counts.values())
