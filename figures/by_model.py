"""Figures of several models side by side: attention's share by kind, and Scores of editors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures._models import (
    OWN_FACTS,
    listed,
    looks,
    model_legend,
    of_models,
    require_alike,
    require_once,
)
from figures.kinds import EXPLAINED, TITLES
from figures.score import Dots
from figures.style import (
    DOUBLE,
    edited_from,
    metric_name,
    new_figure,
    readable,
    short_names,
    styled,
    wrapped,
)
from kedit.results.compared import Compared
from kedit.results.kinds import KindsCompared
from kedit.scoring.summary import BY_ALL, Key
from kedit.stats import Interval
from kedit.studies.comparison import SCALED, Comparison
from kedit.tables import plural

SLOT, ROW, LINE = 0.085, 0.24, 0.13  # inches: height of a model; least height of a row; of text
NAMES = 1.6  # inches: width of the names of rows
SCORE = "Score"
MEASURES = {
    SCORE: "Score (%)",
    "generalisation": "generalisation:\nshare gained (%)",
    "locality": "locality:\nshare kept (%)",
}


class Dot(NamedTuple):
    """A number of one model, with its interval.

    Args:
        model: name of the model.
        panel: keys of the panel's row and column.
        row: key of the row within the panel.
        number: the number with its interval.
        is_hollow: whether the mark is hollow.
        where: what the number is of, as columns of a CSV file.
    """

    model: str
    panel: tuple[str, str]
    row: str
    number: Interval
    is_hollow: bool
    where: Mapping[str, Any]

    def csv_row(self, quantity: str) -> dict[str, Any]:
        """The number and its interval under the name `quantity`."""
        return {"model": self.model, **self.where, **self.number.named(quantity)}


@styled
def shares(found: Sequence[KindsCompared]) -> Figure:
    """Draws attention's share: a row of panels for each corrupted part, a column for each measure.

    A model may have a result for each corrupted part.

    Raises:
        InputError: the facts were traced with different settings, or a share is there twice.
    """
    dots, shown = _share_dots(found), looks(one.model for one in found)
    kinds = {dot.row: dot.row for dot in dots}
    parts = {
        part: f"{part.capitalize()} corrupted"
        for part in ("subject", "relation")
        if any(dot.panel[0] == part for dot in dots)
    }
    measures = {
        name: title for name, title in TITLES.items() if any(d.panel[1] == name for d in dots)
    }
    caption = (
        f"Corruption: {readable(found[0].corruption)}; metric: {metric_name(found[0].metric)}; "
        f"seed {listed(one.seed for one in found)}; lines: 95\u00a0% bootstrap intervals over "
        f"relations. {' '.join(EXPLAINED[name] for name in measures)} p of a test whether kinds "
        f"differ (kinds permuted among relations): {_chances(found, shown)}.{OWN_FACTS}"
    )
    title = of_models("Attention’s share of the indirect effect, by kind of relation", shown)
    figure = _panels(title, caption, dots, shown, parts, measures, kinds, 1)
    for ax in figure.axes:
        ax.axvline(0.5, color="0.6", linewidth=0.6, linestyle=":", zorder=0.6)
    model_legend(figure, shown, {
        model: "n = " + plural(listed(one.n_facts for one in found if one.model == model), "fact")
        for model in shown
    })  # fmt: skip
    return figure


def _chances(found: Sequence[KindsCompared], shown: Mapping[str, Dots]) -> str:
    """The p-values of all models, by measure and corrupted part, as a phrase."""
    by_test: dict[str, list[str]] = {}
    for one in found:
        for test in one.tests:
            told = f"{test.p:.2g} ({shown[one.model].name})"
            by_test.setdefault(f"{test.measure}, {test.part}", []).append(told)
    return "; ".join(f"{name}: {', '.join(told)}" for name, told in by_test.items())


def share_rows(found: Sequence[KindsCompared]) -> list[dict[str, Any]]:
    """The numbers of `shares`, one row each."""
    return [dot.csv_row("share") for dot in _share_dots(found)]


def _share_dots(found: Sequence[KindsCompared]) -> list[Dot]:
    """The shares of all models."""
    require_alike(
        found, {"metric": lambda one: one.metric, "corruption": lambda one: one.corruption}
    )
    require_once(
        (one.model, share.measure, share.kind, f"{share.part} corrupted")
        for one in found
        for share in one.shares
    )
    dots = []
    for one in found:
        p = {(test.part, test.measure): test.p for test in one.tests}
        for share in one.shares:
            where = {
                "corrupted": share.part, "measure": share.measure, "kind": share.kind,
                "relations": share.n_relations, "facts": share.n_facts,
                "p, kinds differ": p.get((share.part, share.measure)),
            }  # fmt: skip
            panel = share.part, share.measure
            dots.append(Dot(one.model, panel, share.kind, share.share, False, where))
    return dots


@styled
def editors(found: Sequence[Comparison]) -> Figure:
    """Draws Scores with their two parts: a row of panels for each edited side, a row per editor.

    A model may have a result for each side, or for some of the editors.

    Raises:
        InputError: edits kept their norms in some results only, or an editor is there twice.
    """
    dots, shown = _editor_dots(found), looks(one.model for one in found)
    names = short_names(list(dict.fromkeys(dot.row for dot in dots)), 200)
    sides = {dot.panel[0]: edited_from(dot.panel[0]) for dot in dots}
    caption = (
        f"Seed {listed(one.seed for one in found)}; lines: 95\u00a0% bootstrap intervals over "
        "cases. Score: harmonic mean of the shares gained (of what was missing before the edit) "
        "and kept (of what was there before it), by success and by magnitude; generalisation and "
        "locality: plain means of the shares gained and of those kept, each counted as at least "
        "−100\u00a0%. Failed edits count as no edit."
    )
    if any(dot.is_hollow for dot in dots):
        caption += " Hollow: the editor’s settings were not chosen for this model."
    if found[0].norms == "equal":
        caption += f" {SCALED.strip()}"
    title = of_models("Scores of editors", shown)
    figure = _panels(title, caption, dots, shown, sides, MEASURES, names, 100)
    model_legend(figure, shown, {
        model: "n = " + plural(listed(one.n_cases for one in found if one.model == model), "case")
        for model in shown
    })  # fmt: skip
    return figure


def editor_rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The numbers of `editors`, one row each."""
    return [dot.csv_row("percent") for dot in _editor_dots(found)]


