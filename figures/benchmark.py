"""Figure of a benchmark's records by relation."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.style import SINGLE, legend_above, new_figure, readable, styled
from kedit.results.rake import RakeStatistics

# Okabe and Ito's palette, as in style.py
KIND_COLOURS = {
    "asymmetric": "#0072B2",
    "hierarchical": "#009E73",
    "symmetric": "#D55E00",
    "": "#999999",
}
ROW = 0.14  # inches per relation


@styled
def by_relation(counts: RakeStatistics) -> Figure:
    """A bar for each relation, the most frequent at the top, coloured by the relation's kind."""
    named = {f"{count.label} ({id})": count for id, count in counts.by_relation.items()}
    names = sorted(named, key=lambda name: (-named[name].records, name))
    ordered = [named[name] for name in names]
    caption = (
        f"n = {counts.records:,} records of {counts.subjects:,} subjects, "
        f"{len(ordered)} relations; a full count, so no interval. The kinds of relations are "
        "kedit's; RaKE does not define kinds."
    )
    title = f"RaKE, built from {counts.source}"
    figure = new_figure(SINGLE, 0.75 + ROW * max(len(ordered), 3), readable(title, 50), caption)
    ax = figure.subplots()
    rows = np.arange(len(ordered))
    colours = [KIND_COLOURS[count.kind] for count in ordered]
    bars = ax.barh(rows, [count.records for count in ordered], 0.75, color=colours)
    ax.bar_label(bars, [f"{count.records:,}" for count in ordered], padding=2)
    ax.set_yticks(rows, [readable(name, 40) for name in names])
    ax.set_ylim(len(ordered) - 0.5, -0.5)
    ax.set_xlabel("records")
    ax.margins(x=0.12)  # room for the numbers
    ax.tick_params(left=False)
    ax.spines[["top", "right"]].set_visible(False)
    kinds = [kind for kind in KIND_COLOURS if any(count.kind == kind for count in ordered)]
    handles = [Patch(color=KIND_COLOURS[kind]) for kind in kinds]
    legend_above(figure, handles, [kind or "unknown kind" for kind in kinds])
    return figure
