"""Whether there are facts enough for what is asked: said before a model is loaded."""

from collections.abc import Sequence

from kedit.errors import InputError
from kedit.facts import Fact


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


def _subjects(facts: Sequence[Fact]) -> set[tuple[str, str]]:
    """The facts, whatever their wordings: relation and subject."""
    return {(fact.relation.id, fact.subject) for fact in facts}
