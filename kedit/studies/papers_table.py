"""RaKE's own table: what an edit from either side does to success on both (arXiv 2311.09053)."""

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
    """The unedited model first, then a row for each edited side and editor.

    Args:
        found: measures before and after, by edited side and editor; all of the same cases.
        intervals: what their intervals are, for the title.
    """
    rows: list[tuple[str, ...]] = []
    for (side, editor), measured in found.items():
        by_key = {one.key: one for one in measured}
        own = [by_key.get(key) for key in KEYS]
        if not rows:
            rows.append(("", "before", *(percent(one.before) if one else "-" for one in own)))
        rows.append((side, editor, *(percent(one.after) if one else "-" for one in own)))
    title = f"As the paper has it: success in percent, with {intervals}"
    return Table(title, ("edited", "editor", *COLUMNS), tuple(rows))
