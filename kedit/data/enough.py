"""Checks, before a model is loaded, whether a source has enough facts for a study."""

from collections import Counter
from collections.abc import Sequence

from kedit.errors import InputError
from kedit.facts import Fact

FEWEST_TO_SEARCH = 4  # facts per relation: two to find neurons with, and two to test them with


def require_facts_to_ask(facts: Sequence[Fact], choose: int) -> None:
    """Checks that facts are left to test heads on after `choose` facts have chosen the heads.

    Raises:
        InputError: no fact is left.
    """
    n_facts = len(_subjects(facts))
    if n_facts <= choose:
        raise InputError(
            f"--choose {choose}: heads are chosen on this many facts and tested on others. Facts: "
            f"{n_facts}. Use a smaller --choose, or more --facts or --relations"
        )


def require_facts_of_a_relation(facts: Sequence[Fact], fewest: int, at_most: int = 0) -> None:
    """Checks that some relation has `fewest` facts and that `at_most` allows that many.

    Args:
        fewest: number of facts that a relation needs.
        at_most: number of facts that are used per relation at most; 0 for all.

    Raises:
        InputError: no relation has `fewest` facts, or `at_most` is less than `fewest`.
    """
    if 0 < at_most < fewest:
        raise InputError(
            f"--facts-per-relation {at_most}: at least {fewest} facts per relation are needed"
        )
    most = max(Counter(relation for relation, _ in _subjects(facts)).values(), default=0)
    if most < fewest:
        raise InputError(
            f"a relation needs {fewest} facts, half of them to find neurons and half to test "
            f"them; none of these relations has more than {most}"
        )


def _subjects(facts: Sequence[Fact]) -> set[tuple[str, str]]:
    """Returns relation and subject of each fact, without its wordings."""
    return {(fact.relation.id, fact.subject) for fact in facts}
