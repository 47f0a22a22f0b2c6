"""Figure of average indirect effects by head: a map for each token bucket, and the top heads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

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
    text_width,
)
from figures.trace import colour_bar, draw_map, outline, too_few
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.traces import AverageEffect
from kedit.stats import largest
from kedit.tables import number, plural

COLUMNS = 4
ROW, RANKING = 0.09, 1.35  # inches: height of a head in a map; of the panel of strongest heads
TOP = 5
# the line from a rank to its small cell
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}


class TopHead(NamedTuple):
    """A head and a bucket of an `AverageEffect`."""

    bucket: int
    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@styled
def heads(effect: AverageEffect, study: Study) -> Figure:
    """Draws a map for each bucket with tokens; below, the strongest heads with their intervals.

    Only buckets with enough facts (`AverageEffect.enough`) are ranked and set the colour scale.

    Raises:
        InputError: `effect` is not by head.
    """
    index = METRICS.index(study.metric)
    mean = effect.mean[index]
    if mean.ndim != 3:
        raise InputError(f"{effect.name!r} has no effects by head; use the effects of 'z'")
    buckets = [row for row in range(len(mean)) if finite(mean[row]).size] or [0]
    n_rows = 1 if len(buckets) <= COLUMNS else 2
    height = n_rows * (0.65 + max(0.9, ROW * mean.shape[-1]))
    kind = "head of cross attention" if effect.name == "cross_z" else "head"
    title = study.titled(f"Average indirect effect of each {kind}, {effect.part} corrupted")
    caption = study.caption("bars") + too_few(effect)
    figure = new_figure(DOUBLE, height + RANKING, title, caption)
    maps, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, RANKING))[:, 0]
    top = _strongest(effect, index)
    scale = norm(mean[list(effect.enough)])
    axes = maps.subplots(n_rows, -(-len(buckets) // n_rows), sharey=True, squeeze=False).flatten()
    for ax in axes[len(buckets) :]:
        ax.remove()
    axes = axes[: len(buckets)]
    meshes = [draw_map(ax, mean[row].T, scale) for ax, row in zip(axes, buckets, strict=True)]
    for ax, bucket in zip(axes, buckets, strict=True):
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_title(_panel_title(effect, bucket, index))
    for ax in axes[:: -(-len(buckets) // n_rows)]:
        ax.set_ylabel("head")
    colour_bar(maps, meshes[0], axes, study.metric)
    _rank(below.subplots(), effect, index, top)
    figure.draw_without_rendering()  # ranks are positioned by the final size of the cells
    for ax, bucket in zip(axes, buckets, strict=True):
        _number(ax, bucket, top)
    return figure


def _panel_title(effect: AverageEffect, bucket: int, index: int) -> str:
    """The bucket, its number of tokens, and its largest effect, which the colours may not show."""
    there = finite(effect.mean[index, bucket])
    if not there.size:
        return f"{effect.buckets[bucket]}\nno tokens"
    furthest = number(float(there[np.abs(there).argmax()]))
    tokens = plural(effect.n_tokens[bucket], "token")
    return f"{effect.buckets[bucket]}\n{tokens}, up to {furthest}"


def _strongest(effect: AverageEffect, index: int) -> list[TopHead]:
    """The TOP heads with the largest effects of either sign, in all buckets with enough facts."""
    mean = np.where(np.array(effect.enough)[:, None, None], effect.mean[index], np.nan)
    top = [TopHead(*cell) for cell in largest(mean, TOP)]
    return [head for head in top if np.abs(mean[head]) > 0]  # not zero, not NaN


def _number(ax: Axes, bucket: int, top: Sequence[TopHead]) -> None:
    """Outlines the top heads of one bucket and writes their ranks inside or next to them."""
    points = 72 / ax.get_figure(root=True).dpi  # pyright: ignore[reportOptionalMemberAccess]
    page = Bbox(points * ax.get_window_extent().get_points())
    width, height = page.width / (np.ptp(ax.get_xlim())), page.height / (np.ptp(ax.get_ylim()))
    used: list[Bbox] = []
    halo = [withStroke(linewidth=1.6, foreground="white")]
    for rank, head in enumerate(top, 1):
        if head.bucket != bucket:
            continue
        outline(ax, head.head, head.layer)
        at = points * ax.transData.transform((head.layer, head.head))
        size = np.array([text_width(str(rank)) + 1, SMALL])
        inside = width >= size[0] + 1 and height >= size[1] + 1
        steps = [np.zeros(2)] if inside else _around(size / 2 + (width / 2, height / 2))
        boxes = [Bbox([at + step - size / 2, at + step + size / 2]) for step in steps]
        fits = [
            not any(box.overlaps(other) for other in used) and _within(box, page) for box in boxes
        ]
        chosen = fits.index(True) if True in fits else 0
        used.append(boxes[chosen])
        right, up = steps[chosen]
        ax.annotate(
            str(rank), (head.layer, head.head), (right, up), textcoords="offset points",
            ha="center", va="center_baseline", path_effects=halo, zorder=4,
            arrowprops=None if inside else LEADER,
        )  # fmt: skip


def _around(step: np.ndarray) -> list[np.ndarray]:
    """Shifts from a cell to the positions around it: eight in each of four rings."""
    sides = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
    return [far * step * side for far in (1, 2, 3, 4) for side in sides]


def _within(box: Bbox, page: Bbox) -> bool:
    """Whether `box` is inside `page`."""
    return bool(box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1)


def _rank(ax: Axes, effect: AverageEffect, index: int, top: Sequence[TopHead]) -> None:
    """Draws the top heads' effects with their intervals, the strongest at the top."""
    ax.set_title(f"the {TOP} strongest heads")
    ax.set_xlabel(effect_label(METRICS[index]))
    ax.set_ylim(TOP - 0.5, -0.5)
    names = [f"{head}, {effect.buckets[head.bucket]}" for head in top]
    ax.set_yticks(range(len(top)), [f"{name}   {rank}" for rank, name in enumerate(names, 1)])
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.spines[["top", "right"]].set_visible(False)
    if not top:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no effect", transform=ax.transAxes, ha="center", fontsize=SMALL)
        return
    ax.axvline(0, color="0.6", linewidth=0.6)
    for row, head in enumerate(top):
        mean, low, high = (
            float(values[index][head]) for values in (effect.mean, effect.low, effect.high)
        )
        ax.plot([low, high], [row, row], color=SITE_COLOURS["z"])
        ax.plot(mean, row, "o", color=SITE_COLOURS["z"], markersize=3.5)
