"""What a benchmark is made of: its records by relation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.style import SINGLE, legend_above, new_figure, readable, styled

# Okabe and Ito's palette, as in style.py
KIND_COLOURS = {
    "asymmetric": "#0072B2",
    "hierarchical": "#009E73",
    "symmetric": "#D55E00",
    "": "#999999",
}
ROW = 0.14  # inches a relation


class Share(NamedTuple):
    """How many records are of one relation."""

    relation: str
    kind: str
    n_records: int


@styled
def by_relation(shares: Sequence[Share], title: str, n_subjects: int) -> Figure:
    """A bar for each relation, the most frequent on top, in the colour of the relation's kind."""
    ordered = sorted(shares, key=lambda share: (-share.n_records, share.relation))
    n_records = sum(share.n_records for share in ordered)
    caption = (
        f"n = {n_records:,} records of {n_subjects:,} subjects, {len(ordered)} relations; "
        "a full count, so no interval. The kinds are kedit's own: RaKE has none."
    )
    figure = new_figure(SINGLE, 0.75 + ROW * max(len(ordered), 3), readable(title, 50), caption)
    ax = figure.subplots()
    rows = np.arange(len(ordered))
    colours = [KIND_COLOURS[share.kind] for share in ordered]
    bars = ax.barh(rows, [share.n_records for share in ordered], 0.75, color=colours)
    ax.bar_label(bars, [f"{share.n_records:,}" for share in ordered], padding=2)
    ax.set_yticks(rows, [readable(share.relation, 40) for share in ordered])
    ax.set_ylim(len(ordered) - 0.5, -0.5)
    ax.set_xlabel("records")
    ax.margins(x=0.12)  # room for the numbers
    ax.tick_params(left=False)
    ax.spines[["top", "right"]].set_visible(False)
    kinds = [kind for kind in KIND_COLOURS if any(share.kind == kind for share in ordered)]
    handles = [Patch(color=KIND_COLOURS[kind]) for kind in kinds]
    legend_above(figure, handles, [kind or "kind not known" for kind in kinds])
    return figure
