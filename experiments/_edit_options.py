"""Chooses the cases and the sides for the commands that edit cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments._printing import say, say_skipped

if TYPE_CHECKING:
    from kedit.facts import EditCase


@dataclass(frozen=True)
class ToEdit:
    """The cases that a command edits.

    Args:
        every: all cases that have the needed sides, also those that are not edited.
        cases: the cases to edit.
        skipped: reasons why records cannot be edited, by their location in the file or their id.
        sides: the sides from which the cases are edited.
        source: the file or the name of the cases; never "auto".
    """

    every: "list[EditCase]"
    cases: "list[EditCase]"
    skipped: dict[str, str]
    sides: list[Any]
    source: str


def to_edit(config: Any, sides: Sequence[str]) -> ToEdit:
    """Chooses the cases to edit; if no case has a relation side, only the entity side is edited.

    Args:
        config: with model, cases, limit, skip and seed, and with prompts_per_kind if the test
            prompts are used.
        sides: the requested sides (kedit.studies.prepare.Side).

    Raises:
        InputError: no case is left, or no record has the requested side.
    """
    from kedit.data.choose import cases_source, fewer_probes, spread_cases, usable_cases
    from kedit.errors import InputError

    source = cases_source(config.cases, config.model)
    cases, skipped = usable_cases(source)
    say_skipped(source, skipped, len(cases))
    both = [case for case in cases if case.relation]
    if list(sides) != ["entity"] and not both:
        lacks = (
            f"no record of {source} has a relation side, which needs the relation's name in a "
            "field 'relation' (for CounterFact, build_rake adds it)"
        )
        if "entity" not in sides:
            raise InputError(f"{lacks}; edits from the entity side do not need it")
        say(f"Edited from the entity side only: {lacks}.")
        sides = ["entity"]
    elif list(sides) != ["entity"]:
        skipped |= {case.id: "it has no relation side" for case in cases if not case.relation}
        cases = both
    n_drawn = config.skip + config.limit if config.limit else 0  # 0 draws all
    drawn = spread_cases(cases, n_drawn, config.seed)[config.skip :]
    if not drawn:
        raise InputError(
            f"--skip {config.skip}: no case is left to edit, because {source} has {len(cases)}"
        )
    chosen = [fewer_probes(case, getattr(config, "prompts_per_kind", 0)) for case in drawn]
    return ToEdit(cases, chosen, skipped, list(sides), source)
