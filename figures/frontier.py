"""Generalisation against locality: what each editor brings, and what that costs."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.compare import COLOURS, SHAPES
from figures.style import DOUBLE, SMALL, edited_from, new_figure, readable, short_names, styled
from kedit.stats import Interval

LEVELS = (0.2, 0.4, 0.6, 0.8)  # harmonic means that are drawn as curves
TITLE = "Generalisation against locality"
AXES = ("locality: kept of what was there (%)", "generalisation: gained of what there was (%)")
LINE = 0.14  # inches: an editor in the legend


class Place(NamedTuple):
    """Where an editor lies: shares of what was kept, and of what was gained."""

    locality: Interval
    generalisation: Interval


@styled
def frontier(arms: Mapping[str, Mapping[str, Sequence[Place]]], study: str) -> Figure:
    """A panel for each edited side, a mark with its two intervals for each editor.

    A mark is hollow where there is no interval: over a single case.

    Args:
        arms: by side, then by editor: its place; behind it those of other settings, if any, which
            are drawn small and joined where none of them is better in both.
        study: which model, which cases, which seed, in words.
    """
    several = any(len(ones) > 1 for editors in arms.values() for ones in editors.values())
    caption = (
        f"{readable(study)}. Means of the shares, none counted as less than −100\u00a0%; lines: "
        "95\u00a0% bootstrap intervals over cases (hollow: a single case, no interval); grey: "
        "where both have one harmonic mean."
        + (
            " Small: other settings; the line joins those that none beats in both."
            if several
            else ""
        )
    )
    told = list(dict.fromkeys(name for editors in arms.values() for name in editors))
    looks = dict(zip(told, zip(cycle(COLOURS), cycle(SHAPES), strict=False), strict=False))
    labels = short_names(told)
    height = max(2.9, 0.9 + LINE * len(told))
    figure = new_figure(DOUBLE if len(arms) > 1 else 0.75 * DOUBLE, height, TITLE, caption)
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    lowest = min(
        (float(bound) for each in arms.values() for ones in each.values() for one in ones[:1]
         for bound in one.generalisation if np.isfinite(bound)),
        default=0.0,
    )  # fmt: skip
    for ax, (side, editors) in zip(panels, arms.items(), strict=True):
        _curves(ax)
        for name, ones in editors.items():
            _draw(ax, ones, *looks[name])
        if not ax.collections:
            where = {"transform": ax.transAxes, "ha": "center", "va": "center", "color": "0.35"}
            ax.text(0.5, 0.5, "no prompts that should change,\nor none that should stay", **where)
        ax.set_title(edited_from(side))
        ax.set_xlabel(AXES[0])
        ax.set_xlim(-3, 103)
        ax.set_ylim(min(-3.0, 100 * lowest - 3), 103)
        ax.grid(color="0.92", linewidth=0.5, zorder=0)
        if lowest < 0:
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=1)
    panels[0].set_ylabel(AXES[1])
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.6, linewidth=0.8)
        for colour, shape in looks.values()
    ]
    figure.legend(handles, [labels[name] for name in looks], loc="outside right center")
    return figure


def _curves(ax: Axes) -> None:
    """Where locality and generalisation have the same harmonic mean."""
    for level in LEVELS:
        x = np.linspace(level / (2 - level), 1, 100)
        y = level * x / (2 * x - level)
        ax.plot(100 * x, 100 * y, color="0.85", linewidth=0.7, zorder=0.5)
        ax.annotate(
            f"{100 * level:.0f}", (100, 100 * level / (2 - level)), (-1, 0.5), fontsize=SMALL - 1,
            textcoords="offset points", color="0.6", ha="right", va="bottom",
        )  # fmt: skip


def _draw(ax: Axes, ones: Sequence[Place], colour: str, shape: str) -> None:
    """The chosen settings large, with intervals; the others small, the best of all joined."""
    at = 100 * np.array([(one.locality.mean, one.generalisation.mean) for one in ones], dtype=float)
    if len(ones) > 1:
        ax.plot(*at[1:].T, shape, color=colour, markersize=2, alpha=0.45, zorder=2)
        best = _unbeaten(at)
        ax.plot(*best.T, color=colour, linewidth=0.7, alpha=0.6, zorder=2)
    (x, y), (across, up) = at[0], ones[0]
    if np.isfinite(x + y):
        ends = {"color": colour, "linewidth": 0.8, "zorder": 2.5}
        ax.hlines(y, 100 * float(across.low), 100 * float(across.high), **ends)
        ax.vlines(x, 100 * float(up.low), 100 * float(up.high), **ends)
        look: dict[str, Any] = {"mec": "white", "mew": 0.4}
        if not np.isfinite(across.low + up.low):
            look = {"mfc": "white", "mec": colour, "mew": 0.8}
        ax.plot([x], [y], shape, color=colour, markersize=4.5, zorder=3, **look)


def _unbeaten(at: np.ndarray) -> np.ndarray:
    """Those that no other is at least as good as in both and better in one; from left to right."""
    kept = [
        one for one in at
        if not any((other >= one).all() and (other > one).any() for other in at)
    ]  # fmt: skip
    return np.array(sorted(map(tuple, kept))).reshape(-1, 2)
