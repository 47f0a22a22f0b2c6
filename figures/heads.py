"""Indirect effects by head: layers and heads for each token bucket, the strongest named."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import (
    DOUBLE,
    SITE_COLOURS,
    SMALL,
    Study,
    effect_label,
    finite,
    new_figure,
    norm,
    styled,
)
from figures.trace import bucket_labels, colour_bar, draw_map, outline
from kedit.errors import InputError
from kedit.metrics import METRICS
from kedit.results import AverageEffect

COLUMNS = 4
NAME_HEIGHT = 0.11  # of a panel: the least distance between two heads' names
RANKING = 1.3  # inches, of the strongest heads
TOP = 5


class Head(NamedTuple):
    """A head's place in an AverageEffect."""

    bucket: int
    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@styled
def heads(effect: AverageEffect, study: Study) -> Figure:
    """A map for each bucket that has tokens; below, the five strongest heads with their intervals.

    Raises:
        InputError: `effect` is not by head.
    """
    index = METRICS.index(study.metric)
    mean = effect.mean[index]
    if mean.ndim != 3:
        raise InputError(f"{effect.name!r} has no heads: wanted the effects of 'z'")
    buckets = [row for row in range(len(mean)) if finite(mean[row]).size] or [0]
    n_rows = 1 if len(buckets) <= COLUMNS else 2
    height = 1.45 * n_rows
    title = "Average indirect effect of each head"
    figure = new_figure(DOUBLE, height + RANKING + 0.6, title, study.caption("bars"))
    maps, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, RANKING))[:, 0]
    top, scale, labels = _strongest(effect, index), norm(mean), bucket_labels(effect)
    axes = maps.subplots(n_rows, -(-len(buckets) // n_rows), sharey=True, squeeze=False).flatten()
    for ax in axes[len(buckets) :]:
        ax.remove()
    axes = axes[: len(buckets)]
    meshes = [draw_map(ax, mean[row].T, scale) for ax, row in zip(axes, buckets, strict=True)]
    for ax, bucket in zip(axes, buckets, strict=True):
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_title(labels[bucket])
        _name(ax, [place for place in top if place.bucket == bucket], *mean.shape[1:])
    maps.supylabel("head", fontsize=7)
    colour_bar(maps, meshes[0], axes, study.metric)
    _rank(below.subplots(), effect, index, top)
    return figure


def _strongest(effect: AverageEffect, index: int) -> list[Head]:
    """The TOP heads with the largest effects of either sign, in any bucket."""
    size = np.nan_to_num(np.abs(effect.mean[index]))
    order = np.argsort(-size, axis=None, kind="stable")[:TOP]
    places = [Head(*map(int, np.unravel_index(flat, size.shape))) for flat in order]
    return [place for place in places if size[place] > 0]


def _name(ax: Axes, places: Sequence[Head], n_layers: int, n_heads: int) -> None:
    """Outlines heads, their names beside them, apart from each other."""
    gap = NAME_HEIGHT * n_heads
    ordered = sorted(places, key=lambda place: (place.head, place.layer))
    heights = np.array([max(place.head, gap / 2 - 0.5) for place in ordered])
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = n_heads - 0.5 - gap / 2
    for i in reversed(range(len(heights))):
        heights[i], ceiling = min(heights[i], ceiling), min(heights[i], ceiling) - gap
    for place, height in zip(ordered, heights, strict=True):
        outline(ax, place.head, place.layer)
        # outwards, so that names of neighbours do not meet, unless the edge of the map is near
        outwards = 0.32 <= (place.layer + 0.5) / n_layers <= 0.68
        right = (place.layer < n_layers / 2) != outwards
        ax.annotate(
            str(place),
            (place.layer + (0.5 if right else -0.5), place.head),
            (place.layer + (1 if right else -1) * (0.5 + 0.05 * n_layers), height),
            ha="left" if right else "right",
            va="center",
            fontsize=5.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
        )


def _rank(ax: Axes, effect: AverageEffect, index: int, places: Sequence[Head]) -> None:
    """The heads' effects with their intervals, the strongest at the top."""
    ax.set_title(f"the {TOP} strongest")
    ax.set_xlabel(effect_label(METRICS[index]))
    ax.set_ylim(TOP - 0.5, -0.5)
    ax.set_yticks(
        range(len(places)), [f"{place}, {effect.buckets[place.bucket]}" for place in places]
    )
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.spines[["top", "right"]].set_visible(False)
    if not places:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no effect", transform=ax.transAxes, ha="center", fontsize=SMALL)
        return
    ax.axvline(0, color="0.6", linewidth=0.6)
    for row, place in enumerate(places):
        mean, low, high = (
            float(values[index][place]) for values in (effect.mean, effect.low, effect.high)
        )
        ax.plot([low, high], [row, row], color=SITE_COLOURS["z"])
        ax.plot(mean, row, "o", color=SITE_COLOURS["z"], markersize=3.5)
