"""Write sites of a relation edit: effect, separation and editing by layer, and how they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.neurons import HALVES
from figures.style import DOUBLE, estimate, new_figure, plural, readable, styled
from kedit.prompts import KeyPosition
from kedit.writes import Half

POSITIONS = {
    "subject_last": "Subject’s last token",
    "object_last": "Object’s last token",
    "last": "Last token",
}
ROWS = {  # quantity: how its axis is labelled, from top to bottom
    "effect of relation": "effect (nats),\nrelation corrupted",
    "effect of subject": "effect (nats),\nsubject corrupted",
    "separation": "separation from\nneighbours",
    "mean share": "editing:\nmean share",
    "Score": "editing:\nScore",
}
AGAINST = {  # criterion: the label of its axis in a scatter panel
    "effect of relation": "effect (nats), relation corrupted",
    "effect of subject": "effect (nats), subject corrupted",
    "separation": "separation from neighbours",
}
EDITED = "mean share"
SHAPES = {"subject_last": "v", "object_last": "s", "last": "o"}


class Estimate(NamedTuple):
    """A mean over `n` cases with its bootstrap interval; NaN where there are none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class SiteNumbers:
    """What was measured at a write site, or one head's rows of W_O, at a key position.

    Args:
        editor: the editor that was tried there, as the command line has it; "" for a head.
        found: by quantity.
    """

    layer: int
    half: Half
    head: int | None
    where: KeyPosition
    editor: str
    found: Mapping[str, Estimate]

    def to_record(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        found = {
            name: {field: None if value != value else value for field, value in one.items()}
            for name, one in ((name, one._asdict()) for name, one in self.found.items())
        }
        return asdict(self) | {"found": found}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "SiteNumbers":
        """The inverse of `to_record`."""
        found = {
            name: Estimate(**{k: np.nan if v is None else v for k, v in one.items()})  # pyright: ignore
            for name, one in record["found"].items()
        }
        return cls(**{**record, "found": found})


@dataclass(frozen=True)
class Sample:
    """What the line under the figure says of its numbers.

    Args:
        model: its name, in words.
        n_cases: that could be scored; fewer may have been traced.
        seed: of the choice of cases, of replacements and of the bootstrap.
    """

    model: str
    n_cases: int
    seed: int = 0


@styled
def sites(
    found: Sequence[SiteNumbers], correlations: Mapping[str, Estimate], sample: Sample
) -> Figure:
    """A row for each quantity, a column for each key position; below, what editing goes with.

    Args:
        found: heads are not drawn.
        correlations: by criterion, Spearman's ρ with the mean share over all sites.
    """
    found = [one for one in found if one.head is None]
    columns = [where for where in POSITIONS if any(one.where == where for one in found)]
    traced = [one.found[name].n for one in found for name in list(ROWS)[:2]]
    caption = (
        f"n = {plural(sample.n_cases, 'case')} ({_span(traced)} traced); {readable(sample.model)}; "
        f"seed {sample.seed}. Effect: of restoring one layer on the answer’s log-probability. "
        "Separation: 1 where the key has nothing in common with neighbours’ keys. Editing: a "
        "joint edit of this site alone; shares of what was there to gain or to keep. Bands and "
        "brackets: 95\u00a0% bootstrap interval over cases."
    )
    figure = new_figure(DOUBLE, 8.6, "Where to write a relation edit", caption)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(len(ROWS), 2))[:, 0]
    panels = above.subplots(len(ROWS), len(columns), sharex=True, sharey="row", squeeze=False)
    for row, (name, label) in zip(panels, ROWS.items(), strict=True):
        for ax, where in zip(row, columns, strict=True):
            _by_layer(ax, name, [one for one in found if one.where == where])
        row[0].set_ylabel(label)
    # never below 0, and at some sites just that
    panels[-1, 0].set_ylim(-0.01, max(0.1, panels[-1, 0].get_ylim()[1]))
    for ax, where in zip(panels[0], columns, strict=True):
        ax.set_title(POSITIONS[where], fontweight="bold")
    for ax in panels[-1]:
        ax.set_xlabel("layer")
    above.align_ylabels(panels[:, 0])
    handles = [ax.get_legend_handles_labels() for ax in panels.flat]
    above.legend(*max(handles, key=lambda both: len(both[1])), loc="outside upper right", ncols=2)
    scatters = below.subplots(1, len(AGAINST), sharey=True, squeeze=False)[0]
    for ax, (name, label) in zip(scatters, AGAINST.items(), strict=True):
        _scatter(ax, name, found)
        ax.set_xlabel(label)
        rho = correlations.get(name)
        shown = "undefined" if rho is None or np.isnan(rho.mean) else estimate(*rho[:3])
        ax.set_title(f"ρ = {shown}")
    scatters[0].set_ylabel(ROWS[EDITED])
    below.legend(*scatters[-1].get_legend_handles_labels(), loc="outside right center")
    return figure


def _by_layer(ax: Axes, name: str, found: Sequence[SiteNumbers]) -> None:
    """A line for each half, its interval as a band; gaps where layers were left out."""
    if name.startswith("effect"):
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=1)
    own = {half: sorted((o for o in found if o.half == half), key=_layer) for half in HALVES}
    for half, (label, colour) in HALVES.items():
        bounds = np.array([one.found[name][:3] for one in own[half]], dtype=float)
        layers = np.array([one.layer for one in own[half]], dtype=float)
        if np.isfinite(bounds).any():
            alone = ~np.isin(layers - 1, layers) & ~np.isin(layers + 1, layers)
            ax.vlines(layers[alone], *bounds[alone, 1:].T, color=colour, alpha=0.4)
            gaps = np.flatnonzero(np.diff(layers) > 1) + 1
            layers = np.insert(layers, gaps, np.nan)
            mean, low, high = np.insert(bounds, gaps, np.nan, axis=0).T
            ax.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            ax.plot(layers, mean, color=colour, marker=".", markersize=3, label=label)
    if not ax.collections:
        centre: dict[str, Any] = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "nothing to measure", color="0.5", **centre)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4))


def _scatter(ax: Axes, name: str, found: Sequence[SiteNumbers]) -> None:
    """A dot for each site: its criterion, and what editing it brought."""
    for where, shape in SHAPES.items():
        for half, (label, colour) in HALVES.items():
            own = [one for one in found if (one.where, one.half) == (where, half)]
            if own:
                across, up = ([one.found[field].mean for one in own] for field in (name, EDITED))
                label = f"{label}, {POSITIONS[where].lower()}"
                ax.scatter(across, up, 9, color=colour, marker=shape, alpha=0.75, label=label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _layer(one: SiteNumbers) -> int:
    return one.layer


def _span(counts: Sequence[int]) -> str:
    there = sorted({n for n in counts if n}) or [0]
    return str(there[0]) if len(there) == 1 else f"{there[0]} to {there[-1]}"
