"""Tables in Markdown, and users' texts in them."""

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"[\\|<*`\[$]")  # what begins a cell, a tag, emphasis, code, a link, a formula


def escaped(text: str) -> str:
    """`text` on one line, so that Markdown shows it as it is: subjects may hold "<b>" or "|"."""
    return _MARKUP.sub(r"\\\g<0>", text.replace("\n", "↵"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells in Markdown, which are not escaped."""
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
