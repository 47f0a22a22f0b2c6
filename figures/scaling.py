"""Figures of how many neurons facts share, and of the effect of scaling neurons on answers."""

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
    "both": "Neurons of MLPs and attention",
    "mlp": "Neurons of MLPs only",
    "attn": "Neurons of attention only (numbers of heads’ z)",
}
SCALINGS = {  # factor: its mark, and the mark's offset from the middle of a row
    0.0: (Dots("suppressed (× 0)", "#0072B2", "v"), -0.16),
    2.0: (Dots("amplified (× 2)", "#CC79A7", "^"), 0.16),
}
UNITS = ("change of probability (percentage points)", "change of log-probability (nats)")
SCALED = (
    "neurons were found on other facts of the relation and scaled at the last token; controls of "
    "the same number at the same sites: loudest (those that write most), random"
)
SHAPES = "os"  # one for each half
SHARED = {  # field of SharedNeurons: label of its row
    "own": "neurons of a fact",
    "within": "shared by two facts\nof the same relation",
    "between": "shared by two facts\nof different relations",
}


@styled
def sharing(found: NeuronFindings) -> Figure:
    """Draws how many neurons a fact has, and how many of them another fact has too."""
    caption = caption_of(
        found, f"means over facts and over pairs of facts; lines: {spread_of(found)}"
    )
    title = titled("Neurons shared between facts", found.model)
    figure = new_figure(SINGLE, 0.75 + 0.34 * len(SHARED), title, caption)
    ax = figure.subplots()
    for index, half in enumerate(found.halves):
        name, colour = HALVES[half]
        shared = found.sharing[half]
        heights = np.arange(len(SHARED)) + 0.4 * (index - (len(found.halves) - 1) / 2)
        bounds = np.array([getattr(shared, row).floats() for row in SHARED])
        _dots(ax, heights, bounds, Dots(name, colour, SHAPES[index]))
        for height, values in zip(heights, bounds, strict=True):
            text = estimate(*values) if np.isfinite(values[0]) else "no pairs"
            _note(ax, height, text, colour)
    _rows(ax, list(SHARED.values()))
    ax.set_xlim(left=0)
    ax.set_xlabel("neurons")
    legend_above(figure, *ax.get_legend_handles_labels())
    return figure


@styled
def scaled(found: NeuronFindings) -> Figure:
    """Draws how suppressing and amplifying neurons changes the answer: a block for each half."""
    blocks = {half: [change for change in found.changes if change.half == half] for half in BLOCKS}
    blocks = {half: changes for half, changes in blocks.items() if changes}
    rows = {
        half: list(dict.fromkeys(change.neurons for change in changes))
        for half, changes in blocks.items()
    }
    clean = estimate(*found.clean.floats(100)) if found.clean else "-"
    caption = caption_of(
        found,
        f"unscaled probability: {clean} %; {SCALED}; lines: {spread_of(found)}; on the right: "
        "number of scaled neurons, number of facts",
    )
    heights = [len(changes) for changes in rows.values()] or [1]
    height = 0.65 + 0.3 * len(heights) + 0.19 * sum(heights)
    title = titled("Effect of scaling neurons on the answer", found.model)
    figure = new_figure(DOUBLE, height, title, caption)
    panels = figure.subplots(
        len(heights), 2, sharex="col", sharey="row", squeeze=False, height_ratios=heights
    )
    for axes, (half, changes) in zip(panels, blocks.items(), strict=False):
        axes[0].set_title(BLOCKS[half], fontweight="bold")
        for ax, field, unit in zip(axes, ("prob", "logprob"), (100, 1), strict=True):
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
            for factor, (dots, shift) in SCALINGS.items():
                there = [change for change in changes if change.factor == factor]
                ys = np.array([rows[half].index(change.neurons) + shift for change in there])
                bounds = [getattr(change, field).floats(unit) for change in there]
                _dots(ax, ys, np.array(bounds), dots)
            _rows(ax, rows[half])
        counts = {
            change.neurons: f"{number(change.n_neurons)}, {change.n_facts}" for change in changes
        }
        for row, name in enumerate(rows[half]):
            _note(axes[-1], row, counts[name], "0.35")
    for ax, label in zip(panels[-1], UNITS, strict=True):
        ax.set_xlabel(label)
    legend_above(figure, *panels[0, 0].get_legend_handles_labels())
    return figure


def _dots(
    ax: Axes, heights: Float[ndarray, " row"], bounds: Float[ndarray, "row 3"], dots: Dots
) -> None:
    """Draws means as marks, with their intervals as lines."""
    ax.hlines(heights, bounds[:, 1], bounds[:, 2], color=dots.colour, linewidth=0.9, zorder=2)
    how = {"color": dots.colour, "marker": dots.shape, "label": dots.name, "zorder": 3}
    ax.scatter(bounds[:, 0], heights, 12, **how)


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """Labels the rows from top to bottom and shades every second row."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for row in range(0, len(labels), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)


def _note(ax: Axes, height: float, text: str, colour: str) -> None:
    """Writes small text to the right of a row."""
    how: dict[str, Any] = {"fontsize": SMALL, "va": "center", "annotation_clip": False}
    across = ax.get_yaxis_transform()
    ax.annotate(
        text, (1, height), (6, 0), xycoords=across, textcoords="offset points", color=colour, **how
    )
