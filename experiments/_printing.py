"""What commands print: lines, tables, and what was left out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from kedit.tables import Table

LISTED = 5  # records that cannot be used, on the screen


def say_skipped(source: str, skipped: Mapping[str, str]) -> None:
    """Prints which records of a file cannot be used, and why; nothing where all can be."""
    for place, reason in list(skipped.items())[:LISTED]:
        say(f"skipped: {place}: {reason}")
    if len(skipped) > LISTED:
        say(f"skipped: {len(skipped) - LISTED} more records of {source}")


def say_unscored(reasons: Mapping[str, str], n_cases: int) -> None:
    """Prints how many cases could not be scored before any edit, and why the first could not."""
    if reasons:
        first = next(iter(reasons.values()))
        say(
            f"{len(reasons)} of {n_cases} cases cannot be scored and are left out (records.jsonl "
            f"says why). The first: {first}"
        )


def say(text: str) -> None:
    """Prints a line as it is: square brackets and paths too."""
    console().print(text, highlight=False, soft_wrap=True)


def console(width: int = 0) -> "Console":
    """Where tables are printed; wide enough for them where nobody looks at a terminal.

    Square brackets are printed as they are: subjects, relations and paths may hold them.
    """
    from rich.console import Console

    return Console(width=None if Console().is_terminal else max(128, width), markup=False)


def show(table: "Table", width: int = 0) -> None:
    """Prints a table; `width` is what it needs where nobody looks at a terminal."""
    screen = console(width)
    screen.print(table.to_rich(screen.width))
