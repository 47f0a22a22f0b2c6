"""Figure of write sites for relation edits: effect, separation, Score, and their correlation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from figures.neurons import HALVES
from figures.style import (
    DOUBLE,
    SIGNED,
    layer_axis,
    new_figure,
    norm,
    styled,
    titled,
)
from figures.trace import hatch_cell
from kedit.editing.write_sites import Half
from kedit.models.prompts import KeyPosition
from kedit.results.sites import EVERYWHERE, SHARE, SiteFindings, SiteNumbers
from kedit.tables import plural

POSITIONS: dict[KeyPosition, str] = {
    "subject_last": "Subject’s last token",
    "object_last": "Object’s last token",
    "last": "Last token",
}
MAPS = {  # quantity: title of its panel, label of its colour bar
    "effect of relation": ("Indirect effect, relation corrupted", "nats"),
    "effect of subject": ("Indirect effect, subject corrupted", "nats"),
    "separation": ("Separation of the key from neighbours’ keys", "separation"),
    "Score": ("Score of an edit of this site only", "Score"),
}
AGAINST = {  # criterion: title of its panel, label of its axis
    "effect of relation": ("Effect, relation corrupted", "indirect effect (nats)"),
    "effect of subject": ("Effect, subject corrupted", "indirect effect (nats)"),
    "separation": ("Separation", "separation"),
}
UNKNOWN = 0.5  # a Score with a wider interval is not shown
SHAPES: dict[KeyPosition, str] = {"subject_last": "v", "object_last": "s", "last": "o"}


@styled
def sites(findings: SiteFindings) -> Figure:
    """Draws a map for each quantity by site and layer; below, mean share by criterion.

    Single heads are not drawn.
    """
    found = findings.edited
    rows: list[tuple[Half, KeyPosition]] = [
        (half, where)
        for where in POSITIONS
        for half in HALVES
        if any((site.half, site.where) == (half, where) for site in found)
    ]
    traced = [site.found[name].n for site in found for name in list(MAPS)[:2]]
    caption = (
        f"n = {plural(findings.n_cases, 'case')} ({_span(traced)} traced); seed {findings.seed}. "
        "Indirect effect: of restoring one layer, on the answer’s log-probability. Separation: 1 "
        "if the key has nothing in common with neighbours’ keys. Score, mean share: harmonic and "
        "arithmetic mean of the shares gained and kept. Hatched: no data, or a Score whose "
        f"95\u00a0% bootstrap interval over cases is wider than {UNKNOWN:g}; blank: layer not "
        "measured. ρ: Spearman’s, over all sites, with its interval."
    )
    title = titled("Write sites for relation edits", findings.model)
    height = 2 * (0.75 + 0.15 * max(3, len(rows)))
    figure = new_figure(DOUBLE, height + 1.9, title, caption)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, 1.9))[:, 0]
    panels = above.subplots(2, 2, sharex=True, sharey=True)
    for ax, (name, (quantity, unit)) in zip(panels.flat, MAPS.items(), strict=True):
        ax.set_title(quantity)
        _map(above, ax, name, found, rows, unit)
    for ax in panels[-1]:
        ax.set_xlabel("layer")
    names = [f"{HALVES[half][0]}, {POSITIONS[where].lower()}" for half, where in rows]
    for ax in panels[:, 0]:
        ax.set_yticks(range(len(rows)), names)
    scatters = below.subplots(1, len(AGAINST), sharey=True, squeeze=False)[0]
    correlations = {
        correlation.criterion: correlation.rho
        for correlation in findings.correlations
        if (correlation.editing, correlation.where) == (SHARE, EVERYWHERE)
    }
    for ax, (name, (criterion, label)) in zip(scatters, AGAINST.items(), strict=True):
        _scatter(ax, name, found)
        ax.set_xlabel(label)
        rho = correlations.get(name)
        shown = "undefined" if rho is None or np.isnan(rho.mean) else rho.formatted
        ax.set_title(f"{criterion}\nρ = {shown}")
    scatters[0].set_ylabel("mean share of\nan edit of the site")
    below.legend(*scatters[-1].get_legend_handles_labels(), loc="outside right center")
    return figure


def _map(
    figure: SubFigure,
    ax: Axes,
    name: str,
    found: Sequence[SiteNumbers],
    rows: Sequence[tuple[Half, KeyPosition]],
    unit: str,
) -> None:
    """Draws one quantity: a row for each half and key position; unknown cells are hatched."""
    n_layers = 1 + max((site.layer for site in found), default=0)
    values = np.full((len(rows), n_layers), np.nan)
    hatched = []
    for site in found:
        row = rows.index((site.half, site.where))
        estimated = site.found[name]
        unsure = name == "Score" and estimated.high - estimated.low > UNKNOWN
        if np.isfinite(estimated.mean) and not unsure:
            values[row, site.layer] = estimated.mean
        else:
            hatched.append((row, site.layer))
    signed = name.startswith("effect")
    scale = norm(values) if signed else Normalize(0, 1)
    mesh = ax.pcolormesh(
        np.arange(n_layers + 1) - 0.5, np.arange(len(rows) + 1) - 0.5,
        np.ma.masked_invalid(values), cmap=SIGNED if signed else "Greens", norm=scale,
        edgecolors="face", linewidth=0.1,
    )  # fmt: skip
    for row, layer in hatched:
        hatch_cell(ax, layer - 0.5, row - 0.5)
    if len(rows) and not np.isfinite(values).any():
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.35"}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        known = any(np.isfinite(site.found[name].mean) for site in found)
        why = "intervals too wide" if known else "no data"
        ax.text((n_layers - 1) / 2, (len(rows) - 1) / 2, why, **style)
    for half_row in range(len(HALVES), len(rows), len(HALVES)):
        ax.axhline(half_row - 0.5, color="white", linewidth=1.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    layer_axis(ax, n_layers)
    ax.tick_params(axis="y", length=0)
    bar = figure.colorbar(mesh, ax=ax, label=unit, aspect=12, pad=0.02)
    bar.locator = MaxNLocator(4, symmetric=signed)
    bar.outline.set_linewidth(0.6)


def _scatter(ax: Axes, name: str, found: Sequence[SiteNumbers]) -> None:
    """Draws a dot for each site: its criterion (x) and the mean share of an edit there (y)."""
    if not any(np.isfinite(site.found[name].mean + site.found[SHARE].mean) for site in found):
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.35"}
        ax.text(0.5, 0.5, "no data", transform=ax.transAxes, **style)
    for where, shape in SHAPES.items():
        for half, (label, colour) in HALVES.items():
            marked = [site for site in found if (site.where, site.half) == (where, half)]
            if marked:
                across, up = (
                    [site.found[field].mean for site in marked] for field in (name, SHARE)
                )
                label = f"{label}, {POSITIONS[where].lower()}"
                ax.scatter(across, up, 9, color=colour, marker=shape, alpha=0.75, label=label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _span(counts: Sequence[int]) -> str:
    """The positive counts as text: one number, or "3 to 8"."""
    there = sorted({n for n in counts if n}) or [0]
    return str(there[0]) if len(there) == 1 else f"{there[0]} to {there[-1]}"
