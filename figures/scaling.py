"""Whether facts of one relation share neurons, and what scaling these does to answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from figures.neurons import HALVES, caption_of, spread_of
from figures.score import Dots
from figures.style import (
    DOUBLE,
    SINGLE,
    SMALL,
    legend_above,
    new_figure,
    styled,
    titled,
)
from kedit.results.neuron_findings import NeuronFindings
from kedit.tables import estimate, number

BLOCKS = {
    "both": "Neurons of both halves",
    "mlp": "Neurons of the MLPs alone",
    "attn": "Numbers of heads’ z alone",
}
SCALINGS = {  # by factor; how far above the middle of its row
    0.0: (Dots("suppressed (× 0)", "#0072B2", "v"), -0.16),
    2.0: (Dots("amplified (× 2)", "#CC79A7", "^"), 0.16),
}
UNITS = ("change of probability (percentage points)", "change of log-probability (nats)")
SCALED = (
    "neurons were found on other facts of their relation, and scaled at the last token; loudest: "
    "as many others at the same sites that write most there; random: as many others"
)
SHAPES = "os"  # a half each
SHARED = {  # by field of SharedNeurons: what its row is called
    "own": "neurons of a fact",
    "within": "shared by two facts\nof one relation",
    "between": "shared by two facts\nof two relations",
}


@styled
def sharing(found: NeuronFindings) -> Figure:
    """How many neurons a fact has, and how many of them another fact has too."""
    caption = caption_of(
        found, f"means over facts and over pairs of facts; lines: {spread_of(found)}"
    )
    title = titled("Neurons that facts share", found.model)
    figure = new_figure(SINGLE, 0.75 + 0.34 * len(SHARED), title, caption)
    ax = figure.subplots()
    for place, half in enumerate(found.halves):
        name, colour = HALVES[half]
        own = found.sharing[half]
        heights = np.arange(len(SHARED)) + 0.4 * (place - (len(found.halves) - 1) / 2)
        bounds = np.array([getattr(own, row).floats() for row in SHARED])
        _dots(ax, heights, bounds, Dots(name, colour, SHAPES[place]))
        for height, values in zip(heights, bounds, strict=True):
            text = estimate(*values) if np.isfinite(values[0]) else "no such pair"
            _note(ax, height, text, colour)
    _rows(ax, list(SHARED.values()))
    ax.set_xlim(left=0)
    ax.set_xlabel("neurons")
    legend_above(figure, *ax.get_legend_handles_labels())
    return figure


@styled
def scaled(found: NeuronFindings) -> Figure:
    """What suppressing and amplifying neurons does to the answer: a block for each half."""
    blocks = {half: [one for one in found.changes if one.half == half] for half in BLOCKS}
    blocks = {half: own for half, own in blocks.items() if own}
    rows = {half: list(dict.fromkeys(one.neurons for one in own)) for half, own in blocks.items()}
    clean = estimate(*found.clean.floats(100)) if found.clean else "-"
    caption = caption_of(
        found,
        f"probability with nothing scaled: {clean} %; {SCALED}; lines: {spread_of(found)}; right: "
        "how many neurons, under how many facts",
    )
    heights = [len(own) for own in rows.values()] or [1]
    height = 0.65 + 0.3 * len(heights) + 0.19 * sum(heights)
    title = titled("What scaling neurons does to the answer", found.model)
    figure = new_figure(DOUBLE, height, title, caption)
    panels = figure.subplots(
        len(heights), 2, sharex="col", sharey="row", squeeze=False, height_ratios=heights
    )
    for axes, (half, own) in zip(panels, blocks.items(), strict=False):
        axes[0].set_title(BLOCKS[half], fontweight="bold")
        for ax, field, unit in zip(axes, ("prob", "logprob"), (100, 1), strict=True):
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
            for factor, (dots, shift) in SCALINGS.items():
                there = [one for one in own if one.factor == factor]
                places = np.array([rows[half].index(one.neurons) + shift for one in there])
                bounds = [getattr(one, field).floats(unit) for one in there]
                _dots(ax, places, np.array(bounds), dots)
            _rows(ax, rows[half])
        counts = {one.neurons: f"{number(one.n_neurons)}, {one.n_facts}" for one in own}
        for place, name in enumerate(rows[half]):
            _note(axes[-1], place, counts[name], "0.35")
    for ax, label in zip(panels[-1], UNITS, strict=True):
        ax.set_xlabel(label)
    legend_above(figure, *panels[0, 0].get_legend_handles_labels())
    return figure


def _dots(
    ax: Axes, heights: Float[ndarray, " row"], bounds: Float[ndarray, "row 3"], dots: Dots
) -> None:
    """Means, and their intervals as lines."""
    ax.hlines(heights, bounds[:, 1], bounds[:, 2], color=dots.colour, linewidth=0.9, zorder=2)
    how = {"color": dots.colour, "marker": dots.shape, "label": dots.name, "zorder": 3}
    ax.scatter(bounds[:, 0], heights, 12, **how)


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """From top to bottom, every other one shaded."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for row in range(0, len(labels), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)


def _note(ax: Axes, height: float, text: str, colour: str) -> None:
    """Small print on the right of a row."""
    how: dict[str, Any] = {"fontsize": SMALL, "va": "center", "annotation_clip": False}
    across = ax.get_yaxis_transform()
    ax.annotate(
        text, (1, height), (6, 0), xycoords=across, textcoords="offset points", color=colour, **how
    )
