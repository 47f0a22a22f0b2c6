"""Figure of the anatomy of edits: what carries the new answer, by layer, token and head."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    DOUBLE,
    layer_axis,
    legend_above,
    new_figure,
    readable,
    short_names,
    site_name,
    styled,
    titled,
)
from kedit.results.anatomy import SITES, TOKENS, Anatomy, EditorAnatomy

COLOURS = ("#332288", "#DDAA33")  # of TOKENS
ROW = 1.35  # inches for each editor
HEADS = 6
MARGIN = 0.05  # of the axis, beyond the largest share


@styled
def carried(found: Anatomy) -> Figure:
    """Draws a row for each editor: three sites by layer, and the heads that the edit needs most.

    Args:
        found: the result.
    """
    n_rows = len(found.editors)
    figure = new_figure(
        DOUBLE,
        1.0 + ROW * n_rows,
        titled(f"What carries an edit from the {found.perspective} side", found.model),
        "Shares of the edit's effect on logit(answer) − logit(foil). Lines: one activation of the "
        "edited model put into the unedited one, at this layer and token. Dots: what is lost if "
        "this head of the edited model gets back its unedited output, summed over tokens. Bands "
        f"and bars: 95\u00a0% bootstrap intervals over cases; seed {found.seed}. "
        f"{readable(found.counts)}.",
    )
    axes = figure.subplots(n_rows, len(SITES) + 1, squeeze=False)
    names = short_names([editor.editor for editor in found.editors], 24)
    for row, editor in zip(axes, found.editors, strict=True):
        for ax, site in zip(row, SITES, strict=False):
            _by_layer(ax, editor, site)
        # with a single case the bounds of intervals are NaN
        drawn = np.array([values for site in SITES for values in editor.carried[site].values()])
        low, high = min(np.nanmin(drawn), 0), max(np.nanmax(drawn), 0)
        for ax in row[: len(SITES)]:
            ax.set_ylim(low - MARGIN * (high - low), high + MARGIN * (high - low))
        for ax in row[1 : len(SITES)]:
            ax.tick_params(labelleft=False)
        _by_head(row[-1], editor)
        row[0].set_ylabel(f"{names[editor.editor]}\nshare")
    for ax, site in zip(axes[0], SITES, strict=False):
        ax.set_title(site_name(site, 1))
    axes[0][-1].set_title("heads needed most")
    for ax in axes[-1][:-1]:
        ax.set_xlabel("layer")
    axes[-1][-1].set_xlabel("share lost without it")
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def _by_layer(ax: Axes, editor: EditorAnatomy, site: str) -> None:
    for token, colour in zip(TOKENS, COLOURS, strict=True):
        mean, low, high = editor.carried[site][token]
        layers = np.arange(len(mean))
        ax.fill_between(layers, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(layers, mean, color=colour, label=token)
    ax.axhline(0, color="0.6", linewidth=0.6)
    layer_axis(ax, len(editor.mlps.mean))


def _by_head(ax: Axes, editor: EditorAnatomy) -> None:
    heads = editor.most_needed(HEADS)
    for row, (_, (mean, low, high)) in enumerate(heads):
        ax.plot([low, high], [row, row], color="0.3", linewidth=0.9)
        ax.plot(mean, row, "o", color="0.1", markersize=3)
    ax.axvline(0, color="0.6", linewidth=0.6)
    ax.set_yticks(range(len(heads)), [str(head) for head, _ in heads])
    ax.set_ylim(max(len(heads), 1) - 0.5, -0.5)
