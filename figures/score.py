"""Figures of an unedited model's benchmark scores: by group of probes, and by relation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from figures.style import (
    DOUBLE,
    FONT,
    SMALL,
    finite,
    layout_of,
    legend_above,
    new_figure,
    readable,
    styled,
    text_width,
    titled,
)
from kedit.results.measures import Key, Measure, Scores
from kedit.scoring.summary import E_EFFICACY, E_PARAPHRASE, R_EFFICACY, R_PARAPHRASE
from kedit.tables import plural


class Dots(NamedTuple):
    """The name, colour and shape of a series of measures."""

    name: str
    colour: str  # of Okabe and Ito's palette, as in style.py
    shape: str


class ScorePanel(NamedTuple):
    """A panel of `by_relation`: its title, unit and series, by measure."""

    title: str
    unit: str
    series: Mapping[Key, Dots]


STATISTICS = (
    Dots("success", "#0072B2", "o"),
    Dots("reciprocal rank", "#D55E00", "D"),
    Dots("exact match", "#009E73", "s"),
    Dots("says it", "#E69F00", "^"),
)
MAGNITUDE = Dots("magnitude", "0.2", "o")
SIDES = {
    "entity": "Entity side: the object of a subject and a relation",
    "relation": "Relation side: the relation between a subject and an object",
}
# from top to bottom: groups that an edit should change, then groups that it should not
GROUPS = (
    "efficacy", "paraphrase", "portability", "removal", "removal paraphrase", "neighborhood",
    "other objects", "other relations",
)  # fmt: skip
CONTRASTS = {  # by side and group: "answer over rival"
    ("entity", "efficacy"): "new object over true one",
    ("entity", "paraphrase"): "new object over true one",
    ("entity", "portability"): "what follows from the edit",
    ("entity", "neighborhood"): "true object over new one",
    ("entity", "other relations"): "own answer over new object",
    ("relation", "efficacy"): "relation’s name over “None”",
    ("relation", "paraphrase"): "relation’s name over “None”",
    ("relation", "removal"): "“None” over relation’s name",
    ("relation", "removal paraphrase"): "“None” over relation’s name",
    ("relation", "neighborhood"): "relation’s name over “None”",
    ("relation", "other objects"): "own word over relation’s name",
    ("relation", "other relations"): "right name over edited one",
}
EXPLAINED = (
    "success: the answer is likelier than its rival (both in grey below the group); reciprocal "
    "rank: of the relation’s name among the names of all relations, also on removal prompts; exact "
    "match: each token of the answer is the likeliest one; says it: the greedy continuation starts "
    "with the answer; magnitude: probability of the answer − probability of its rival"
)
PROMPTS_EXPLAINED = (
    "add prompts and paraphrases contain the new object, remove prompts the true object; rows are "
    "sorted by the reciprocal rank on add prompts"
)
RANK = R_EFFICACY._replace(statistic="reciprocal rank")  # `by_relation` sorts by this measure
EDIT, REMOVE, PARAPHRASES = PROMPTS = (
    Dots("edit prompt, add prompt", "#0072B2", "o"),
    Dots("remove prompt", "#009E73", "s"),
    Dots("paraphrases", "#E69F00", "^"),
)
PANELS = (
    ScorePanel(
        "Relation side: relation’s\nname over “None”",
        "success (%)",
        {R_EFFICACY: EDIT, R_PARAPHRASE: PARAPHRASES},
    ),
    ScorePanel(
        "Relation side: rank of relation’s\nname among all relations’ names",
        "reciprocal rank × 100",
        {
            RANK: EDIT,
            RANK._replace(group="removal"): REMOVE,
            RANK._replace(group="paraphrase"): PARAPHRASES,
        },
    ),
    ScorePanel(
        "Entity side: new object\nover true one",
        "success (%)",
        {E_EFFICACY: EDIT, E_PARAPHRASE: PARAPHRASES},
    ),
)
KINDS = {  # a mark and a colour of Tol's palette
    "asymmetric": ("→", "black"),
    "hierarchical": ("⊂", "#882255"),
    "symmetric": ("↔", "#332288"),
}
FEW, FAINT = 10, 0.4  # means over fewer cases are pale: this share of the colour
SHOWN = {"neighborhood": "neighbours"}  # groups with another name in text
ROW, RELATION_ROW = 0.34, 0.14  # inches: height of a group; of a relation
NAME_WIDTH = 30  # characters shown of a relation's name


def score(scores: Scores, by: str = "") -> Figure:
    """Draws `by_relation` if `by` is "relation", otherwise `start`."""
    return by_relation(scores) if by == "relation" else start(scores)


@styled
def start(scores: Scores) -> Figure:
    """Draws a row for each group of probes: the entity side above, the relation side below."""
    measures = scores.overall
    sides = {side: _groups(measures, side) for side in SIDES}
    heights = [max(len(groups), 1) for groups in sides.values()]
    n_cases = max((measure.n_cases for measure in measures), default=0)
    caption = _caption(n_cases, scores.seed, EXPLAINED)
    title = titled("Benchmark scores before any edit", scores.model)
    figure = new_figure(DOUBLE, 1.2 + ROW * sum(heights), title, caption)
    axes = figure.subplots(
        2, 2, sharex="col", sharey="row", height_ratios=heights, width_ratios=(3, 1)
    )
    layout_of(figure).set(hspace=0.07)  # space between the two sides
    for (percents, points), (side, groups) in zip(axes, sides.items(), strict=True):
        percents.set_title(SIDES[side], fontweight="bold")
        _rows((percents, points), [SHOWN.get(group, group) for group in groups])
        _draw(percents, list(groups.values()), STATISTICS, 0.19, 3.2)
        _draw(points, list(groups.values()), [MAGNITUDE], 0, 3.2)
        for row, (group, label) in enumerate(zip(groups, percents.get_yticklabels(), strict=True)):
            label.set_verticalalignment("bottom")
            text = CONTRASTS.get((side, group), "")
            _note(percents, text, (0, row), (-3.5, -1), va="top")
            most = max(groups[group].values(), key=lambda measure: measure.n_prompts)
            _columns(points, row, most.n_cases, most.n_prompts)
    _columns(axes[0, 1], -0.5, "cases", "prompts", up=7)
    _percent_axes(axes[:, 0], "percent (reciprocal rank × 100)")
    _signed_axes(axes[:, 1], [m for m in measures if m.key.statistic == MAGNITUDE.name])
    _legend(figure, STATISTICS)
    return figure


@styled
def by_relation(scores: Scores) -> Figure:
    """Draws a row for each relation, sorted by the reciprocal rank of the relation's name."""
    by_name = scores.by_relation
    found = {name: _by_key(measures) for name, measures in by_name.items()}
    names = sorted(found, key=lambda name: (-_rank(found[name]), name))
    n_cases = {
        name: max((measure.n_cases for measure in by_name[name]), default=0) for name in names
    }
    caption = _caption(sum(n_cases.values()), scores.seed, PROMPTS_EXPLAINED)
    title = titled("Benchmark scores before any edit, by relation", scores.model)
    figure = new_figure(DOUBLE, 1.3 + RELATION_ROW * max(len(names), 6), title, caption)
    axes = figure.subplots(1, len(PANELS), sharey=True, width_ratios=(1, 1.35, 1))
    _rows(axes, [readable(name, NAME_WIDTH) for name in names])
    kinds = [scores.kinds.get(name, "") for name in names]
    _mark_kinds(axes[0], kinds)
    for ax, (title, unit, series) in zip(axes, PANELS, strict=True):
        ax.set_title(title)
        rows = [
            {dots: found[name][key] for key, dots in series.items() if key in found[name]}
            for name in names
        ]
        _draw(ax, rows, list(series.values()), 0.27, 2.2)
        _percent_axes([ax], unit)
    for row, name in enumerate(names):
        _columns(axes[-1], row, n_cases[name])
    _columns(axes[-1], -0.5, "cases", up=7)
    _legend(figure, PROMPTS, [kind for kind in KINDS if kind in kinds])
    return figure


