"""Figures of indirect effects by layer: with modules severed; subject compared with relation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    DOUBLE,
    PART_COLOURS,
    SITE_COLOURS,
    SITES,
    Study,
    effect_label,
    finite,
    layer_axis,
    legend_above,
    new_figure,
    site_name,
    styled,
)
from figures.trace import layer_label, window_note
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.averages import MASK
from kedit.results.traces import AverageEffect
from kedit.stats import Interval
from kedit.tables import plural

DASHES = {
    "": "-", "mlp_out": "--", "attn_out": "-.", "cross_attn_out": "-.", "subject": "-",
    "relation": "--",
}  # fmt: skip
LAST = "last corrupted"  # the bucket of the severed curves, as in figure 3 of Meng et al.
WHOLE = "0.35"  # grey of the runs in which nothing is severed
TOTALS = " Dotted: the total effect, clean − corrupted, which a full restoration would reach."


class Curve(NamedTuple):
    """An effect by layer, with its colour, dashes and label."""

    effect: AverageEffect
    colour: str
    dashes: str
    label: str


@styled
def severed(
    ordinary: AverageEffect,
    cut: Sequence[AverageEffect],
    study: Study,
    total: Interval | None = None,
) -> Figure:
    """Effects at the last corrupted token, with modules severed: a panel for each severed site.

    Every panel also has the effects with nothing severed, in grey. With one panel per site no more
    than two bands overlap.

    Args:
        ordinary: effects of restoring single residuals.
        cut: the same effects, each with one site severed.
        study: facts, runs, metric, seed and model.
        total: total effect by metric, drawn as a dotted line.
    """
    n_tokens = ordinary.n_tokens[ordinary.buckets.index(LAST)]
    title = study.titled(f"Effect with modules severed, {ordinary.part} corrupted")
    caption = (
        f"{study.caption('bands')} Restored: a single residual at the last corrupted token "
        f"({plural(n_tokens, 'token')}); severed: outputs held at their corrupted values."
        f"{'' if total is None else TOTALS}"
    )
    figure = new_figure(DOUBLE, 2.3, title, caption)
    axes = figure.subplots(1, len(cut), sharey=True, squeeze=False)[0]
    for ax, effect in zip(axes, cut, strict=True):
        held = effect.name.partition("-severed-")[2]
        if total is not None:
            _total(ax, total, study.metric, WHOLE)
        curves = [
            Curve(ordinary, WHOLE, DASHES[""], "nothing severed"),
            Curve(effect, SITE_COLOURS[held], DASHES[held], f"{SITES[held]} severed"),
        ]
        _draw(ax, curves, LAST, study.metric)
        ax.set_xlabel("layer")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes[0].set_ylabel(effect_label(study.metric))
    return figure


@styled
def sides(
    relation: Sequence[AverageEffect],
    subject: Sequence[AverageEffect],
    study: Study,
    totals: Mapping[str, Interval] | None = None,
) -> Figure:
    """Effects with the relation and with the subject corrupted: a column for each site.

    The upper row is at the last corrupted token, the lower row at the token where the answer is
    read: the last one, or a mask.

    Args:
        relation: effects with the relation corrupted, one for each site.
        subject: effects with the subject corrupted, at the same sites.
        study: facts, runs, metric, seed and model.
        totals: total effect by metric, for each part, drawn as dotted lines.

    Raises:
        InputError: the two parts were not traced at the same sites.
    """
    sites = [[effect.name for effect in part] for part in (relation, subject)]
    if not sites[0] or sites[0] != sites[1]:
        raise InputError(
            f"relation traced at {sites[0]}, subject at {sites[1]}: both need the same sites"
        )
    title = study.titled("Corrupted subject compared with corrupted relation")
    caption = study.caption("bands") + window_note(relation)
    if totals:
        caption += TOTALS
    # the last bucket is the token at which the answer is read: the last one, or a mask
    first, both = relation[0], (LAST, relation[0].buckets[-1])
    rows = [
        bucket
        for bucket in both
        # T5's decoder has no corrupted tokens
        if both[-1] != MASK or first.n_tokens[first.buckets.index(bucket)]
    ]
    figure = new_figure(DOUBLE, 0.6 + 1.5 * len(rows), title, caption)
    axes = figure.subplots(len(rows), len(relation), sharex=True, sharey=True, squeeze=False)
    for row, bucket in zip(axes, rows, strict=True):
        name = f"{bucket} token" if bucket == LAST else bucket
        row[0].set_ylabel(f"{name}\n{effect_label(study.metric)}")
        for ax, *pair in zip(row, subject, relation, strict=True):
            for part, total in (totals or {}).items():
                _total(ax, total, study.metric, PART_COLOURS[part])
            curves = [
                Curve(effect, PART_COLOURS[effect.part], DASHES[effect.part], _part_label(effect))
                for effect in pair
            ]
            _draw(ax, curves, bucket, study.metric)
    for ax, effect in zip(axes[0], relation, strict=True):
        ax.set_title(site_name(effect.name, effect.window))
    for ax, effect in zip(axes[-1], relation, strict=True):
        ax.set_xlabel(layer_label(effect.window))
    legend_above(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def _total(ax: Axes, total: Interval, metric: str, colour: str) -> None:
    """Draws the total effect as a dotted line."""
    height = float(total.mean[METRICS.index(metric)])
    ax.axhline(height, color=colour, linestyle=":", linewidth=1, zorder=1.5)


def _part_label(effect: AverageEffect) -> str:
    return f"{effect.part} corrupted (n = {plural(max(effect.n_facts), 'fact')})"


def _draw(ax: Axes, curves: Iterable[Curve], bucket: str, metric: str) -> None:
    """Draws means by layer with their intervals as bands, or the words "no data"."""
    index = METRICS.index(metric)
    ax.axhline(0, color="0.6", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    seen = 0
    for effect, colour, dashes, label in curves:
        row = effect.buckets.index(bucket)
        mean, low, high = (values[index, row] for values in (effect.mean, effect.low, effect.high))
        layers = np.arange(len(mean))
        ax.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
        for edge in (low, high):  # so that a band under another one is visible
            ax.plot(layers, edge, color=colour, linewidth=0.4, alpha=0.7)
        ax.plot(layers, mean, color=colour, linestyle=dashes, label=label)
        layer_axis(ax, len(mean))
        seen += finite(mean).size
    if not seen:
        ax.text(0.5, 0.6, "no data", transform=ax.transAxes, ha="center", color="0.35")
