"""Figure of a comparison: effects of edits on the edited side and on the other side, by editor."""

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from figures.score import CONTRASTS, GROUPS, SHOWN, SIDES, Dots
from figures.style import (
    DOUBLE,
    SMALL,
    Source,
    finite,
    layout_of,
    legend_above,
    new_figure,
    readable,
    styled,
    titled,
)
from kedit.scoring.summary import Key, Measure
from kedit.stats import Interval
from kedit.studies.comparison import Comparison
from kedit.tables import plural

# Okabe and Ito's colours, as in style.py, and two of Tol's. 8 colours and 7 shapes give 56 pairs
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933",
)  # fmt: skip
SHAPES = ("o", "D", "s", "^", "v", "p", "X")
# groups that an edit should not change
STAYS = ("neighborhood", "other objects", "other relations")
BAND, TICK, SHADE = "0.80", "0.35", "0.94"
STATISTICS = ("success", "magnitude")
SLOT, ROW = 0.075, 0.3  # inches: height of an editor in a row; least height of a row
NAME_WIDTH = 54  # characters of an editor's name
TITLE = "Effects of edits on the edited side and on the other side"
EXPLAINED = (
    "dots: means over cases after the edits; lines: 95\u00a0% intervals over cases (Wilson’s for "
    "success, bootstrap for magnitude; hidden where narrower than the dot; hollow dot: a single "
    "case, no interval); grey: the same cases before any edit; success: the answer is likelier "
    "than its rival (both are given below each group); magnitude: probability of the answer − "
    "probability of its rival, in percentage points; transfer: effect on the side that was not "
    "edited"
)


def comparison(found: Comparison) -> Figure:
    """Draws the effects of all editors of a comparison."""
    return compared(
        {
            side: {editor.editor: editor.measures for editor in editors}
            for side, editors in found.sides.items()
        },
        Source(found.model, f"seed {found.seed}"),
        {(editor.side, editor.editor): editor.costs.failed for editor in found.editors},
    )


@styled
def compared(
    arms: Mapping[str, Mapping[str, Sequence[Measure]]],
    source: Source,
    n_failed: Mapping[tuple[str, str], int],
) -> Figure:
    """Draws effects of edits: two columns per edited side, a block of rows per probed side.

    Args:
        arms: measures before and after the edits, by edited side ("entity", "relation", or
            "together"), then by editor. The order of the editors determines their colours and
            their order in a row.
        source: model and data, for title and caption.
        n_failed: number of failed edits, by edited side and editor.
    """
    found = {
        edited: {name: _drawn(measures) for name, measures in editors.items()}
        for edited, editors in arms.items()
    }
    shown = [
        measure
        for editors in found.values()
        for measures in editors.values()
        for measure in measures.values()
    ]
    names = dict.fromkeys(name for editors in found.values() for name in editors)
    looks = [Dots(*look) for look in zip(names, cycle(COLOURS), cycle(SHAPES), strict=False)]
    labels = [_label(name, list(found), n_failed) for name in names]
    blocks = _blocks(list(found), shown)
    n_rows = [max(len(groups), 1) for groups in blocks.values()]
    row = max(ROW, SLOT * (len(looks) + 1.3))
    height = 0.8 + 0.33 * len(n_rows) + row * sum(n_rows)
    caption = f"n = {plural(_cases(shown), 'case')}; {readable(source.details)}; {EXPLAINED}."
    figure = new_figure(DOUBLE, height, titled(TITLE, source.model), caption)
    successes, magnitudes = _panels(figure, n_rows, len(found))
    for lefts, rights, (side, groups) in zip(successes, magnitudes, blocks.items(), strict=True):
        _rows([*lefts, *rights], side, groups)
        for statistic, panels in zip(STATISTICS, (lefts, rights), strict=True):
            keys = [Key(side, group, statistic) for group in groups]
            for ax, editors in zip(panels, found.values(), strict=True):
                _draw(ax, editors, keys, looks, SLOT / row)
        for ax, edited in zip(lefts, found, strict=True):
            _head(ax, side, edited, over=lefts[0] is successes[0, 0])
        for row_index, group in enumerate(groups):
            n_cases = _cases([measure for measure in shown if measure.key[:2] == (side, group)])
            _note(rights[-1], n_cases, (1, row_index), (5, 0), va="center", ha="left")
    _note(magnitudes[0, -1], "cases", (1, -0.5), (5, 7), va="center", ha="left")
    _scales(successes, magnitudes, shown)
    _legends(figure, looks, labels)
    return figure


