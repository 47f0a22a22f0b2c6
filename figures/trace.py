"""Maps of indirect effects: of one fact by token and layer; averages by token bucket and layer."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from figures.style import (
    DOUBLE,
    SIGNED,
    SINGLE,
    SMALL,
    Study,
    effect_label,
    finite,
    layer_axis,
    metric_name,
    new_figure,
    norm,
    readable,
    site_name,
    styled,
    titled,
)
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.edit_traces import EditTrace
from kedit.results.prompts import PromptTrace
from kedit.results.swept import Swept
from kedit.results.traces import AverageEffect, FactTrace
from kedit.stats import Interval
from kedit.tables import estimate, number, plural

ROW = 0.16  # inches per row of a map
FEWEST_ROWS = 6  # a map with fewer rows is drawn as high as this, for its colour bar
LABEL_WIDTH = 20  # characters shown of a token
WINDOWS = (
    " A window is drawn at its middle layer; near the first and last layers it has fewer layers."
)


@styled
def heatmap(
    trace: FactTrace | PromptTrace | EditTrace, name: str = "", metric: str = "", model: str = ""
) -> Figure:
    """Draws the effects of one fact or prompt by token and layer.

    Corrupted tokens are bold and have an asterisk. For a grid by head, each cell shows the head
    with the largest effect of either sign.

    Args:
        trace: the trace.
        name: one of `trace.grids`; "" for the first.
        metric: one of `trace.metrics`; "" for the first.
        model: name of the model, for the title; a trace does not contain it.

    Raises:
        InputError: there is no such grid, or the metric was not measured.
    """
    name, metric = name or next(iter(trace.grids)), metric or trace.metrics[0]
    if name not in trace.grids:
        raise InputError(f"site {name!r} was not traced: use one of {', '.join(trace.grids)}")
    grid = trace.grids[name]
    effect = grid.indirect_effect(metric).numpy()
    labels = [readable(trace.labels[pos], LABEL_WIDTH) for pos in grid.positions]
    plain, largest = site_name(name, grid.window), ""
    if effect.ndim == 3:
        layer, column, head = np.unravel_index(np.abs(effect).argmax(), effect.shape)
        plain, largest = (
            "strongest head of each cell",
            f"; largest effect: L{layer}H{head} at “{labels[column]}”",
        )
        effect = _strongest(effect)
    clean, corrupted = (float(run[grid.index(metric)]) for run in (grid.clean, grid.corrupted))
    unit, (source, target) = "fact" if isinstance(trace, FactTrace) else "prompt", trace.RUNS
    figure = new_figure(
        SINGLE,
        0.6 + ROW * max(len(labels), 4),
        titled(f"{plain[0].upper()}{plain[1:]}: effect on {scored(trace, metric)}", model),
        f"n = 1 {unit}, so no interval; {target} (*): {readable(trace.corrupted_how)}; "
        f"metric: {metric_name(metric)}, {number(clean)} {source}, {number(corrupted)} {target}"
        f"{largest}.{WINDOWS if grid.window > 1 else ''}",
    )
    ax = figure.subplots()
    mesh = draw_map(ax, effect.T, norm(effect))
    starred = [pos in trace.corrupted for pos in grid.positions]
    rows = [f"{text}*" if star else text for text, star in zip(labels, starred, strict=True)]
    ax.set_xlabel(layer_label(grid.window))
    ax.set_yticks(range(len(rows)), rows)
    for tick, star in zip(ax.get_yticklabels(), starred, strict=True):
        tick.set_fontweight("bold" if star else "normal")
    colour_bar(figure, mesh, [ax], metric)
    return figure


def scored(trace: Swept, metric: str) -> str:
    """The token that is scored, in quotes; with a user's own metric, the metric's name."""
    if trace.answer:
        return f"“{readable(trace.answer, LABEL_WIDTH)}”"
    return metric_name(metric)


@styled
def averages(
    effects: Sequence[AverageEffect], study: Study, total: Interval | None = None
) -> Figure:
    """Draws average indirect effects by token bucket and layer, a panel for each site.

    All panels have the same colour scale. The strongest cell of each panel is outlined, and its
    value is in the title. Buckets with too few facts (`AverageEffect.enough`) have no peak and do
    not set the scale; values beyond the scale have its last colour.

    Args:
        effects: the averages, one for each site, over the same tokens.
        study: facts, runs, metric, seed and model.
        total: total effect by metric (`kedit.results.averages.total_effects`), for the title.

    Raises:
        InputError: there are no effects, effects by head, or effects over different tokens.
    """
    if len({(effect.buckets, effect.n_tokens) for effect in effects}) != 1:
        raise InputError(
            f"got {len(effects)} effects: needs at least one, and all over the same tokens"
        )
    index = METRICS.index(study.metric)
    means = [effect.mean[index] for effect in effects]
    if any(mean.ndim != 2 for mean in means):
        raise InputError("these are effects by head: draw them with figures.heads.heads")
    title = study.titled(f"Average indirect effect, {effects[0].part} corrupted")
    if total is not None:
        title += f"; total effect {estimate(*(float(values[index]) for values in total))}"
    n_buckets = len(effects[0].buckets)
    caption = study.caption("brackets") + window_note(effects) + too_few(effects[0])
    figure = new_figure(DOUBLE, 0.95 + 1.2 * ROW * max(n_buckets, FEWEST_ROWS), title, caption)
    axes = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    scale = norm(*(mean[list(effects[0].enough)] for mean in means))
    meshes = [draw_map(ax, mean, scale) for ax, mean in zip(axes, means, strict=True)]
    for ax, effect in zip(axes, effects, strict=True):
        ax.set_xlabel(layer_label(effect.window))
        ax.set_title(f"{site_name(effect.name, effect.window)}\n{_mark_peak(ax, effect, index)}")
    axes[0].set_yticks(range(n_buckets), bucket_labels(effects[0]))
    colour_bar(figure, meshes[0], axes, study.metric)
    return figure


def draw_map(
    ax: Axes,
    effect: Float[ndarray, "row layer"],
    scale: Normalize,
    colours: str | Colormap = SIGNED,
) -> QuadMesh:
    """Draws a map of rows (from top to bottom) by layers; a row without numbers is hatched."""
    n_rows, n_layers = effect.shape
    mesh = ax.pcolormesh(
        np.arange(n_layers + 1) - 0.5,
        np.arange(n_rows + 1) - 0.5,
        np.ma.masked_invalid(effect),
        cmap=colours,
        norm=scale,
        edgecolors="face",  # otherwise a PDF shows thin white lines between the cells
        linewidth=0.1,
    )
    for row in np.flatnonzero(~np.isfinite(effect).any(1)):
        _hatch(ax, float(row), n_layers)
    ax.set_ylim(n_rows - 0.5, -0.5)
    layer_axis(ax, n_layers)
    ax.set_xlabel("layer")
    return mesh


def draw_table(
    figure: Figure,
    ax: Axes,
    effect: Float[ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
) -> None:
    """Draws effects by named rows (the first at the top) and columns; NaN cells are hatched."""
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(effect),
        cmap=SIGNED,
        norm=norm(effect),
        edgecolors="face",
        linewidth=0.1,
    )
    for row, column in np.argwhere(np.isnan(effect)):
        hatch_cell(ax, float(column), float(row))
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(rows), 0)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    bar = figure.colorbar(mesh, ax=ax, label=label, fraction=0.04, pad=0.01)
    bar.locator = MaxNLocator(4, symmetric=True)
    bar.outline.set_linewidth(0.6)


def colour_bar(figure: Figure, mesh: QuadMesh, axes: Iterable[Axes], metric: str) -> None:
    """Adds the colour bar that `axes` share, with its unit."""
    bar = figure.colorbar(
        mesh,
        ax=list(axes),
        label=effect_label(metric, lines=2),
        aspect=25,
        fraction=0.08,
        pad=0.02,
    )
    bar.locator = MaxNLocator(5, symmetric=True)
    bar.outline.set_linewidth(0.6)


def bucket_labels(effect: AverageEffect) -> list[str]:
    """Each bucket with its number of tokens: "last corrupted (60 tokens)"."""
    return [
        f"{name} ({plural(n, 'token')})"
        for name, n in zip(effect.buckets, effect.n_tokens, strict=True)
    ]


def layer_label(window: int) -> str:
    """The label of an axis of layers."""
    return "layer" if window == 1 else "middle layer"


def window_note(effects: Iterable[AverageEffect]) -> str:
    """The sentence of a caption about windows of layers; empty without windows."""
    return WINDOWS if any(effect.window > 1 for effect in effects) else ""


def too_few(effect: AverageEffect) -> str:
    """The sentence of a caption about buckets with too few facts; empty if there are none."""
    there = zip(effect.buckets, effect.n_facts, effect.enough, strict=True)
    few = [f"{name} ({plural(n, 'fact')})" for name, n, enough in there if n and not enough]
    if not few:
        return ""
    return (
        f" Too few facts for a peak or to set the colour scale: {', '.join(few)}; values beyond "
        "the scale have its last colour."
    )


def outline(ax: Axes, row: float, column: float) -> None:
    """Draws a frame around one cell of a map that is visible on every colour."""
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=0.8)
    frame.set_path_effects([withStroke(linewidth=1.8, foreground="white")])
    frame.set_zorder(2)
    ax.add_patch(frame)


def hatch_cell(ax: Axes, left: float, top: float) -> None:
    """Hatches a cell of a map that has no number."""
    how = {"facecolor": "0.93", "edgecolor": "0.75", "hatch": "////", "lw": 0}
    ax.add_patch(Rectangle((left, top), 1, 1, **how))


def _hatch(ax: Axes, row: float, n_layers: int) -> None:
    """Hatches a row of a map that has no numbers."""
    ax.add_patch(
        Rectangle(
            (-0.5, row - 0.5), n_layers, 1, facecolor="0.95", edgecolor="0.7", hatch="////", lw=0
        )
    )
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    ax.text(
        (n_layers - 1) / 2, row, "no data", ha="center", va="center", fontsize=SMALL, color="0.35",
        bbox=box,
    )  # fmt: skip


def _mark_peak(ax: Axes, effect: AverageEffect, index: int) -> str:
    """Outlines the largest effect of either sign, and returns its layer and value as text.

    Only buckets with enough facts are considered.
    """
    mean = np.where(np.array(effect.enough)[:, None], effect.mean[index], np.nan)
    if not finite(mean).any():
        return "no effect" if finite(mean).size else "no data"
    row, layer = np.unravel_index(np.nanargmax(np.abs(mean)), mean.shape)
    outline(ax, float(row), float(layer))
    bounds = (float(values[index, row, layer]) for values in (effect.mean, effect.low, effect.high))
    return f"peak at layer {layer}\n{estimate(*bounds)}"


def _strongest(effect: Float[ndarray, "layer pos head"]) -> Float[ndarray, "layer pos"]:
    """The effect of the head with the largest effect of either sign, cell by cell."""
    heads = np.abs(effect).argmax(2)
    return np.take_along_axis(effect, heads[..., None], 2)[..., 0]
