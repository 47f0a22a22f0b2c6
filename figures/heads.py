"""Indirect effects by head: layers and heads for each token bucket, the strongest numbered."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
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
from figures.trace import bucket_labels, colour_bar, draw_map, outline, too_few
from kedit.errors import InputError
from kedit.metrics import METRICS
from kedit.results import AverageEffect
from kedit.stats import largest

COLUMNS = 4
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

    Heads are ranked in buckets of enough facts (`AverageEffect.enough`), which alone set the scale.

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
    caption = study.caption("bars") + too_few(effect)
    figure = new_figure(DOUBLE, height + RANKING + 0.6, title, caption)
    maps, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, RANKING))[:, 0]
    top, labels = _strongest(effect, index), bucket_labels(effect)
    scale = norm(mean[list(effect.enough)])
    axes = maps.subplots(n_rows, -(-len(buckets) // n_rows), sharey=True, squeeze=False).flatten()
    for ax in axes[len(buckets) :]:
        ax.remove()
    axes = axes[: len(buckets)]
    meshes = [draw_map(ax, mean[row].T, scale) for ax, row in zip(axes, buckets, strict=True)]
    for ax, bucket in zip(axes, buckets, strict=True):
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_title(labels[bucket])
        _number(ax, bucket, top)
    maps.supylabel("head", fontsize=7)
    colour_bar(maps, meshes[0], axes, study.metric)
    _rank(below.subplots(), effect, index, top)
    return figure


def _strongest(effect: AverageEffect, index: int) -> list[Head]:
    """The TOP heads with the largest effects of either sign, in any bucket of enough facts."""
    mean = np.where(np.array(effect.enough)[:, None, None], effect.mean[index], np.nan)
    places = [Head(*place) for place in largest(mean, TOP)]
    return [place for place in places if np.abs(mean[place]) > 0]  # nor NaN


def _number(ax: Axes, bucket: int, places: Sequence[Head]) -> None:
    """Outlines the heads of one bucket and puts their ranks into them."""
    halo = [withStroke(linewidth=1.4, foreground="white")]
    for rank, place in enumerate(places, 1):
        if place.bucket == bucket:
            outline(ax, place.head, place.layer)
            ax.text(place.layer, place.head, str(rank), ha="center", va="center",
                    fontsize=SMALL - 1, path_effects=halo)  # fmt: skip


def _rank(ax: Axes, effect: AverageEffect, index: int, places: Sequence[Head]) -> None:
    """The heads' effects with their intervals, the strongest at the top."""
    ax.set_title(f"the {TOP} strongest")
    ax.set_xlabel(effect_label(METRICS[index]))
    ax.set_ylim(TOP - 0.5, -0.5)
    names = [f"{place}, {effect.buckets[place.bucket]}" for place in places]
    ax.set_yticks(range(len(places)), [f"{rank}   {name}" for rank, name in enumerate(names, 1)])
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
