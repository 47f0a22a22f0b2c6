"""Figure of many edits in one model: what editors gain, keep and change as edits add up."""

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.compare import COLOURS, SHAPES
from figures.style import DOUBLE, legend_above, new_figure, readable, short_names, styled, titled
from kedit.results.many_edits import ORDERS, EditedModels, ManyEdits
from kedit.scoring.summary import BY_ALL
from kedit.stats import Interval
from kedit.tables import plural

DASHES: Mapping[str, Literal["-", "--"]] = {"batch": "-", "sequential": "--"}
WIDE = 20.0  # ratio of the largest to the smallest value, above which an axis is logarithmic
SHIFT = 1.06  # factor between editors' marks, which would hide each other


class _Panel(NamedTuple):
    """What a panel shows, with its title and its unit."""

    title: str
    of: Callable[[EditedModels], Interval]
    unit: int = 100


PANELS = (
    _Panel("Score by both (%)", lambda point: point.scores[BY_ALL]),
    _Panel("gained (%)", lambda point: point.gained),
    _Panel("gained by the first fifth (%)", lambda point: point.first),
    _Panel("kept (%)", lambda point: point.kept),
    _Panel("perplexity", lambda point: point.perplexity, 1),
    _Panel("KL (nats per token)", lambda point: point.kl, 1),
)


@styled
def many_edits(found: ManyEdits) -> Figure:
    """Draws a curve over the number of edits per model for each editor and order, in six panels."""
    details = (
        f"n = {plural(found.n_cases, 'case')}, all edited at each number of edits per model; "
        f"{found.perspective} side; seed {found.seed}. Gained and kept: means of shares by success "
        "and by magnitude; the first fifth: the edits that a model got first. Perplexity and KL: "
        "on held-out text. Bars: 95\u00a0% bootstrap intervals over cases, or for these two over "
        "models (none with a single model). Dotted: the unedited model."
    )
    figure = new_figure(DOUBLE, 3.9, titled("Many edits in one model", found.model), details)
    axes = figure.subplots(2, 3, sharex=True)
    counts = sorted({point.edits for point in found.points})
    for ax, panel in zip(axes.flat, PANELS, strict=True):
        ax.set_title(panel.title)
        ax.set_xscale("log")
        ax.set_xticks(counts, [_short(count) for count in counts])
        ax.minorticks_off()
        ax.grid(axis="y", color="0.92", linewidth=0.5)
    axes[1, 1].axhline(found.perplexity, color="0.4", linewidth=0.8, linestyle=":")
    names = short_names(found.editors, 30)
    handles = []
    for index, (editor, colour, shape) in enumerate(
        zip(found.editors, cycle(COLOURS), cycle(SHAPES), strict=False)
    ):
        shift = SHIFT ** (index - (len(found.editors) - 1) / 2)
        for order in ORDERS:
            points = found.curve(editor, order)
            if any(point.order == order for point in points):
                for ax, panel in zip(axes.flat, PANELS, strict=True):
                    _curve(ax, panel, points, shift, (colour, shape, DASHES[order]))
        handles.append(Line2D([], [], color=colour, marker=shape, markersize=3.6))
    for ax in axes[-1, 1:]:
        _widen(ax)
    for ax in axes[-1]:
        ax.set_xlabel("edits per model")
    orders = [order for order in ORDERS if any(point.order == order for point in found.points)]
    handles += [Line2D([], [], color="0.3", linestyle=DASHES[order]) for order in orders]
    legend_above(figure, handles, [*(readable(names[name]) for name in found.editors), *orders])
    return figure


def _short(count: int) -> str:
    """A number of edits as a label with room beside it: 400, 1k, 2.5k."""
    return str(count) if count < 1000 else f"{count / 1000:g}k"


def _curve(
    ax: Axes,
    panel: _Panel,
    points: list[EditedModels],
    shift: float,
    look: tuple[str, str, str],
) -> None:
    """Draws one quantity of one editor over the number of edits, with intervals as bars."""
    colour, shape, dashes = look
    counts = shift * np.array([point.edits for point in points], dtype=float)
    mean, low, high = np.array([panel.of(point).floats(panel.unit) for point in points]).T
    ax.vlines(counts, low, high, color=colour, linewidth=0.7, alpha=0.6)
    ax.plot(counts, mean, dashes, color=colour, marker=shape, markersize=3.2, linewidth=1)


def _widen(ax: Axes) -> None:
    """Makes the axis logarithmic if what is drawn spans more than WIDE."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if drawn.size and drawn.max() > WIDE * drawn.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")  # the default one writes mathematical text
        ax.minorticks_off()
