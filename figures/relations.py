"""Figures of heads by relation: a clustered map of effects, and attention of the top heads."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray
from scipy.cluster.hierarchy import dendrogram

from figures.style import DOUBLE, SINGLE, SMALL, Study, new_figure, readable, styled, titled
from figures.trace import draw_table
from kedit.errors import InputError
from kedit.heads import Head
from kedit.results.heads import RelationHeads
from kedit.results.relation_heads import HeadsByRelation
from kedit.stats import largest
from kedit.tables import EFFECT_UNITS, estimate, plural

COLUMNS = 18  # heads in a cluster map
ROW = 0.17  # inches per relation
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
def clusters(found: HeadsByRelation, part: str = "") -> Figure:
    """Draws a map of relations (rows, clustered) by the heads that are strongest in any relation.

    A relation's effects are divided by its largest effect, which is drawn on the right. So the map
    compares which heads relations use, as r does, and not how large their effects are. If the
    interval of the largest effect contains zero, the effect may be chance: the row is hatched, and
    the relation is ignored when columns are chosen.

    Args:
        found: the result.
        part: whose words were corrupted; "" for the first part that was compared.

    Raises:
        InputError: the relations of this part were not compared.
    """
    part = part or next(iter(found.parts), "")
    if part not in found.parts:
        raise InputError(f"part {part!r}: no relations were compared with this part corrupted")
    heads, shared = found.heads[found.parts.index(part)], found.sharing[found.parts.index(part)]
    corruption = f"the {part}'s {found.corruption}"
    study = Study(shared.n_facts, corruption, found.metric, found.seed, found.model)
    peaks = [_peak(heads, row) for row in range(len(heads.relations))]
    sure = np.array([low * high > 0 for _, low, high in peaks])
    size = np.array([abs(mean) or 1.0 for mean, _, _ in peaks])
    scaled = np.where(sure, 1 / size, np.nan)[:, None, None, None] * heads.mean
    columns = _columns(np.nan_to_num(scaled))
    effect = np.stack([scaled[:, bucket, head.layer, head.head] for bucket, head in columns], 1)
    effect = effect[heads.order]
    n_rows = len(effect)
    title = titled(f"Which heads carry which relation, {heads.part} corrupted", study.model)
    caption = (
        f"{study.caption('on the right')} Rows: mean effects of a relation, divided by its largest "
        "effect (of either sign), which is on the right. Hatched: the interval of the largest "
        f"effect contains zero or does not exist. Columns: the {len(columns)} largest effects in "
        "the other rows, by head and token (c.: corrupted). Clusters: by 1 − r of all effects. "
        f"Mean r of two facts: {estimate(*shared.within.floats())} within a relation, "
        f"{estimate(*shared.between.floats())} between relations; ratio "
        f"{estimate(*shared.shared.floats())}; p = {shared.p:.2g} (facts permuted among relations)."
    )
    figure = new_figure(DOUBLE, 1.25 + ROW * n_rows, title, caption)
    tree, ax, right = figure.subplots(1, 3, width_ratios=(1, 7, 1.8))
    _tree(tree, heads, n_rows)
    names = [
        f"{readable(heads.relations[row], 26)} ({plural(heads.n_facts[row], 'fact')})"
        for row in heads.order
    ]
    labels = [
        f"{head}, {SHORT.get(heads.buckets[row], heads.buckets[row])}" for row, head in columns
    ]
    draw_table(figure, ax, effect, names, labels, "effect / largest\nof the row")
    _largest(right, [peaks[row] for row in heads.order], study.metric)
    return figure


def _peak(heads: RelationHeads, row: int) -> tuple[float, float, float]:
    """The largest effect of a relation, of either sign, with its interval."""
    cell = np.unravel_index(np.abs(heads.mean[row]).argmax(), heads.mean[row].shape)
    mean, low, high = (float(values[row][cell]) for values in (heads.mean, heads.low, heads.high))
    return mean, low, high


def _largest(ax: Axes, peaks: Sequence[tuple[float, float, float]], metric: str) -> None:
    """Draws the largest effect of each row as a dot with its interval."""
    ax.axvline(0, color="0.6", linewidth=0.6)
    for row, (mean, low, high) in enumerate(peaks):
        colour = "black" if low * high > 0 else "0.6"
        ax.plot([low, high], [row + 0.5] * 2, color=colour, linewidth=0.9)
        ax.plot(mean, row + 0.5, "o", color=colour, markersize=3)
    ax.set_ylim(len(peaks), 0)
    ax.set_yticks([])
    ax.set_xlabel(f"largest effect\n({EFFECT_UNITS[metric]})")
    ax.xaxis.set_major_locator(MaxNLocator(2))
    ax.spines[["top", "left", "right"]].set_visible(False)


@styled
def looks(result: HeadsByRelation) -> Figure:
    """Draws where each head attends from the last token, by role of the tokens attended to.

    Raises:
        InputError: the result has no attention patterns.
    """
    found = result.looks
    if not found:
        raise InputError(
            "there are no attention patterns to draw, since no relations were compared"
        )
    title = titled("Strongest heads: attention at the last token", result.model)
    n_facts = found[0].n_facts
    spread = (
        "95 % bootstrap interval over facts" if n_facts > 1 else "no interval over a single fact"
    )
    caption = (
        f"n = {plural(n_facts, 'fact')}, clean runs; seed {result.seed}; upper bar: attention; "
        "lower bar: attention weighted by the norm of the vectors that it moves; numbers: "
        f"attention to the subject, {spread}."
    )
    figure = new_figure(SINGLE, 0.75 + 0.3 * len(found), title, caption)
    ax = figure.subplots()
    for row, look in enumerate(found):
        for offset, interval, alpha in ((-0.19, look.share, 1.0), (0.19, look.moved, 0.6)):
            left = np.concatenate([[0], np.cumsum(interval.mean)[:-1]])
            ax.barh(
                [row + offset] * len(left), interval.mean, 0.36, left=left, alpha=alpha,
                color=[ROLE_COLOURS[role] for role in look.roles], linewidth=0,
            )  # fmt: skip
        subject = look.roles.index("subject")
        text = estimate(*(float(values[subject]) for values in look.share))
        ax.text(1.02, row, text, va="center", fontsize=SMALL)
    ax.set_xlim(0, 1.6)
    ax.set_xticks(np.linspace(0, 1, 5))
    ax.set_xlabel("share of attention", loc="left")
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_yticks(range(len(found)), [str(look.head) for look in found])
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 1)
    handles = [
        ax.barh(0, 0, color=to_hex(ROLE_COLOURS[role]), label=role) for role in found[0].roles
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles),
              handlelength=0.8, handletextpad=0.4, columnspacing=0.8)  # fmt: skip
    return figure


def _columns(effect: Float[ndarray, "relation bucket layer head"]) -> list[tuple[int, Head]]:
    """The buckets and heads with the largest effects in any relation, sorted by layer and head."""
    size = np.abs(effect).max(0)
    found = [
        (bucket, Head(layer, head))
        for bucket, layer, head in largest(size, COLUMNS)
        if size[bucket, layer, head]
    ]
    return sorted(found, key=lambda column: (column[1], column[0])) or [(0, Head(0, 0))]


def _tree(ax: Axes, heads: RelationHeads, n_rows: int) -> None:
    """Draws the clustering of relations as a tree whose leaves are next to the map's rows."""
    drawn = dendrogram(heads.merges, no_plot=True)
    for depth, rows in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        # scipy puts the leaves at 5, 15, 25 ...
        ax.plot(depth, np.array(rows) / 10, color="0.3", linewidth=0.7)
    ax.set_ylim(n_rows, 0)
    ax.set_xlim(max(2e-2, float(heads.merges[:, 2].max()) * 1.05), 0)
    ax.set_yticks([])
    ax.set_xlabel("1 − r")
    ax.spines[["top", "left", "right"]].set_visible(False)
