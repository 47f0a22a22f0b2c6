"""Whether there are facts enough for what is asked: said before the model is loaded."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedit.facts import Fact


def require_facts_of_a_relation(order: "Sequence[Sequence[Fact]]", fewest: int) -> None:
    """Looks whether a relation has `fewest` facts.

    Raises:
        InputError: none has.
    """
    from kedit.errors import InputError

    most = max(Counter(_relations(order)).values(), default=0)
    if most < fewest:
        raise InputError(
            f"{fewest} facts of a relation are wanted, half of them to find neurons and half to "
            f"test them; no relation of these has more than {most}"
        )


def _relations(order: "Sequence[Sequence[Fact]]") -> list[str]:
    return [worded[0].relation.id for worded in order]
