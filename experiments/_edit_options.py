"""What the commands that edit cases share: which cases, from which sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments._printing import say, say_skipped

if TYPE_CHECKING:
    from kedit.facts import EditCase


@dataclass(frozen=True)
class ToEdit:
    """What is edited.

    Args:
        every: all cases that have what the sides need.
        cases: those of them to edit.
        skipped: why others cannot be, by their places or ids.
        sides: from which they are edited.
        source: where the cases are from: what "auto" stands for.
    """

    every: "list[EditCase]"
    cases: "list[EditCase]"
    skipped: dict[str, str]
    sides: list[Any]
    source: str


def to_edit(config: Any, sides: Sequence[str]) -> ToEdit:
    """Chooses the cases to edit; where none has a relation side, the entity's alone is edited.

    Args:
        config: with model, cases, limit, skip, prompts_per_kind and seed.
        sides: which are wanted (kedit.studies.prepare.Side).

    Raises:
        InputError: none is left, or no record has the side that is wanted.
    """
    from kedit.data.choose import cases_source, fewer_probes, spread_cases, usable_cases
    from kedit.errors import InputError

    source = cases_source(config.cases, config.model)
    cases, skipped = usable_cases(source)
    say_skipped(source, skipped)
    both = [case for case in cases if case.relation]
    if list(sides) != ["entity"] and not both:
        lacks = (
            f"no record of {source} has a relation side, which is made from the relation's "
            "name: a field 'relation' has it (of CounterFact build_rake makes it)"
        )
        if "entity" not in sides:
            raise InputError(f"{lacks}; edits from the entity side need none")
        say(f"Edited from the entity side only: {lacks}.")
        sides = ["entity"]
    elif list(sides) != ["entity"]:
        skipped |= {case.id: "it has no relation side" for case in cases if not case.relation}
        cases = both
    wanted = config.skip + config.limit if config.limit else 0
    asked = spread_cases(cases, wanted, config.seed)[config.skip :]
    if not asked:
        raise InputError(
            f"--skip {config.skip} leaves none of the {len(cases)} cases of {source} to edit"
        )
    chosen = [fewer_probes(case, config.prompts_per_kind) for case in asked]
    return ToEdit(cases, chosen, skipped, list(sides), source)
