"""Whether there are facts enough for what is asked: said before a model is loaded."""

from collections import Counter
from collections.abc import Sequence

from kedit.errors import InputError
from kedit.facts import Fact

FEWEST_TO_SEARCH = 4  # facts a relation: two are searched for what two are tested with


def require_facts_to_ask(facts: Sequence[Fact], choose: int) -> None:
    """Looks whether facts are left to ask about when heads were chosen on `choose` of them.

    Raises:
        InputError: there are none.
    """
    n_facts = len(_subjects(facts))
    if n_facts <= choose:
        raise InputError(
            f"--choose {choose}: heads are chosen on so many facts and asked about others. Facts: "
            f"{n_facts}. Fewer to --choose are wanted, or more --facts or --relations"
        )


def require_facts_of_a_relation(facts: Sequence[Fact], fewest: int, at_most: int = 0) -> None:
    """Looks whether a relation has `fewest` facts, and may have so many.

    Args:
        at_most: how many are taken at most; 0 for all.

    Raises:
        InputError: no relation has as many, or fewer than `fewest` would be taken.
    """
    if 0 < at_most < fewest:
        raise InputError(
            f"--facts-per-relation {at_most}: at least {fewest} facts per relation are needed"
        )
    most = max(Counter(relation for relation, _ in _subjects(facts)).values(), default=0)
    if most < fewest:
        raise InputError(
            f"{fewest} facts of a relation are wanted, half of them to find neurons and half to "
            f"test them; no relation of these has more than {most}"
        )


def _subjects(facts: Sequence[Fact]) -> set[tuple[str, str]]:
    """The facts, whatever their wordings: relation and subject."""
    return {(fact.relation.id, fact.subject) for fact in facts}
