"""Figure of generalisation against locality: the share gained and the share kept by editors."""

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
from kedit.results.frontier import FrontierPoint, Frontiers, unbeaten
from kedit.results.tuning import Tuning
from kedit.stats import Interval
from kedit.studies.comparison import Comparison
from kedit.tables import plural

STEPS = (1, 2, 5, 10, 20)  # percent between the harmonic means that are drawn as curves
CURVES = 5  # curves at most
TITLE = "Generalisation against locality"
AXES = (
    "locality: share kept\nof what was there to keep (%)",
    "generalisation: share gained\nof what there was to gain (%)",
)
CURVE = {"color": "0.8", "linewidth": 0.7, "zorder": 0.5}
NARROWEST = 10.0  # percent: the shortest range of an axis


def of_comparison(found: Comparison) -> Figure:
    """Draws generalisation against locality of the editors of a comparison."""
    points = {
        side: {
            editor.editor: [FrontierPoint(editor.locality, editor.generalisation)]
            for editor in editors
        }
        for side, editors in found.sides.items()
    }
    details = f"n = {plural(found.n_cases, 'case')}; seed {found.seed}"
    return frontier(points, Source(found.model, details))


def of_tuning(found: Tuning) -> Figure:
    """Draws generalisation against locality of all tried settings of each editor."""
    points = {editor.name: [tried.point for tried in editor.tries] for editor in found.tuned}
    return frontier(
        {found.perspective: points}, Source(found.model, f"{found.edits}; seed {found.seed}")
    )


def of_frontiers(found: Frontiers) -> Figure:
    """Draws the frontier of each editor, with the point that has the best Score as a large mark."""
    points = {
        curve.editor: [
            curve.points[curve.best],
            *(point for index, point in enumerate(curve.points) if index != curve.best),
        ]
        for curve in found.curves
    }
    values = ", ".join(f"{value:g}" for value in found.values)
    details = f"{found.edits}; {found.field}: {values}; seed {found.seed}"
    return frontier({found.perspective: points}, Source(found.model, details))


@styled
def frontier(arms: Mapping[str, Mapping[str, Sequence[FrontierPoint]]], source: Source) -> Figure:
    """Draws a panel for each edited side, in it a mark with two intervals for each editor.

    All panels have the same axes, as wide as the marks and their intervals. A mark is hollow if
    there is no interval (a single case), and smaller if it lies on another mark.

    Args:
        arms: points by side and editor. An editor's first point is drawn large. Points of other
            settings, if any, follow it; they are drawn small, and those that no other setting
            exceeds in both shares are joined by a line.
        source: model and data, for title and caption.
    """
    several = any(len(points) > 1 for editors in arms.values() for points in editors.values())
    caption = (
        f"{readable(source.details)}. Means of shares; a share below −100\u00a0% counts as "
        "−100\u00a0%. Lines: 95\u00a0% bootstrap intervals over cases (hollow mark: a single case, "
        "no interval). Grey curves: points with the same harmonic mean of both, in percent."
        + (
            " Small marks: other settings; the line joins those that no other exceeds in both."
            if several
            else ""
        )
    )
    specs = list(dict.fromkeys(name for editors in arms.values() for name in editors))
    looks = dict(zip(specs, zip(cycle(COLOURS), cycle(SHAPES), strict=False), strict=False))
    labels = short_names(specs)
    width = DOUBLE if len(arms) > 1 else 0.75 * DOUBLE
    figure = new_figure(width, 2.8, titled(TITLE, source.model), caption)
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    points = [point for editors in arms.values() for own in editors.values() for point in own]
    across = _limits(point.locality for point in points)
    up = _limits(point.generalisation for point in points)
    near = 0.02 * np.array([np.ptp(across), np.ptp(up)])
    for ax, (side, editors) in zip(panels, arms.items(), strict=True):
        _curves(ax, across, up)
        drawn: list[np.ndarray] = []
        for name, editor_points in editors.items():
            mark = _percent(editor_points[0])
            n_below = sum(bool((np.abs(mark - other) < near).all()) for other in drawn)
            _draw(ax, editor_points, *looks[name], size=max(2.0, 4.5 - 1.3 * n_below))
            drawn.append(mark)
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
    names = [*(labels[name] for name in looks), "same harmonic mean"]
    legend_above(figure, handles, names)
    return figure


def _limits(intervals: Iterable[Interval]) -> tuple[float, float]:
    """The range of an axis in percent: all estimates and intervals, with a tenth of space added."""
    there = finite(100 * np.array([[float(bound) for bound in interval] for interval in intervals]))
    if not there.size:
        return 0.0, 100.0
    spare = max(NARROWEST, np.ptp(there)) / 10
    low, high = there.min() - spare, there.max() + spare
    wider = max(0.0, NARROWEST - (high - low)) / 2
    return float(low - wider), float(high + wider)


def _percent(point: FrontierPoint) -> np.ndarray:
    """Locality and generalisation in percent."""
    return 100 * np.array([float(point.locality.mean), float(point.generalisation.mean)])


def _curves(ax: Axes, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Draws curves of equal harmonic mean of locality and generalisation, with their numbers."""
    (left, right), (bottom, top) = across, up
    lowest, highest = (
        2 * x * y / (x + y) if min(x, y) > 0 else 0.0
        for x, y in ((max(left, 0), max(bottom, 0)), (min(right, 100), min(top, 100)))
    )
    step = next((size for size in STEPS if (highest - lowest) / size <= CURVES), STEPS[-1])
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


def _draw(ax: Axes, points: Sequence[FrontierPoint], colour: str, shape: str, size: float) -> None:
    """Draws the first point large, with intervals; the others small, the best of all joined."""
    percents = np.array([_percent(point) for point in points])
    if len(points) > 1:
        ax.plot(*percents[1:].T, shape, color=colour, markersize=2, alpha=0.45, zorder=2)
        best = unbeaten(percents[np.isfinite(percents).all(1)])
        ax.plot(*best.T, color=colour, linewidth=0.7, alpha=0.6, zorder=2)
    (x, y), (across, up) = percents[0], points[0]
    if np.isfinite(x + y):
        ends = {"color": colour, "linewidth": 1.0, "zorder": 2.5}
        ax.hlines(y, *across.floats(100)[1:], **ends)
        ax.vlines(x, *up.floats(100)[1:], **ends)
        look: dict[str, Any] = {"mec": "white", "mew": 0.4}
        if not np.isfinite(across.low + up.low):
            look = {"mfc": "white", "mec": colour, "mew": 0.8}
        ax.plot([x], [y], shape, color=colour, markersize=size, zorder=3, **look)
