"""What edits from one side do on that side and on the other, editor by editor."""

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

# Okabe and Ito's, as in style.py; 6 and 7: no pair of them comes twice among 42 editors
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("o", "D", "s", "^", "v", "p", "X")
# groups that an edit is to leave as they were
STAYS = ("neighborhood", "other objects", "other relations")
BAND, TICK, SHADE = "0.80", "0.35", "0.94"
STATISTICS = ("success", "magnitude")
SLOT, ROW = 0.075, 0.3  # inches: an editor in a row; a row, at least
NAME_WIDTH = 54  # characters of an editor's name
TITLE = "What edits from one side do on that side and on the other"
EXPLAINED = (
    "dots: means over cases after the edits, lines: 95\u00a0% intervals over cases (of success "
    "Wilson’s, of magnitude by the bootstrap; hollow: a single case, no interval; no line: it is "
    "narrower than the dot), grey: the same cases before any edit; success: the answer is "
    "likelier than its rival (both named under each group); magnitude: probability of the answer − "
    "of its rival, in percentage points; transfer: to the side that was not edited"
)


def comparison(found: Comparison) -> Figure:
    """What the editors of a comparison do on both sides."""
    return compared(
        {side: {one.editor: one.measures for one in ones} for side, ones in found.sides.items()},
        Source(found.model, f"seed {found.seed}"),
        {(one.side, one.editor): one.costs.failed for one in found.editors},
    )


@styled
def compared(
    arms: Mapping[str, Mapping[str, Sequence[Measure]]],
    source: Source,
    n_failed: Mapping[tuple[str, str], int],
) -> Figure:
    """Two columns for each side that was edited, a block of rows for each side that was probed.

    Args:
        arms: measures before and after the edits, by edited side ("entity", "relation", or
            "together"), then by editor; the editors' order gives them their colours and their
            places in a row.
        n_failed: edits that could not be made, by edited side and editor.
    """
    found = {edited: {name: _drawn(each[name]) for name in each} for edited, each in arms.items()}
    shown = [one for each in found.values() for there in each.values() for one in there.values()]
    names = dict.fromkeys(name for editors in found.values() for name in editors)
    looks = [Dots(*each) for each in zip(names, cycle(COLOURS), cycle(SHAPES), strict=False)]
    labels = [_label(name, list(found), n_failed) for name in names]
    blocks = _blocks(list(found), shown)
    n_rows = [max(len(groups), 1) for groups in blocks.values()]
    row = max(ROW, SLOT * (len(looks) + 1.3))
    height = 0.8 + 0.33 * len(n_rows) + row * sum(n_rows)
    caption = f"n = {plural(_cases(shown), 'case')}; {readable(source.told)}; {EXPLAINED}."
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
        for place, group in enumerate(groups):
            there = _cases([one for one in shown if one.key[:2] == (side, group)])
            _note(rights[-1], there, (1, place), (5, 0), va="center", ha="left")
    _note(magnitudes[0, -1], "cases", (1, -0.5), (5, 7), va="center", ha="left")
    _scales(successes, magnitudes, shown)
    _legends(figure, looks, labels)
    return figure


def _drawn(measures: Sequence[Measure]) -> dict[Key, Measure]:
    """Those that have a place in the figure and a number after the edit."""
    return {
        one.key: one
        for one in measures
        if one.key[:2] in CONTRASTS and one.key.statistic in STATISTICS and _percent(one.after)
    }


def _blocks(edited: Sequence[str], shown: Sequence[Measure]) -> dict[str, list[str]]:
    """The groups of each side from top to bottom; what was edited (first) is above."""
    there = {one.key[:2] for one in shown}
    order = dict.fromkeys([*edited, *SIDES])
    blocks = {side: [group for group in GROUPS if (side, group) in there] for side in order}
    return {side: groups for side, groups in blocks.items() if groups} or {next(iter(order)): []}


def _percent(interval: Interval | None) -> tuple[float, float, float] | None:
    """Mean, low and high, times 100; None where there is no mean."""
    if interval is None or not np.isfinite(interval.mean):
        return None
    return interval.floats(100)


def _cases(measures: Sequence[Measure]) -> str:
    """How many, or from how few to how many."""
    counts = sorted({one.n_cases for one in measures}) or [0]
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _label(name: str, sides: Sequence[str], n_failed: Mapping[tuple[str, str], int]) -> str:
    """An editor's name, and how many of its edits failed, by side if two were edited."""
    failed = {side: n_failed[side, name] for side in sides if n_failed.get((side, name))}
    shown = readable(name, NAME_WIDTH)
    if failed and len(sides) > 1:
        return f"{shown}, failed: " + ", ".join(f"{n} {side}" for side, n in failed.items())
    return f"{shown}, {sum(failed.values())} failed" if failed else shown


