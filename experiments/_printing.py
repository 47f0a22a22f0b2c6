"""Prints notices, result tables and texts; under --quiet notices are left out."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments._verbosity import is_quiet

if TYPE_CHECKING:
    from rich.console import Console

    from kedit.tables import Table

LISTED = 5  # unusable records that are printed one by one; the others are only counted
log = logging.getLogger("kedit")


def say_skipped(source: str, skipped: Mapping[str, str], n_usable: int | None = None) -> None:
    """Prints which records of a file cannot be used, and why; nothing if all can be used.

    Args:
        skipped: reasons, by the records' locations in the file.
        n_usable: number of the other records, for the log.
    """
    if n_usable is not None:
        log.debug("Read %s: %d usable records, %d skipped", source, n_usable, len(skipped))
    for location, reason in list(skipped.items())[:LISTED]:
        say(f"skipped: {location}: {reason}")
    if len(skipped) > LISTED:
        say(f"skipped: {len(skipped) - LISTED} more records of {source}")


def say_unscored(reasons: Mapping[str, str], n_cases: int) -> None:
    """Prints how many cases could not be scored before any edit, and the reason of the first."""
    if reasons:
        first = next(iter(reasons.values()))
        say(
            f"{len(reasons)} of {n_cases} cases cannot be scored and are left out (records.jsonl "
            f"gives the reasons). The first: {first}"
        )


def say(text: str) -> None:
    """Prints a notice as it is, square brackets and paths included; nothing under --quiet."""
    if not is_quiet():
        show_text(text)


def show_text(text: str) -> None:
    """Prints a text that belongs to the results, such as the note of a table."""
    console().print(text, highlight=False, soft_wrap=True)


def console(width: int = 0) -> "Console":
    """The console for tables; outside of a terminal it has `width` columns, and at least 128.

    It prints square brackets as they are, because subjects, relations and paths may hold them.
    """
    from rich.console import Console

    return Console(width=None if Console().is_terminal else max(128, width), markup=False)


def show(table: "Table", width: int = 0) -> None:
    """Prints a table; `width` is the number of columns it needs outside of a terminal."""
    screen = console(width)
    screen.print(table.to_rich(screen.width))
