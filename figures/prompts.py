"""Figure of the effects of single heads on a prompt, at the tokens with the largest effects."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import DOUBLE, metric_name, new_figure, norm, readable, styled, titled
from figures.trace import LABEL_WIDTH, colour_bar, draw_map, outline, scored
from kedit.errors import InputError
from kedit.results.prompts import PromptTrace
from kedit.tables import number

PANELS = 4  # tokens that are shown, at most
LEAST = 0.05  # share of the largest effect; tokens at which no head reaches it are left out
ROW = 0.09  # inches per head


@styled
def head_maps(trace: PromptTrace, metric: str = "", model: str = "") -> Figure:
    """Draws a map of layers and heads for each token with large effects, outlining the top head.

    Args:
        trace: the result of patching.
        metric: one of `trace.metrics`; "" for the first.
        model: name of the model, for the title.

    Raises:
        InputError: the heads were not restored, or the metric was not measured.
    """
    if "z" not in trace.grids:
        raise InputError("no heads were restored: add Patch('z') to the patches")
    grid, metric = trace.grids["z"], metric or trace.metrics[0]
    effect = grid.indirect_effect(metric).numpy()
    largest = np.abs(effect).max((0, 2))
    strongest = np.argsort(-largest, kind="stable")[:PANELS]
    columns = sorted(int(col) for col in strongest if largest[col] >= LEAST * largest.max())
    figure = new_figure(
        DOUBLE,
        0.6 + max(0.9, ROW * effect.shape[2]),
        titled(f"Effect of restoring one head on {scored(trace, metric)}", model),
        f"n = 1 prompt, so no interval; corrupted: {readable(trace.corrupted_how)}; metric: "
        f"{metric_name(metric)}; shown: those of {len(grid.positions)} tokens at which heads have "
        "the largest effects, each with its position and its strongest head (outlined).",
    )
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    scale = norm(effect)
    meshes = [
        draw_map(ax, effect[:, column].T, scale) for ax, column in zip(axes, columns, strict=True)
    ]
    for ax, column in zip(axes, columns, strict=True):
        here, pos = effect[:, column], grid.positions[column]
        layer, head = (int(index) for index in np.unravel_index(np.abs(here).argmax(), here.shape))
        largest_here = float(here[layer, head])
        found = f"L{layer}H{head}: {number(largest_here)}" if largest_here else "no effect"
        if here[layer, head]:
            outline(ax, head, layer)
        ax.set_title(f"{readable(trace.labels[pos], LABEL_WIDTH)} ({pos})\n{found}")
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylabel("head")
    colour_bar(figure, meshes[0], axes, metric)
    return figure
