"""Heads by relation: a cluster map of effects, and where the strongest heads look."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy import ndarray
from scipy.cluster.hierarchy import dendrogram

from figures.style import (
    DOUBLE,
    SINGLE,
    SMALL,
    Study,
    estimate,
    new_figure,
    plural,
    readable,
    styled,
)
from figures.trace import draw_table
from kedit.head_results import Looks, RelationHeads, Sharing
from kedit.heads import Head
from kedit.stats import largest

COLUMNS = 18  # heads of a cluster map
ROW = 0.17  # inches
SHORT = {
    "first corrupted": "first c.",
    "middle corrupted": "middle c.",
    "last corrupted": "last c.",
    "first subsequent": "next",
    "last token": "last",
}
ROLE_COLOURS = {
    "bos": "0.85",
    "subject": "#332288",
    "relation": "#DDAA33",
    "rest": "0.6",
    "last": "#882255",
}


@styled
def clusters(heads: RelationHeads, shared: Sharing, study: Study) -> Figure:
    """Relations (alike ones side by side) against the heads that are strongest in any of them.

    A relation's effects are divided by its largest: which heads it has is compared, as by r, and
    not how much probability corrupting it takes.
    """
    peak = np.abs(heads.mean).max((1, 2, 3))
    scaled = heads.mean / np.where(peak > 0, peak, 1)[:, None, None, None]
    columns = _columns(scaled)
    effect = np.stack([scaled[:, bucket, head.layer, head.head] for bucket, head in columns], 1)
    effect = effect[heads.order]
    n_rows = len(effect)
    title = f"Which heads carry which relation: {heads.part} corrupted"
    caption = (
        f"{study.caption('in heads.csv')} Rows: a relation's mean effects, divided by the largest "
        f"of them, which stands behind its number of facts. Columns: the {len(columns)} largest of "
        "any relation, by head and token (c.: corrupted). Relations joined by 1 − r of "
        f"their whole maps. One relation's facts: r = {estimate(*shared.within.floats())}; "
        f"different relations': {estimate(*shared.between.floats())}; shared "
        f"{estimate(*shared.shared.floats())}; p = {shared.p:.2g} (permutations)."
    )
    figure = new_figure(DOUBLE, 1.9 + ROW * n_rows, title, caption)
    tree, ax = figure.subplots(1, 2, width_ratios=(1, 7))
    _tree(tree, heads, n_rows)
    names = [
        f"{readable(heads.relations[row], 26)} ({heads.n_facts[row]}; {peak[row]:.2g})"
        for row in heads.order
    ]
    labels = [
        f"{head}, {SHORT.get(heads.buckets[row], heads.buckets[row])}" for row, head in columns
    ]
    draw_table(figure, ax, effect, names, labels, "effect / largest of the row")
    return figure


@styled
def looks(found: Sequence[Looks], study: Study) -> Figure:
    """Where each head looks from the last token, by the prompt's parts; below, what it moves."""
    title = "Where the strongest heads look, from the last token"
    n_facts = found[0].n_facts
    spread = (
        "95 % bootstrap interval over facts" if n_facts > 1 else "no interval over a single fact"
    )
    caption = (
        f"n = {plural(n_facts, 'fact')}, clean runs; seed {study.seed}; upper bar: attention; "
        "lower: weighted by the size of what is moved; numbers: attention to the subject, "
        f"{spread}."
    )
    figure = new_figure(SINGLE, 1.3 + 0.3 * len(found), title, caption)
    ax = figure.subplots()
    for row, one in enumerate(found):
        for offset, interval, alpha in ((-0.19, one.share, 1.0), (0.19, one.moved, 0.6)):
            left = np.concatenate([[0], np.cumsum(interval.mean)[:-1]])
            ax.barh(
                [row + offset] * len(left), interval.mean, 0.36, left=left, alpha=alpha,
                color=[ROLE_COLOURS[role] for role in one.roles], linewidth=0,
            )  # fmt: skip
        subject = one.roles.index("subject")
        text = estimate(*(float(values[subject]) for values in one.share))
        ax.text(1.02, row, text, va="center", fontsize=SMALL)
    ax.set_xlim(0, 1.45)
    ax.set_xticks(np.linspace(0, 1, 5))
    ax.set_xlabel("share of attention", loc="left")
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_yticks(range(len(found)), [str(one.head) for one in found])
    ax.spines[["top", "right"]].set_visible(False)
    handles = [
        ax.barh(0, 0, color=to_hex(ROLE_COLOURS[role]), label=role) for role in found[0].roles
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles),
              handlelength=1, columnspacing=1)  # fmt: skip
    return figure


def _columns(effect: Float[ndarray, "relation bucket layer head"]) -> list[tuple[int, Head]]:
    """The cells that are strongest in any relation, by layer, head and bucket."""
    size = np.abs(effect).max(0)
    found = [
        (bucket, Head(layer, head))
        for bucket, layer, head in largest(size, COLUMNS)
        if size[bucket, layer, head]
    ]
    return sorted(found, key=lambda place: (place[1], place[0])) or [(0, Head(0, 0))]


def _tree(ax: Axes, heads: RelationHeads, n_rows: int) -> None:
    """How relations were joined; leaves stand beside their rows."""
    drawn = dendrogram(heads.merges, no_plot=True)
    for depth, place in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        ax.plot(depth, np.array(place) / 10, color="0.3", linewidth=0.7)  # leaves at 5, 15, 25 ...
    ax.set_ylim(n_rows, 0)
    ax.set_xlim(max(2e-2, float(heads.merges[:, 2].max()) * 1.05), 0)
    ax.set_yticks([])
    ax.set_xlabel("1 − r")
    ax.spines[["top", "left", "right"]].set_visible(False)