def _drawn(measures: Sequence[Measure]) -> dict[Key, Measure]:
    """The measures that the figure shows and that have a number after the edit, by key."""
    return {
        measure.key: measure
        for measure in measures
        if measure.key[:2] in CONTRASTS
        and measure.key.statistic in STATISTICS
        and _percent(measure.after)
    }


def _blocks(edited: Sequence[str], shown: Sequence[Measure]) -> dict[str, list[str]]:
    """The groups of each probed side from top to bottom; the side edited first is at the top."""
    there = {measure.key[:2] for measure in shown}
    order = dict.fromkeys([*edited, *SIDES])
    blocks = {side: [group for group in GROUPS if (side, group) in there] for side in order}
    return {side: groups for side, groups in blocks.items() if groups} or {next(iter(order)): []}


def _percent(interval: Interval | None) -> tuple[float, float, float] | None:
    """Mean, low and high in percent; None without a mean."""
    if interval is None or not np.isfinite(interval.mean):
        return None
    return interval.floats(100)


def _cases(measures: Sequence[Measure]) -> str:
    """The number of cases as text, or the range of numbers: "12–20"."""
    counts = sorted({measure.n_cases for measure in measures}) or [0]
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _label(name: str, sides: Sequence[str], n_failed: Mapping[tuple[str, str], int]) -> str:
    """An editor's name with its number of failed edits, by side if several sides were edited."""
    failed = {side: n_failed[side, name] for side in sides if n_failed.get((side, name))}
    shown = readable(name, NAME_WIDTH)
    if failed and len(sides) > 1:
        return f"{shown}, failed: " + ", ".join(f"{n} {side}" for side, n in failed.items())
    return f"{shown}, {sum(failed.values())} failed" if failed else shown


def _panels(figure: Figure, n_rows: Sequence[int], n_edited: int) -> tuple[ndarray, ndarray]:
    """The axes of successes and of magnitudes, each an array [probed side, edited side]."""
    panels = figure.subplots(
        len(n_rows), 3 * n_edited, sharex="col", sharey="row", squeeze=False,
        height_ratios=n_rows, width_ratios=[1.15, 1, 0.1] * n_edited,
    )  # fmt: skip
    for spacer in panels[:, 2::3].flat:  # an empty column that separates the pairs
        spacer.remove()
    layout_of(figure).set(hspace=0.03)
    return panels[:, ::3], panels[:, 1::3]


def _draw(
    ax: Axes,
    editors: Mapping[str, Mapping[Key, Measure]],
    keys: Sequence[Key],
    looks: Sequence[Dots],
    step: float,
) -> None:
    """Draws one panel: in each row all editors below one another, in grey their values before.

    Args:
        editors: measures by editor and key.
        keys: the measures of the rows, from top to bottom.
        looks: name, colour and shape of each editor.
        step: distance between the editors of a row; rows have distance 1.
    """
    heights = step * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    columns = [[editors.get(dots.name, {}).get(key) for key in keys] for dots in looks]
    for row in range(len(keys)):
        _before(ax, [column[row] for column in columns], row + heights, step)
    for (name, colour, shape), column, height in zip(looks, columns, heights, strict=True):
        there = [(row + height, measure) for row, measure in enumerate(column) if measure]
        ys = np.array([y for y, _ in there])
        bounds = np.array([_percent(measure.after) for _, measure in there]).reshape(-1, 3)
        n_cases = np.array([measure.n_cases for _, measure in there])
        several = (n_cases > 1) & np.isfinite(bounds).all(1)
        ax.hlines(ys[several], *bounds[several, 1:].T, color=colour, linewidth=1.1, zorder=3.5)
        faces = [colour if more else "white" for more in several]
        how = {"marker": shape, "facecolors": faces, "edgecolors": colour, "linewidths": 0.6}
        ax.scatter(bounds[:, 0], ys, 2.7**2, label=name, zorder=3, **how)
    if not any(measure for column in columns for measure in column):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        where = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "no data", **where, color="0.35", bbox=box)


