"""RaKE's own table: what an edit from either side does to success on both (arXiv 2311.09053)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments._tables import INTERVALS, percent, plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from kedit.scoring.summary import Measure

COLUMNS = (
    "E-efficacy", "R-efficacy", "their harmonic mean",
    "E-generalization", "R-generalization", "their harmonic mean",
)  # fmt: skip
TITLE = f"As the paper has it: success in percent, with {INTERVALS}"

Row = tuple[str, ...]


def papers_table(rows: Sequence[Row]) -> "Table":
    """For the screen."""
    table = plain_table(TITLE, "", ("edited", "editor", *COLUMNS))
    for _, own in _by_side(rows):
        for row in own:
            table.add_row(*row)
        table.add_section()
    return table


def papers_markdown(rows: Sequence[Row]) -> str:
    from kedit.markdown import escaped, table

    heads = ("edited", "editor", *COLUMNS)
    lines = [(side, escaped(editor), *cells) for side, editor, *cells in rows]
    return f"### {TITLE}\n\n{table(heads, lines)}"


def papers_rows(found: "Mapping[tuple[str, str], Sequence[Measure]]") -> list[Row]:
    """The unedited model first, then a row for each edited side and editor.

    Args:
        found: measures before and after, by edited side and editor; all of the same cases.
    """
    from kedit.scoring.summary import E_EFFICACY, E_PARAPHRASE, R_EFFICACY, R_PARAPHRASE, Key

    keys: tuple[Key, ...] = (
        E_EFFICACY, R_EFFICACY, Key("both", "efficacy", "harmonic mean"),
        E_PARAPHRASE, R_PARAPHRASE, Key("both", "paraphrase", "harmonic mean"),
    )  # fmt: skip
    rows: list[Row] = []
    for (side, editor), measured in found.items():
        by_key = {one.key: one for one in measured}
        own = [by_key.get(key) for key in keys]
        if not rows:
            rows.append(("", "before", *(percent(one.before) if one else "-" for one in own)))
        rows.append((side, editor, *(percent(one.after) if one else "-" for one in own)))
    return rows


def _by_side(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for side in dict.fromkeys(row[0] for row in rows):
        yield side, [row for row in rows if row[0] == side]