def _editor_dots(found: Sequence[Comparison]) -> list[Dot]:
    """The Scores of all models, and their parts, in percent."""
    require_alike(found, {"norms of edits": lambda one: one.norms})
    require_once(
        (one.model, editor.editor, f"edited from the side {editor.side}")
        for one in found
        for editor in one.editors
    )
    return [
        Dot(
            one.model, (editor.side, measure), editor.editor, number, not editor.is_tuned, {
                "edited": editor.side, "editor": editor.editor, "measure": measure,
                "tuned": editor.is_tuned, "cases": one.n_cases, "failed": editor.costs.failed,
            },
        )
        for one in found
        for editor in one.editors
        for measure, number in _scores(editor).items()
    ]  # fmt: skip


def _scores(editor: Compared) -> dict[str, Interval]:
    """The Score of the edited side in percent, and the means of its shares."""
    side = "both" if editor.side == "together" else editor.side
    measure = editor.measure(Key(side, SCORE, BY_ALL))
    score = measure.after if measure else None
    numbers = {
        SCORE: score, "generalisation": editor.generalisation, "locality": editor.locality,
    }  # fmt: skip
    return {
        name: Interval(*(100 * np.asarray(bound) for bound in number))
        for name, number in numbers.items()
        if number is not None
    }


# eight parameters: the texts of the figure, what is drawn, and the labels of its three axes
def _panels(
    title: str,
    caption: str,
    dots: Sequence[Dot],
    shown: Mapping[str, Dots],
    blocks: Mapping[str, str],
    columns: Mapping[str, str],
    rows: Mapping[str, str],
    whole: float,
) -> Figure:
    """Draws all numbers: a row of panels for each block, a panel for each column.

    Args:
        blocks, columns, rows: labels by key, in the order in which they are drawn. A block has the
            rows of which it has numbers.
        whole: the number that is 100 %; axes reach from 0 to it at least.
    """
    names = {
        block: {
            row: _name(label)
            for row, label in rows.items()
            if any((dot.panel[0], dot.row) == (block, row) for dot in dots)
        }
        for block in blocks
    }
    # all rows have one height, that of the row which needs most
    height = max(
        [ROW, SLOT * (len(shown) + 1)]
        + [LINE * len(lines) for labels in names.values() for lines in labels.values()]
    )
    n_rows = [len(labels) for labels in names.values()] or [1]
    figure = new_figure(DOUBLE, 0.6 + 0.33 * len(n_rows) + height * sum(n_rows), title, caption)
    axes = figure.subplots(
        len(n_rows), max(1, len(columns)), sharex="col", sharey="row", squeeze=False,
        height_ratios=n_rows,
    )  # fmt: skip
    for ax_row, (block, labels) in zip(axes, names.items(), strict=False):
        ax_row[0].set_title(blocks[block], fontweight="bold")
        _rows(ax_row, ["\n".join(lines) for lines in labels.values()])
        for ax, column in zip(ax_row, columns, strict=True):
            here = [dot for dot in dots if dot.panel == (block, column)]
            for index, (model, look) in enumerate(shown.items()):
                shift = (index - (len(shown) - 1) / 2) * SLOT / height
                own = [dot for dot in here if dot.model == model]
                _draw(ax, own, [list(labels).index(dot.row) + shift for dot in own], look)
            if not here:
                ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", color="0.35")
    for column_axes, (column, label) in zip(axes.T, columns.items(), strict=False):
        bounds = [x for dot in dots if dot.panel[1] == column for x in dot.number.floats()]
        known = [x for x in bounds if np.isfinite(x)]
        space = 0.03 * whole
        column_axes[-1].set_xlim(min([0, *known]) - space, max([whole, *known]) + space)
        column_axes[-1].set_xlabel(label)
    return figure


def _name(label: str) -> list[str]:
    """The lines of a row's name; settings of an editor are kept together where possible."""
    return [line.replace(": ", ":") for line in wrapped(label.replace(":", ": "), NAMES)]


def _rows(axes: Iterable[Axes], labels: Sequence[str]) -> None:
    """Labels the rows from top to bottom and shades every second row."""
    first, *_ = axes
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
        for row in range(0, len(labels), 2):
            ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(max(len(labels), 1) - 0.5, -0.5)


def _draw(ax: Axes, dots: Sequence[Dot], heights: Sequence[float], look: Dots) -> None:
    """Draws the numbers of one model as marks, with their intervals as lines."""
    bounds = np.array([dot.number.floats() for dot in dots]).reshape(-1, 3)
    ax.hlines(heights, bounds[:, 1], bounds[:, 2], color=look.colour, linewidth=0.9, zorder=2)
    faces = ["white" if dot.is_hollow else look.colour for dot in dots]
    how = {"marker": look.shape, "facecolors": faces, "edgecolors": look.colour}
    ax.scatter(bounds[:, 0], heights, 2.9**2, linewidths=0.7, zorder=3, label=look.name, **how)
