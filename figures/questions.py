"""Figures of what chosen heads do: direct effects, ablations, paths, knockout and decoding."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import (
    DOUBLE,
    SITE_COLOURS,
    SITES,
    Study,
    effect_label,
    layer_axis,
    new_figure,
    styled,
    titled,
)
from figures.trace import WINDOWS, draw_table, layer_label
from kedit.results.decoding import by_layer
from kedit.results.fact_answers import CUTS
from kedit.results.head_answers import HeadAnswers
from kedit.tables import plural

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")  # Okabe and Ito's


@styled
def answers(found: HeadAnswers) -> Figure:
    """Draws a panel for each quantity and a row for each head, with means and intervals."""
    panels, study = found.panels(), _study(found)
    names = list(dict.fromkeys(name for panel in panels for name in panel.means))
    title = titled("Direct effects and ablations of heads", study.model)
    caption = (
        f"{study.caption('lines')} Ablated: the head’s output is replaced by its mean over other "
        "prompts (mean) or by that of the corrupted prompt (resample). together: all these heads "
        "ablated at once; random: as many random heads."
    )
    figure = new_figure(DOUBLE, 0.6 + 0.19 * len(names), title, caption)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel, colour in zip(axes, panels, COLOURS, strict=False):
        for row, name in enumerate(names):
            if name in panel.means:
                mean, low, high = panel.means[name].floats()
                ax.plot([low, high], [row, row], color=colour)
                ax.plot(mean, row, "o", color=colour, markersize=3.5)
        ax.axvline(0, color="0.6", linewidth=0.6)
        ax.set_title(panel.asked)
        ax.set_xlabel(f"effect on the answer\n({panel.unit})")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_yticks(range(len(names)), names)
    return figure


@styled
def knockouts(found: HeadAnswers) -> Figure:
    """Draws the change of the answer's probability by cut layer, a panel for each cut."""
    curves, study, window = found.curves(), _study(found, of_clean_runs=True), found.window
    title = titled(f"Attention knockout: edges cut in {plural(window, 'layer')}", study.model)
    caption = study.caption("bands") + (WINDOWS if window > 1 else "")
    figure = new_figure(DOUBLE, 2.1, title, caption)
    axes = figure.subplots(1, max(1, len(curves)), sharey=True, squeeze=False)[0]
    for ax, (name, curve), colour in zip(axes, curves.items(), COLOURS, strict=False):
        layers = np.arange(len(curve.mean))
        ax.axhline(0, color="0.6", linewidth=0.6)
        ax.fill_between(layers, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.2, lw=0)
        ax.plot(layers, 100 * curve.mean, color=colour)
        layer_axis(ax, len(layers))
        n_facts = found.n_cut(name)
        fewer = f" ({plural(n_facts, 'fact')})" if n_facts < len(found.facts) else ""
        ax.set_title(cut_title(name) + fewer)
        ax.set_xlabel(layer_label(window))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of the answer’s\nprobability (%)")
    return figure


def cut_title(name: str) -> str:
    """One of CUTS in two lines of words: "subject hidden from / the last token"."""
    reader, read, _ = CUTS[name]
    return f"{read} hidden from\nthe {reader}{' token' if reader == 'last' else ''}"


@styled
def paths(found: HeadAnswers) -> Figure:
    """Draws the mean indirect effect of each head (row) through each receiver (column) alone."""
    effects, study = found.paths(), _study(found)
    receivers = sorted(
        {name for by_receiver in effects.values() for name in by_receiver}, key=_order
    )
    table = np.array(
        [
            [float(by_receiver[name].mean) if name in by_receiver else np.nan for name in receivers]
            for by_receiver in effects.values()
        ]
    )
    title = titled("Path patching: effect of a head through one receiver", study.model)
    caption = f"{study.caption('in paths.csv')} Hatched: the receiver does not come after the head."
    figure = new_figure(DOUBLE, 0.75 + 0.19 * max(len(effects), 4), title, caption)
    label = effect_label(study.metric, lines=2)
    draw_table(figure, figure.subplots(), table, list(map(str, effects)), receivers, label)
    return figure


@styled
def decoding(found: HeadAnswers) -> Figure:
    """Draws probes' accuracy by layer: a panel for what was held out, a curve for each site."""
    title = titled("Accuracy of linear probes for the relation at the last token", found.model)
    caption = (
        f"n = {plural(found.n_decoded, 'fact')}; seed {found.seed}; bands: Wilson’s 95\u00a0% "
        "intervals over the held-out subjects or wordings; dotted: control task, in which each "
        "wording’s relation is drawn at random; grey line: always predicting the most frequent "
        "relation."
    )
    figure = new_figure(DOUBLE, 2.2, title, caption)
    axes = figure.subplots(1, len(found.decoded), sharey=True, squeeze=False)[0]
    for ax, (split, decoded) in zip(axes, found.decoded.items(), strict=True):
        curves = by_layer(decoded)
        for site in (site for site in SITES if site in curves):
            accuracy, control = curves[site]
            layers, colour = np.arange(len(accuracy.mean)), SITE_COLOURS[site]
            ax.fill_between(layers, accuracy.low, accuracy.high, color=colour, alpha=0.2, lw=0)
            ax.plot(layers, accuracy.mean, color=colour, label=SITES[site])
            ax.plot(layers, control.mean, color=colour, linestyle=":")
            layer_axis(ax, len(layers))
        ax.axhline(decoded[0].chance, color="0.6", linewidth=0.6)
        ax.set_title(f"{split}s held out")
        ax.set_xlabel("layer")
        ax.set_ylim(0, 1.02)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center")
    return figure


def _study(found: HeadAnswers, of_clean_runs: bool = False) -> Study:
    """The data of a figure's caption."""
    corruption = "" if of_clean_runs else f"the {found.corrupt}’s words replaced by others"
    return Study(len(found.facts), corruption, found.metric, found.seed, found.model)


def _order(receiver: str) -> tuple[float, str]:
    """Sort key of receivers: by layer, the logits last."""
    if receiver == "logits":
        return float("inf"), receiver
    digits = receiver.removeprefix("L").partition(".")[0].partition("H")[0]
    return float(digits), receiver