def _groups(measures: Sequence[Measure], side: str) -> dict[str, dict[Dots, Measure]]:
    """The measures that `start` shows of one side, by group of probes and series."""
    found = _by_key(measures)
    groups = {
        group: {
            dots: found[key]
            for dots in (*STATISTICS, MAGNITUDE)
            if (key := Key(side, group, dots.name)) in found
        }
        for group in GROUPS
    }
    return {group: there for group, there in groups.items() if there}


def _by_key(measures: Sequence[Measure]) -> dict[Key, Measure]:
    """The measures that have a number before any edit, by key."""
    return {measure.key: measure for measure in measures if measure.before is not None}


def _rank(found: Mapping[Key, Measure]) -> float:
    """The value by which rows are sorted; rows without it come last."""
    return _bounds(found[RANK])[0] if RANK in found else -1


def _bounds(measure: Measure) -> tuple[float, float, float]:
    """Mean, low and high before any edit, times 100."""
    assert measure.before is not None  # _by_key leaves out the others
    return measure.before.floats(100)


def _draw(
    ax: Axes,
    rows: Sequence[Mapping[Dots, Measure]],
    series: Sequence[Dots],
    step: float,
    size: float,
) -> None:
    """Draws means as dots and intervals as lines; a single case has a hollow dot and no line.

    Means over fewer than FEW cases are pale.

    Args:
        rows: measures of each row, by series.
        series: the series to draw.
        step: distance between the dots of a row; rows have distance 1.
        size: size of a dot, in points.
    """
    for dots in series:
        measures = {}  # by height
        for row, found in enumerate(rows):
            there = [other for other in series if other in found]
            if dots in there:
                slot = there.index(dots) - (len(there) - 1) / 2
                measures[row + step * slot] = found[dots]
        heights = np.array(list(measures))
        bounds = np.array([_bounds(measure) for measure in measures.values()]).reshape(-1, 3)
        several = np.array([measure.n_cases > 1 for measure in measures.values()], dtype=bool)
        colours = [_colour(dots, measure) for measure in measures.values()]
        sure = [colour for colour, more in zip(colours, several, strict=True) if more]
        ax.hlines(heights[several], *bounds[several, 1:].T, colors=sure, linewidth=0.8)
        ax.scatter(
            bounds[:, 0],
            heights,
            s=size**2,
            marker=dots.shape,
            facecolors=[c if more else "white" for c, more in zip(colours, several, strict=True)],
            edgecolors=colours,
            linewidths=0.6,
            label=dots.name,
            zorder=3,
        )
    if not any(dots in found for found in rows for dots in series):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        where = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "no data", **where, color="0.35", bbox=box)


