"""Indirect effects as curves over layers: with modules severed; subject against relation."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    DOUBLE,
    PART_COLOURS,
    SINGLE,
    SITE_COLOURS,
    SITES,
    Study,
    effect_label,
    finite,
    layer_axis,
    new_figure,
    plural,
    site_name,
    styled,
)
from kedit.errors import InputError
from kedit.metrics import METRICS
from kedit.results import AverageEffect

DASHES = {"": "-", "mlp_out": "--", "attn_out": "-.", "subject": "-", "relation": "--"}
LAST = "last corrupted"  # the bucket of the severed curves, as in Meng et al.'s figure 3


class Curve(NamedTuple):
    """An effect over layers, and how it is drawn."""

    effect: AverageEffect
    colour: str
    dashes: str
    label: str


@styled
def severed(ordinary: AverageEffect, cut: Sequence[AverageEffect], study: Study) -> Figure:
    """Effects at the last corrupted token: all in place, and with MLP or attention outputs held.

    Args:
        ordinary: of single residuals.
        cut: the same, each with one site severed.
    """
    n_tokens = ordinary.n_tokens[ordinary.buckets.index(LAST)]
    title = f"Single residual, last corrupted token (n = {n_tokens})"
    figure = new_figure(SINGLE, 2.6, title, study.caption("bands"))
    ax = figure.subplots()
    ax.set_ylabel(effect_label(study.metric))
    curves = []
    for effect in (ordinary, *cut):
        _, _, held = effect.name.partition("-severed-")
        label = f"{SITES[held]} severed" if held else "ordinary"
        curves.append(Curve(effect, SITE_COLOURS[held or effect.name], DASHES[held], label))
    _draw(ax, curves, LAST, study.metric)
    ax.set_xlabel("layer")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


@styled
def sides(
    relation: Sequence[AverageEffect], subject: Sequence[AverageEffect], study: Study
) -> Figure:
    """Relation against subject: a column for each site; last corrupted token above, last below.

    Raises:
        InputError: the two parts were not traced at the same sites.
    """
    sites = [[effect.name for effect in part] for part in (relation, subject)]
    if not sites[0] or sites[0] != sites[1]:
        raise InputError(
            f"relation at {sites[0]}, subject at {sites[1]}: wanted the same sites in both"
        )
    title = "Subject against relation corrupted"
    figure = new_figure(DOUBLE, 3.6, title, study.caption("bands"))
    axes = figure.subplots(2, len(relation), sharex=True, sharey=True, squeeze=False)
    for row, bucket in zip(axes, (LAST, "last token"), strict=True):
        row[0].set_ylabel(f"{bucket}\n{effect_label(study.metric)}")
        for ax, *pair in zip(row, subject, relation, strict=True):
            curves = [
                Curve(effect, PART_COLOURS[effect.part], DASHES[effect.part], _part_label(effect))
                for effect in pair
            ]
            _draw(ax, curves, bucket, study.metric)
    for ax, effect in zip(axes[0], relation, strict=True):
        ax.set_title(site_name(effect.name, effect.window))
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", ncols=2)
    return figure


def _part_label(effect: AverageEffect) -> str:
    return f"{effect.part} corrupted (n = {plural(max(effect.n_facts), 'fact')})"


def _draw(ax: Axes, curves: Iterable[Curve], bucket: str, metric: str) -> None:
    """Means over layers with their intervals as bands; a panel without a number says "empty"."""
    index = METRICS.index(metric)
    ax.axhline(0, color="0.6", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    seen = 0
    for effect, colour, dashes, label in curves:
        row = effect.buckets.index(bucket)
        mean, low, high = (values[index, row] for values in (effect.mean, effect.low, effect.high))
        layers = np.arange(len(mean))
        ax.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(layers, mean, color=colour, linestyle=dashes, label=label)
        layer_axis(ax, len(mean))
        seen += finite(mean).size
    if not seen:
        ax.text(0.5, 0.6, "empty", transform=ax.transAxes, ha="center", color="0.35")
