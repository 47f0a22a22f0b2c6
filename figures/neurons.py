"""Figures of relations' neurons: by layer, by head, and relation by relation."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from figures.style import (
    DOUBLE,
    SINGLE,
    SITE_COLOURS,
    layer_axis,
    new_figure,
    readable,
    styled,
    titled,
)
from figures.trace import draw_map, outline
from kedit.models.sites import Half
from kedit.results.neuron_findings import NeuronFindings
from kedit.results.neurons import strongest
from kedit.stats import Interval
from kedit.tables import estimate, plural, two_digits

HALVES: Mapping[Half, tuple[str, str]] = {
    "mlp": ("MLP", SITE_COLOURS["mlp_out"]),
    "attn": ("Attention", SITE_COLOURS["attn_out"]),
}
COUNT, HEAD = "#0072B2", SITE_COLOURS["z"]  # colours of maps: of neurons, of heads
ROW = 0.15  # inches: height of a relation or a head
NAME_WIDTH = 22  # characters shown of a relation's name
STRONGEST = 8  # heads that are shown


@styled
def layers(found: NeuronFindings) -> Figure:
    """Draws a column for each half: above its neurons by layer, below its attribution by layer."""
    caption = caption_of(
        found,
        "neurons: those that enough of a relation’s facts have; attribution: integrated gradients "
        "of the answer’s probability, positive ones summed over the layer; each site is integrated "
        "separately, so sums over layers can exceed 1; lines and "
        f"brackets: {spread_of(found)}",
    )
    title = titled("Neurons of a relation by layer", found.model)
    figure = new_figure(DOUBLE, 2.8, title, caption)
    axes = figure.subplots(2, len(found.halves), sharex=True, sharey="row", squeeze=False)
    for column, (half, numbers) in zip(axes.T, found.halves.items(), strict=True):
        name, colour = HALVES[half]
        column[0].set_title(f"{name}: {two_digits(numbers.total)} neurons per relation")
        if numbers.share:
            share = estimate(*numbers.share.floats(100))
            column[1].set_title(f"{share} % of the positive attribution")
        for ax, values in zip(column, (numbers.neurons, numbers.mass), strict=True):
            _bars(ax, values, colour)
        column[1].set_xlabel("layer")
    axes[0, 0].set_ylabel("neurons\nper relation")
    axes[1, 0].set_ylabel("positive attribution\nper fact (may exceed 1)")
    return figure


@styled
def heads(found: NeuronFindings) -> Figure:
    """Draws how many relations have neurons in each head, with the top heads outlined."""
    counts = np.stack([relation.counts["attn"] for relation in found.relations])
    shared = (counts > 0).sum(0)
    title = titled("Relations with neurons in a head’s z", found.model)
    caption = caption_of(
        found, "outlined: heads with neurons of the most relations; counts, so no interval"
    )
    n_heads = shared.shape[1]
    figure = new_figure(SINGLE, 0.8 + ROW * max(n_heads, 5), title, caption)
    ax = figure.subplots()
    scale = Normalize(0, max(int(shared.max(initial=0)), 1))
    mesh = draw_map(ax, shared.T, scale, _tint(HEAD))
    ax.set_ylabel("head")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _scale(figure, mesh, [ax], "relations", n_heads)
    ranked = strongest(shared + counts.sum(0) / (1 + counts.sum()))  # ties: by number of neurons
    top = [cell for cell in ranked if shared[cell] > 1][:3]
    for layer, head in top:
        outline(ax, head, layer)
    names = [f"L{layer}H{head} ({shared[layer, head]})" for layer, head in top]
    ax.set_title(f"most: {', '.join(names)}" if top else "no head has neurons of two relations")
    return figure


@styled
def relations(found: NeuronFindings) -> Figure:
    """Draws a row for each relation: neurons by layer and half, and shares of the top heads."""
    caption = caption_of(
        found,
        "neurons: those that enough of the relation’s facts have; heads: those with the largest "
        "share of the positive attribution at all sites, on average over relations; single "
        "relations, so no interval",
    )
    title = titled("Neurons and heads, relation by relation", found.model)
    names = [readable(relation.name, NAME_WIDTH) for relation in found.relations]
    figure = new_figure(DOUBLE, 0.9 + ROW * max(len(names), 5), title, caption)
    counts: dict[Half, ndarray] = {
        half: np.stack([relation.counts[half].sum(1) for relation in found.relations])
        for half in found.halves
    }
    shares = _head_shares(found)
    top = strongest(shares.mean(0))[:STRONGEST]
    widths = [1.0] * len(counts) + [0.8] * bool(top)
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    panels = axes[: len(counts)]
    scale = Normalize(0, max(1, *(int(values.max(initial=0)) for values in counts.values())))
    meshes = [
        draw_map(ax, values, scale, _tint(COUNT))
        for ax, values in zip(panels, counts.values(), strict=True)
    ]
    for ax, half in zip(panels, counts, strict=True):
        ax.set_title(HALVES[half][0])
    _scale(figure, meshes[0], panels, "neurons", len(names))
    if top:
        there = 100 * np.stack([shares[:, layer, head] for layer, head in top], axis=1)
        mesh = draw_map(axes[-1], there, Normalize(0, there.max()), _tint(HEAD))
        labels = [f"L{layer}H{head}" for layer, head in top]
        axes[-1].set_xticks(range(len(top)), labels, rotation=90)
        axes[-1].set_xlabel("")
        axes[-1].set_title("Strongest heads")
        _scale(figure, mesh, [axes[-1]], "share of positive\nattribution (%)", len(names))
    axes[0].set_yticks(range(len(names)), names)
    return figure


def caption_of(found: NeuronFindings, explained: str) -> str:
    """A caption with the numbers of relations and facts, the seed, and `explained`."""
    n_relations = plural(len(found.relations), "relation")
    return f"n = {n_relations}, {plural(found.n_facts, 'fact')}; seed {found.seed}; {explained}."


def spread_of(found: NeuronFindings) -> str:
    """A phrase about the intervals; there are none over a single relation."""
    if len(found.relations) == 1:
        return "one relation, so no interval"
    return "95\u00a0% bootstrap interval over relations"


def _head_shares(found: NeuronFindings) -> Float[ndarray, "relation layer head"]:
    """Each head's share of each relation's positive attribution; empty without attention."""
    if "attn" not in found.halves:
        return np.zeros((len(found.relations), 0, 1))
    return np.stack([relation.head_shares for relation in found.relations])


def _tint(colour: str) -> Colormap:
    """A colour map from white through the colour to a darker one."""
    darker = tuple(0.4 * part for part in to_rgb(colour))
    return LinearSegmentedColormap.from_list(colour, ["white", colour, darker])


def _scale(figure: Figure, mesh: QuadMesh, axes: Sequence[Axes], label: str, n_rows: int) -> None:
    """Adds a colour bar as high as the maps; its width does not depend on their height."""
    bar = figure.colorbar(mesh, ax=list(axes), label=label, aspect=1.6 * max(n_rows, 8), pad=0.02)
    bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10], integer=True)
    bar.outline.set_linewidth(0.6)


def _bars(ax: Axes, values: Interval, colour: str) -> None:
    """Draws means by layer as bars, with their intervals as lines."""
    layers = np.arange(len(values.mean))
    ax.bar(layers, values.mean, 0.75, color=colour, alpha=0.8)
    ax.vlines(layers, values.low, values.high, color="0.2", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylim(bottom=0)
    layer_axis(ax, len(layers))