def _colour(dots: Dots, measure: Measure) -> tuple[float, float, float]:
    """The colour of the series, paler for a mean over few cases."""
    strength = 1.0 if measure.n_cases >= FEW else FAINT
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(dots.colour))
    return red, green, blue


def _rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Labels the rows from top to bottom and shades every second row."""
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        for row in range(0, len(labels), 2):
            ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(max(len(labels), 1) - 0.5, -0.5)


def _percent_axes(axes: Sequence[Axes], label: str) -> None:
    """Sets x axes to 0 to 100 %."""
    for ax in axes:
        ax.set_xlim(-3, 103)
        ax.set_xticks(range(0, 101, 25))
        ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
    axes[-1].set_xlabel(label)


def _signed_axes(axes: Sequence[Axes], measures: Sequence[Measure]) -> None:
    """Sets x axes with zero in the middle that are wide enough for all intervals."""
    bounds = [bound for measure in _by_key(measures).values() for bound in _bounds(measure)]
    width = 1.1 * np.abs(finite(np.array([1.0, *bounds]))).max()
    for ax in axes:
        ax.set_xlim(-width, width)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
        ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
    axes[-1].set_xlabel("magnitude\n(percentage points)")


def _mark_kinds(ax: Axes, kinds: Sequence[str]) -> None:
    """Gives the names of relations the mark and colour of their kind."""
    ax.tick_params(axis="y", pad=12)  # points: room for the marks
    for row, (label, kind) in enumerate(zip(ax.get_yticklabels(), kinds, strict=True)):
        mark, colour = KINDS.get(kind, ("", "black"))
        label.set_color(colour)
        _note(ax, mark, (0, row), (-3.5, 0), va="center", color=colour)


def _columns(ax: Axes, row: float, *texts: object, up: float = 0) -> None:
    """Writes texts in columns to the right of a row, `up` points above it."""
    for column, text in enumerate(texts):
        _note(ax, str(text), (1, row), (25 + 34 * column, up), va="center")


def _note(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **how: Any
) -> None:
    """Writes small text that ends `offset` points from `at` = (fraction of the width, row)."""
    how = {"fontsize": SMALL, "color": "0.35", "ha": "right", "annotation_clip": False} | how
    across = ax.get_yaxis_transform()
    ax.annotate(text, at, offset, xycoords=across, textcoords="offset points", **how)


def _legend(figure: Figure, series: Sequence[Dots], kinds: Sequence[str] = ()) -> None:
    """Adds legends of the series and of the kinds of relations below the title."""
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.2, linewidth=0.7)
        for _, colour, shape in series
    ]
    legend_above(figure, handles, [dots.name for dots in series])
    if kinds:
        marks = [
            Line2D(
                [], [], color=KINDS[kind][1], marker=_as_marker(KINDS[kind][0]), markersize=6,
                linewidth=0, markeredgewidth=0,
            )
            for kind in kinds
        ]  # fmt: skip
        legend_above(figure, marks, [f"{kind} relation" for kind in kinds])


def _as_marker(text: str) -> TextPath:
    """A character as the mark of a legend, centred."""
    size = 10
    shift = (-text_width(text, size) / 2, -size * 0.36)  # half of its width; of a capital's height
    return TextPath(shift, text, size=size, prop=FontProperties(family=FONT))


def _caption(n_cases: int, seed: int, explained: str) -> str:
    """The caption of both figures."""
    return (
        f"n = {plural(n_cases, 'case')}; seed {seed}; dots: means over cases; lines: "
        "95\u00a0% intervals over cases (Wilson’s for rates, bootstrap for magnitude and rank); "
        f"pale: fewer than {FEW} cases; hollow: a single case, no interval; "
        f"{explained}."
    )
