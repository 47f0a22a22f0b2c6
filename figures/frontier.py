"""Generalisation against locality: what each editor brings, and what that costs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.compare import COLOURS, SHAPES
from figures.style import (
    DOUBLE,
    Source,
    edited_from,
    finite,
    legend_above,
    new_figure,
    readable,
    short_names,
    styled,
    titled,
)
from kedit.results.frontier import FrontierPoint
from kedit.results.tuning import Tuning
from kedit.stats import Interval
from kedit.studies.comparison import Comparison
from kedit.tables import plural

STEPS = (1, 2, 5, 10, 20)  # percent, between the harmonic means that are drawn as curves
CURVES = 5  # at most so many
TITLE = "Generalisation against locality"
AXES = (
    "locality: share kept\nof what was there to keep (%)",
    "generalisation: share gained\nof what there was to gain (%)",
)
CURVE = {"color": "0.8", "linewidth": 0.7, "zorder": 0.5}
NARROWEST = 10.0  # percent: an axis


# the name by which experiments/_verdict.py and _tables.py still know it
AxisPlace = FrontierPoint


def of_comparison(found: Comparison) -> Figure:
    """What the editors of a comparison gain, against what they keep."""
    places = {
        side: {one.editor: [FrontierPoint(one.locality, one.generalisation)] for one in ones}
        for side, ones in found.sides.items()
    }
    told = f"n = {plural(found.n_cases, 'case')}; seed {found.seed}"
    return frontier(places, Source(found.model, told))


def of_tuning(found: Tuning) -> Figure:
    """What the settings of each editor gain, against what they keep."""
    places = {one.name: [each.point for each in one.tries] for one in found.tuned}
    return frontier(
        {found.perspective: places}, Source(found.model, f"{found.edits}; seed {found.seed}")
    )


@styled
def frontier(arms: Mapping[str, Mapping[str, Sequence[FrontierPoint]]], source: Source) -> Figure:
    """A panel for each edited side, a mark with its two intervals for each editor.

    The axes are as wide as the marks and their intervals, the same for all panels. A mark is hollow
    where there is no interval: over a single case; smaller where it lies on another.

    Args:
        arms: by side, then by editor: its place; behind it those of other settings, if any, which
            are drawn small and joined where none of them is better in both.
    """
    several = any(len(ones) > 1 for editors in arms.values() for ones in editors.values())
    caption = (
        f"{readable(source.told)}. Means of the shares, none counted as less than −100\u00a0%; "
        "lines: 95\u00a0% bootstrap intervals over cases (hollow: a single case, no interval); "
        "grey curves: places of one harmonic mean of both, whose number stands at the curve."
        + (
            " Small: other settings; the line joins those that none beats in both."
            if several
            else ""
        )
    )
    told = list(dict.fromkeys(name for editors in arms.values() for name in editors))
    looks = dict(zip(told, zip(cycle(COLOURS), cycle(SHAPES), strict=False), strict=False))
    labels = short_names(told)
    width = DOUBLE if len(arms) > 1 else 0.75 * DOUBLE
    figure = new_figure(width, 2.8, titled(TITLE, source.model), caption)
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    ones = [one for editors in arms.values() for each in editors.values() for one in each]
    across = _limits(one.locality for one in ones)
    up = _limits(one.generalisation for one in ones)
    near = 0.02 * np.array([np.ptp(across), np.ptp(up)])
    for ax, (side, editors) in zip(panels, arms.items(), strict=True):
        _curves(ax, across, up)
        taken: list[np.ndarray] = []
        for name, each in editors.items():
            at = _at(each[0])
            n_below = sum(bool((np.abs(at - other) < near).all()) for other in taken)
            _draw(ax, each, *looks[name], size=max(2.0, 4.5 - 1.3 * n_below))
            taken.append(at)
        if not ax.collections:
            where = {"transform": ax.transAxes, "ha": "center", "va": "center", "color": "0.35"}
            ax.text(0.5, 0.5, "no prompts that should change,\nor none that should stay", **where)
        ax.set_title(edited_from(side))
        ax.set_xlabel(AXES[0])
        ax.set_xlim(*across)
        ax.set_ylim(*up)
        ax.grid(color="0.92", linewidth=0.5, zorder=0)
        if up[0] < 0:
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=1)
    panels[0].set_ylabel(AXES[1])
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.6, linewidth=0.8)
        for colour, shape in looks.values()
    ]
    handles.append(Line2D([], [], **CURVE))
    names = [*(labels[name] for name in looks), "one harmonic mean"]
    legend_above(figure, handles, names)
    return figure


def _limits(intervals: Iterable[Interval]) -> tuple[float, float]:
    """In percent: as wide as the estimates and their intervals, a tenth to spare on both sides."""
    there = finite(100 * np.array([[float(bound) for bound in one] for one in intervals]))
    if not there.size:
        return 0.0, 100.0
    spare = max(NARROWEST, np.ptp(there)) / 10
    low, high = there.min() - spare, there.max() + spare
    wider = max(0.0, NARROWEST - (high - low)) / 2
    return float(low - wider), float(high + wider)


def _at(one: FrontierPoint) -> np.ndarray:
    return 100 * np.array([float(one.locality.mean), float(one.generalisation.mean)])


def _curves(ax: Axes, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Where locality and generalisation have the same harmonic mean, with its number at the end."""
    (left, right), (bottom, top) = across, up
    lowest, highest = (
        2 * x * y / (x + y) if min(x, y) > 0 else 0.0
        for x, y in ((max(left, 0), max(bottom, 0)), (min(right, 100), min(top, 100)))
    )
    step = next((one for one in STEPS if (highest - lowest) / one <= CURVES), STEPS[-1])
    for level in np.arange(step, 100, step, dtype=float):
        # y = level x / (2 x - level), from the top of the panel, or 100 %, to its right
        ends = (level * y / (2 * y - level) if 2 * y > level else np.inf
                for y in (min(top, 100), max(bottom, 1e-9)))  # fmt: skip
        start, end = next(ends), min(right, 100, next(ends))
        if max(start, left) >= end:
            continue
        x = np.linspace(max(start, left), end, 100)
        y = level * x / (2 * x - level)
        ax.plot(x, y, **CURVE)
        ax.annotate(
            f"{level:.0f}", (x[-1], y[-1]), (-1, 1), textcoords="offset points", color="0.55",
            ha="right", va="bottom", annotation_clip=False,
        )  # fmt: skip


