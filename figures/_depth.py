"""What the figures by relative depth share: curves of models of different depth, and panels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures._models import model_legend
from figures.curves import DASHES
from figures.score import Dots
from figures.style import DOUBLE, finite, new_figure
from kedit.stats import Interval
from kedit.tables import plural

MARKS = {"subject": "filled", "relation": "hollow"}  # by corrupted part


class Curve(NamedTuple):
    """Numbers of one model by layer, in one panel.

    Args:
        model: name of the model.
        panel: keys of the panel's row and column.
        kind: key of DASHES.
        n_layers: number of layers of the model.
        layers: the layers that have numbers.
        values: the numbers and their intervals, by layer.
        has_peak: whether there are enough facts to mark the largest number.
        where: what the numbers are of, as columns of a CSV file.
    """

    model: str
    panel: tuple[str, str]
    kind: str
    n_layers: int
    layers: Sequence[int]
    values: Interval
    has_peak: bool
    where: Mapping[str, Any]

    @property
    def depths(self) -> np.ndarray:
        """The layers as shares of the model's depth, from 0 to 1."""
        return np.array(self.layers) / max(self.n_layers - 1, 1)

    def rows(self, quantity: str) -> Iterator[dict[str, Any]]:
        """A row for each layer, with the number and its interval under the name `quantity`."""
        for index, (layer, depth) in enumerate(zip(self.layers, self.depths, strict=True)):
            number = self.values.at(index)
            place = {"layer": layer, "depth": float(depth)}
            yield {"model": self.model, **self.where, **place, **number.named(quantity)}


def panels(
    title: str, caption: str, rows: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[Figure, np.ndarray]:
    """A figure of empty panels with one scale of numbers, and depths from 0 to 1."""
    n_rows, n_columns = max(len(rows), 1), max(len(columns), 1)
    figure = new_figure(DOUBLE, 0.5 + 1.5 * n_rows, title, caption)
    axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes[0], columns.values(), strict=False):
        ax.set_title(name)
    for ax in axes[-1]:
        ax.set_xlabel("relative depth")
    for ax in axes.flat:
        ax.axhline(0, color="0.6", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlim(-0.04, 1.04)
        ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    return figure, axes


def curve_legend(
    figure: Figure, curves: Sequence[Curve], shown: Mapping[str, Dots], notes: Mapping[str, str]
) -> None:
    """Adds the legend of the models, with the numbers of their layers and a note on each."""
    n_layers = {curve.model: plural(curve.n_layers, "layer") for curve in curves}
    told = {model: f"{n_layers.get(model, 'no data')}, {note}" for model, note in notes.items()}
    model_legend(figure, shown, told)


def draw_curves(
    axes: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    curves: Sequence[Curve],
    shown: Mapping[str, Dots],
) -> None:
    """Draws each curve in its panel; a panel without numbers says so."""
    for ax_row, row in zip(axes, rows, strict=False):
        for ax, column in zip(ax_row, columns, strict=False):
            for curve in curves:
                if curve.panel == (row, column) and finite(curve.values.mean).size:
                    _draw(ax, curve, shown[curve.model])
    for ax in axes.flat:
        if len(ax.lines) == 1:  # the line at zero
            ax.text(0.5, 0.6, "no data", transform=ax.transAxes, ha="center", color="0.35")


def _draw(ax: Axes, curve: Curve, look: Dots) -> None:
    """Draws means by depth, their intervals as bands, and a mark at the largest mean.

    A single layer has no band: its interval is a line.
    """
    mean, low, high = curve.values
    if len(curve.layers) == 1:
        ax.vlines(curve.depths, low, high, color=look.colour, linewidth=0.9)
    else:
        ax.fill_between(curve.depths, low, high, color=look.colour, alpha=0.12, linewidth=0)
    dashes: dict[str, Any] = {"linestyle": DASHES[curve.kind], "linewidth": 1}
    ax.plot(curve.depths, mean, color=look.colour, label=look.name, **dashes)
    largest = int(np.nanargmax(np.abs(mean)))
    if curve.has_peak and mean[largest]:
        face = "white" if MARKS.get(curve.kind) == "hollow" else look.colour
        how: dict[str, Any] = {
            "color": look.colour,
            "markerfacecolor": face,
            "markersize": 3.6,
            "mew": 0.8,
        }
        ax.plot(curve.depths[largest], mean[largest], look.shape, **how, zorder=3)