def _before(ax: Axes, measures: Sequence[Measure | None], heights: ndarray, step: float) -> None:
    """Draws the values before any edit: one grey band for adjacent editors with equal values."""
    starts = [_percent(measure.before) if measure else None for measure in measures]
    for bounds, editors in groupby(range(len(starts)), key=starts.__getitem__):
        here = heights[list(editors)]
        if bounds:
            mean, low, high = bounds
            top, bottom = here[0] - 0.6 * step, here[-1] + 0.6 * step
            if np.isfinite(high - low):
                ax.fill_betweenx((top, bottom), low, high, color=BAND, linewidth=0, zorder=1)
            ax.vlines(mean, top, bottom, color=TICK, linewidth=1, zorder=1.5)


def _rows(axes: Sequence[Axes], side: str, groups: Sequence[str]) -> None:
    """Labels the rows with group, answer and rival; groups that should not change are shaded."""
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        for row, group in enumerate(groups):
            shade = SHADE if group in STAYS else "white"
            ax.axhspan(row - 0.5, row + 0.5, fc=shade, ec="0.85", linewidth=0.4, zorder=0)
    axes[0].set_yticks(range(len(groups)), [SHOWN.get(group, group) for group in groups])
    axes[0].set_ylim(max(len(groups), 1) - 0.5, -0.5)
    for row, (group, label) in enumerate(zip(groups, axes[0].get_yticklabels(), strict=True)):
        label.set_verticalalignment("bottom")
        _note(axes[0], CONTRASTS[side, group], (0, row), (-3.5, -1), va="top")


def _head(ax: Axes, side: str, edited: str, over: bool) -> None:
    """Writes the probed side over a panel and, for the top row, the edited side over the column."""
    is_edited = edited in (side, "together")
    weight, role = ("bold", "edited") if is_edited else ("normal", "transfer")
    ax.set_title(f"{side.capitalize()} probes ({role})", fontweight=weight, pad=3)
    if over:  # not in_layout, since the text may extend over the next panel
        how = {"fontsize": 7.5, "color": "black", "ha": "left", "in_layout": False}
        name = "both sides" if edited == "together" else f"the {edited} side"
        _note(ax, f"After edits of {name}", (0, -0.5), (0, 15), **how)


def _scales(successes: ndarray, magnitudes: ndarray, shown: Sequence[Measure]) -> None:
    """Sets the x axes: one scale for all successes, one for all magnitudes, centred at zero."""
    there = [measure for measure in shown if measure.key.statistic == "magnitude"]
    bounds = [
        _percent(interval) or ()
        for measure in there
        for interval in (measure.before, measure.after)
    ]
    width = (
        1.08 * np.abs(finite(np.array([1.0, *(x for interval in bounds for x in interval)]))).max()
    )
    for ax in successes.flat:
        ax.set_xlim(-4, 104)
        ax.set_xticks(range(0, 101, 25))
    for ax in magnitudes.flat:
        ax.set_xlim(-width, width)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=0.8)
    for panels, unit in ((successes, "success (%)"), (magnitudes, "magnitude (points)")):
        for ax in panels.flat:
            ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
        for ax in panels[-1]:
            ax.set_xlabel(unit)


def _note(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **how: Any
) -> None:
    """Writes small text `offset` points from `at`, which is (fraction of the width, row)."""
    how = {"fontsize": SMALL, "color": "0.35", "ha": "right", "annotation_clip": False} | how
    across = ax.get_yaxis_transform()
    ax.annotate(text, at, offset, xycoords=across, textcoords="offset points", **how)


def _legends(figure: Figure, looks: Sequence[Dots], labels: Sequence[str]) -> None:
    """Adds a legend of the grey shades and one of the editors below the title."""
    tick = Line2D([], [], color=TICK, marker="|", markersize=6, linewidth=0)
    line = {"edgecolor": "0.7", "linewidth": 0.4}
    greys = {
        "before any edit": (Patch(color=BAND), tick),
        "should change": Patch(facecolor="white", **line),
        "should stay": Patch(facecolor=SHADE, **line),
    }
    legend_above(figure, list(greys.values()), list(greys))
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.6, linewidth=0.8)
        for _, colour, shape in looks
    ]
    legend_above(figure, handles, labels)