def _draw(ax: Axes, ones: Sequence[FrontierPoint], colour: str, shape: str, size: float) -> None:
    """The chosen settings large, with intervals; the others small, the best of all joined."""
    at = np.array([_at(one) for one in ones])
    if len(ones) > 1:
        ax.plot(*at[1:].T, shape, color=colour, markersize=2, alpha=0.45, zorder=2)
        best = _unbeaten(at)
        ax.plot(*best.T, color=colour, linewidth=0.7, alpha=0.6, zorder=2)
    (x, y), (across, up) = at[0], ones[0]
    if np.isfinite(x + y):
        ends = {"color": colour, "linewidth": 1.0, "zorder": 2.5}
        ax.hlines(y, *across.floats(100)[1:], **ends)
        ax.vlines(x, *up.floats(100)[1:], **ends)
        look: dict[str, Any] = {"mec": "white", "mew": 0.4}
        if not np.isfinite(across.low + up.low):
            look = {"mfc": "white", "mec": colour, "mew": 0.8}
        ax.plot([x], [y], shape, color=colour, markersize=size, zorder=3, **look)


def _unbeaten(at: np.ndarray) -> np.ndarray:
    """Those that no other is at least as good as in both and better in one; from left to right."""
    kept = [
        one for one in at
        if not any((other >= one).all() and (other > one).any() for other in at)
    ]  # fmt: skip
    return np.array(sorted(map(tuple, kept))).reshape(-1, 2)
