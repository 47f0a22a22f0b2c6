"""Figures to point at, drawn with Bokeh: effects by token and layer, heads, and attention.

They need the extra `explore`, and belong to the page of `kedit explore`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from figures.style import METRIC_NAMES, site_name
from kedit.heads import Head
from kedit.results.swept import Swept

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure as Figure

ROW = 17  # pixels of a layer
TILT = 0.8  # radians by which tokens are turned
SIZE = {"width": 560, "toolbar_location": None, "sizing_mode": "scale_width"}


def effects(trace: Swept, site: str, metric: str) -> "Figure":
    """Draws the indirect effects of one site by token and layer; pointing at a cell shows it.

    Args:
        trace: the trace, with a grid of this site.
        site: the name of a grid without heads.
        metric: one of the trace's metrics.
    """
    grid = trace.grids[site]
    title = f"Restored: {site_name(site, grid.window)}; {METRIC_NAMES.get(metric, metric)}"
    found = grid.indirect_effect(metric).numpy()
    return _map(found, _numbered(trace.labels), "token", title)[0]


def heads(trace: Swept, metric: str, position: int, chosen: Callable[[Head], None]) -> "Figure":
    """Draws the indirect effect of each head at one token; pointing at a head shows it.

    Args:
        trace: the trace, with a grid of heads ("z").
        metric: one of the trace's metrics.
        position: the token at which heads are restored.
        chosen: is called with a head when it is clicked.
    """
    from bokeh.models import TapTool

    found = trace.grids["z"].indirect_effect(metric)[:, position].numpy()
    n_heads, token = found.shape[1], trace.labels[position]
    title = f"Restored: a head at {token!r}; {METRIC_NAMES.get(metric, metric)}"
    drawn, source = _map(found, [f"H{head}" for head in range(n_heads)], "head", title)
    drawn.add_tools(TapTool())

    def clicked(attribute: str, old: list[int], new: list[int]) -> None:
        if new:
            layer, head = divmod(new[0], n_heads)
            chosen(Head(layer, head))

    source.selected.on_change("indices", clicked)
    return drawn


def attention(
    labels: Sequence[str], weights: Float[ndarray, " pos"], head: Head, query: str
) -> "Figure":
    """Draws how much a head attends to each token from one token.

    Args:
        labels: the text of each token.
        weights: the attention.
        head: the head, for the title.
        query: the token that attends.
    """
    from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Range1d
    from bokeh.plotting import figure

    tokens = _numbered(labels)
    source = ColumnDataSource({"token": tokens, "weight": weights})
    drawn = figure(
        x_range=FactorRange(factors=tokens), y_range=Range1d(start=0, end=1), height=200,
        title=f"Attention of {head} from {query!r}",
        tools=[HoverTool(tooltips=[("token", "@token"), ("attention", "@weight{0.000}")])],
        **SIZE,
    )  # fmt: skip
    drawn.vbar(x="token", top="weight", width=0.8, source=source, color="#AA4499")
    drawn.xaxis.major_label_orientation = TILT
    return drawn


def _numbered(labels: Sequence[str]) -> list[str]:
    """Returns distinct names of tokens, which Bokeh's axes need: the text, with its position."""
    return [f"{label.strip() or '␣'} ·{position}" for position, label in enumerate(labels)]


def _map(
    found: Float[ndarray, "layer column"], columns: list[str], kind: str, title: str
) -> tuple["Figure", "ColumnDataSource"]:
    """Draws a cell for each layer and column, blue below zero and red above.

    Returns the figure, and its cells row by row.
    """
    from bokeh.models import (
        ColorBar,
        ColumnDataSource,
        FactorRange,
        HoverTool,
        LinearColorMapper,
    )
    from bokeh.palettes import RdBu11
    from bokeh.plotting import figure

    layers = [str(layer) for layer in range(len(found))]
    largest = float(np.abs(found).max()) or 1.0
    mapper = LinearColorMapper(palette=RdBu11, low=-largest, high=largest)
    cells = ColumnDataSource(
        {
            "layer": [layer for layer in layers for _ in columns],
            "column": columns * len(layers),
            "effect": found.flatten(),
        }
    )
    hover = HoverTool(
        tooltips=[("layer", "@layer"), (kind, "@column"), ("effect", "@effect{0.0000}")]
    )
    drawn = figure(
        x_range=FactorRange(factors=columns), y_range=FactorRange(factors=layers), title=title,
        height=100 + ROW * len(layers), tools=[hover], **SIZE,
    )  # fmt: skip
    drawn.rect(
        x="column", y="layer", width=1, height=1, source=cells, line_color=None,
        fill_color={"field": "effect", "transform": mapper},
    )  # fmt: skip
    drawn.grid.grid_line_color = None
    drawn.xaxis.major_label_orientation = TILT
    drawn.yaxis.axis_label = "layer"
    drawn.add_layout(ColorBar(color_mapper=mapper, width=8), "right")
    return drawn, cells
