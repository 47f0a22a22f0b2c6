"""Builds the table of the RaKE paper: success on both sides after an edit from either side.

Source: arXiv 2311.09053.
"""

from collections.abc import Mapping, Sequence

from kedit.scoring.summary import (
    E_EFFICACY,
    E_PARAPHRASE,
    R_EFFICACY,
    R_PARAPHRASE,
    Key,
    Measure,
)
from kedit.tables import Table, percent

COLUMNS = (
    "E-efficacy", "R-efficacy", "their harmonic mean",
    "E-generalization", "R-generalization", "their harmonic mean",
)  # fmt: skip
KEYS = (
    E_EFFICACY, R_EFFICACY, Key("both", "efficacy", "harmonic mean"),
    E_PARAPHRASE, R_PARAPHRASE, Key("both", "paraphrase", "harmonic mean"),
)  # fmt: skip


def papers_table(found: Mapping[tuple[str, str], Sequence[Measure]], intervals: str) -> Table:
    """Builds the table: the unedited model first, then one row per edited side and editor.

    Args:
        found: measures before and after, by edited side and editor; all on the same cases.
        intervals: describes the intervals, for the title.
    """
    rows: list[tuple[str, ...]] = []
    for (side, editor), measures in found.items():
        by_key = {measure.key: measure for measure in measures}
        columns = [by_key.get(key) for key in KEYS]
        if not rows:
            before = (percent(column.before) if column else "-" for column in columns)
            rows.append(("", "before", *before))
        after = (percent(column.after) if column else "-" for column in columns)
        rows.append((side, editor, *after))
    title = f"Success in percent, as in the RaKE paper, with {intervals}"
    return Table(title, ("edited", "editor", *COLUMNS), tuple(rows))