def _panels(figure: Figure, n_rows: Sequence[int], n_edited: int) -> tuple[ndarray, ndarray]:
    """Axes of successes and of magnitudes [side probed, side edited]."""
    panels = figure.subplots(
        len(n_rows), 3 * n_edited, sharex="col", sharey="row", squeeze=False,
        height_ratios=n_rows, width_ratios=[1.15, 1, 0.1] * n_edited,
    )  # fmt: skip
    for spacer in panels[:, 2::3].flat:  # sets the pairs apart
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
    """Editor below editor in every row; behind each, where its cases were before.

    Args:
        keys: what the rows hold, from top to bottom.
        step: of a row: how far its editors are below one another.
    """
    heights = step * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    columns = [[editors.get(dots.name, {}).get(key) for key in keys] for dots in looks]
    for row in range(len(keys)):
        _before(ax, [column[row] for column in columns], row + heights, step)
    for (name, colour, shape), column, height in zip(looks, columns, heights, strict=True):
        there = [(row + height, one) for row, one in enumerate(column) if one]
        places = np.array([place for place, _ in there])
        bounds = np.array([_percent(one.after) for _, one in there]).reshape(-1, 3)
        several = (np.array([one.n_cases for _, one in there]) > 1) & np.isfinite(bounds).all(1)
        ax.hlines(places[several], *bounds[several, 1:].T, color=colour, linewidth=1.1, zorder=3.5)
        faces = [colour if more else "white" for more in several]
        how = {"marker": shape, "facecolors": faces, "edgecolors": colour, "linewidths": 0.6}
        ax.scatter(bounds[:, 0], places, 2.7**2, label=name, zorder=3, **how)
    if not any(one for column in columns for one in column):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        where = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "empty", **where, color="0.35", bbox=box)


def _before(ax: Axes, measures: Sequence[Measure | None], heights: ndarray, step: float) -> None:
    """A band and a tick behind one row's editors, in one piece where neighbours agree."""
    starts = [_percent(one.before) if one else None for one in measures]
    for bounds, editors in groupby(range(len(starts)), key=starts.__getitem__):
        here = heights[list(editors)]
        if bounds:
            mean, low, high = bounds
            top, bottom = here[0] - 0.6 * step, here[-1] + 0.6 * step
            if np.isfinite(high - low):
                ax.fill_betweenx((top, bottom), low, high, color=BAND, linewidth=0, zorder=1)
            ax.vlines(mean, top, bottom, color=TICK, linewidth=1, zorder=1.5)


def _rows(axes: Sequence[Axes], side: str, groups: Sequence[str]) -> None:
    """Groups from top to bottom, below each what is weighed; shaded is what should stay."""
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
    """Which side is probed; over all, which was edited."""
    asked = edited in (side, "together")
    weight, role = ("bold", "edited") if asked else ("normal", "transfer")
    ax.set_title(f"{side.capitalize()} probes ({role})", fontweight=weight, pad=3)
    if over:  # not in_layout: it may reach over the next panel
        how = {"fontsize": 7.5, "color": "black", "ha": "left", "in_layout": False}
        name = "both sides" if edited == "together" else f"the {edited} side"
        _note(ax, f"After edits of {name}", (0, -0.5), (0, 15), **how)


def _scales(successes: ndarray, magnitudes: ndarray, shown: Sequence[Measure]) -> None:
    """One for all successes, one for all magnitudes: zero in the middle, wide enough for each."""
    there = [one for one in shown if one.key.statistic == "magnitude"]
    bounds = [_percent(interval) or () for one in there for interval in (one.before, one.after)]
    width = 1.08 * np.abs(finite(np.array([1.0, *(x for each in bounds for x in each)]))).max()
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
    """Small print beside the panel, `offset` points from `at`: across it (0 to 1), row."""
    how = {"fontsize": SMALL, "color": "0.35", "ha": "right", "annotation_clip": False} | how
    across = ax.get_yaxis_transform()
    ax.annotate(text, at, offset, xycoords=across, textcoords="offset points", **how)


def _legends(figure: Figure, looks: Sequence[Dots], labels: Sequence[str]) -> None:
    """Below the title what the greys are, and the editors."""
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
