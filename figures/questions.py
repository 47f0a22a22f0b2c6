"""What heads answered: estimates with intervals by head, paths between heads, cut edges."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import (
    DOUBLE,
    SINGLE,
    SITE_COLOURS,
    SITES,
    Study,
    effect_label,
    layer_axis,
    new_figure,
    styled,
)
from figures.trace import draw_table
from kedit.stats import Interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")  # Okabe and Ito's
DASHES = ("-", "--", "-.", ":")


@styled
def answers(panels: Mapping[str, Mapping[str, Interval]], study: Study) -> Figure:
    """A panel a question, a row a head (the first at the top), its mean with an interval."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = new_figure(
        DOUBLE, 1.2 + 0.19 * len(names), "What the heads do", study.caption("lines")
    )
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, panel), colour in zip(
        axes, panels.items(), COLOURS * len(panels), strict=False
    ):
        for row, name in enumerate(names):
            if name in panel:
                mean, low, high = panel[name].floats()
                ax.plot([low, high], [row, row], color=colour)
                ax.plot(mean, row, "o", color=colour, markersize=3.5)
        ax.axvline(0, color="0.6", linewidth=0.6)
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_yticks(range(len(names)), names)
    return figure


@styled
def knockouts(curves: Mapping[str, Interval], window: int, study: Study) -> Figure:
    """The answer's relative change by the cut windows' layer, a curve a cut."""
    title = f"Attention edges cut in {window} layers"
    figure = new_figure(SINGLE, 2.7, title, study.caption("bands"))
    ax = figure.subplots()
    ax.axhline(0, color="0.6", linewidth=0.6)
    for (name, curve), colour, dashes in zip(curves.items(), COLOURS, DASHES, strict=False):
        layers = np.arange(len(curve.mean))
        ax.fill_between(layers, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.2, lw=0)
        ax.plot(layers, 100 * curve.mean, color=colour, linestyle=dashes, label=name)
        layer_axis(ax, len(layers))
    ax.set_xlabel("middle layer of the window")
    ax.set_ylabel("change of the answer’s probability (%)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


@styled
def paths(effects: Mapping[str, Mapping[str, float]], study: Study) -> Figure:
    """What goes from each head (row) straight to each receiver (column), averaged over facts."""
    receivers = sorted({name for own in effects.values() for name in own}, key=_place)
    table = np.array([[own.get(name, np.nan) for name in receivers] for own in effects.values()])
    title = "Paths: effect of a head through one receiver alone"
    caption = f"{study.caption('in paths.csv')} Hatched: the receiver comes before."
    figure = new_figure(DOUBLE, 1.6 + 0.19 * len(effects), title, caption)
    label = effect_label(study.metric)
    draw_table(figure, figure.subplots(), table, list(effects), receivers, label)
    return figure


@styled
def decoding(
    found: Mapping[str, Mapping[str, tuple[Interval, Interval]]], chance: float, caption: str
) -> Figure:
    """Accuracy by layer, a panel for what was held out, a curve a site; dotted: control task."""
    title = "Where a linear probe decodes the relation, at the last token"
    figure = new_figure(DOUBLE, 2.6, title, caption)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (split, sites) in zip(axes, found.items(), strict=True):
        for site, (accuracy, control) in sites.items():
            layers, colour = np.arange(len(accuracy.mean)), SITE_COLOURS[site]
            ax.fill_between(layers, accuracy.low, accuracy.high, color=colour, alpha=0.2, lw=0)
            ax.plot(layers, accuracy.mean, color=colour, label=SITES[site])
            ax.plot(layers, control.mean, color=colour, linestyle=":")
            layer_axis(ax, len(layers))
        ax.axhline(chance, color="0.6", linewidth=0.6)
        ax.set_title(f"{split}s held out")
        ax.set_xlabel("layer")
        ax.set_ylim(0, 1.02)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy")
    axes[-1].legend(loc="center right")
    return figure


def _place(receiver: str) -> tuple[float, str]:
    """By layer, the logits last."""
    if receiver == "logits":
        return float("inf"), receiver
    digits = receiver.removeprefix("L").partition(".")[0].partition("H")[0]
    return float(digits), receiver
