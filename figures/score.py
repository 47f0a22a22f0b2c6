"""Where a model stands before any edit: both sides, group by group; and relation by relation."""

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
    """What a series of measures is called, and how it looks."""

    name: str
    colour: str  # Okabe and Ito's, as in style.py
    shape: str


class ScorePanel(NamedTuple):
    """A column of `by_relation`, and which measures are its series."""

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
# from top to bottom: what an edit is to change, then what it is to leave
GROUPS = (
    "efficacy", "paraphrase", "portability", "removal", "removal paraphrase", "neighborhood",
    "other objects", "other relations",
)  # fmt: skip
CONTRASTS = {  # the answer and its rival, by side and group
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
    "success: the answer is likelier than its rival (named in grey); reciprocal rank: of the "
    "relation’s name among all relations’ names, on removal prompts too; exact match: all tokens "
    "of the answer are the likeliest; says it: greedy text opens with the answer; magnitude: "
    "probability of the answer − of its rival"
)
PROMPTS_EXPLAINED = (
    "add prompts and paraphrases name the new object, remove prompts the true one; rows are "
    "sorted by the rank on add prompts"
)
RANK = R_EFFICACY._replace(statistic="reciprocal rank")  # what `by_relation` sorts by
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
KINDS = {  # a mark and a colour; Tol's
    "asymmetric": ("→", "black"),
    "hierarchical": ("⊂", "#882255"),
    "symmetric": ("↔", "#332288"),
}
FEW, FAINT = 10, 0.4  # fewer cases than these are drawn faintly: so much of the colour
SHOWN = {"neighborhood": "neighbours"}  # groups that go by another name in text
ROW, RELATION_ROW = 0.34, 0.14  # inches
NAME_WIDTH = 30  # characters of a relation's name


def score(scores: Scores, by: str = "") -> Figure:
    """The figure of a model's scores: `start`, or `by_relation` where `by` is "relation"."""
    return by_relation(scores) if by == "relation" else start(scores)


@styled
def start(scores: Scores) -> Figure:
    """A row for each group of probes, the entity side above the relation side."""
    measures = scores.overall
    sides = {side: _groups(measures, side) for side in SIDES}
    heights = [max(len(groups), 1) for groups in sides.values()]
    n_cases = max((one.n_cases for one in measures), default=0)
    caption = _caption(n_cases, scores.seed, EXPLAINED)
    title = titled("Where the model stands before any edit", scores.model)
    figure = new_figure(DOUBLE, 1.2 + ROW * sum(heights), title, caption)
    axes = figure.subplots(
        2, 2, sharex="col", sharey="row", height_ratios=heights, width_ratios=(3, 1)
    )
    layout_of(figure).set(hspace=0.07)  # sets the sides apart
    for (percents, points), (side, groups) in zip(axes, sides.items(), strict=True):
        percents.set_title(SIDES[side], fontweight="bold")
        _rows((percents, points), [SHOWN.get(group, group) for group in groups])
        _draw(percents, list(groups.values()), STATISTICS, 0.19, 3.2)
        _draw(points, list(groups.values()), [MAGNITUDE], 0, 3.2)
        for row, (group, label) in enumerate(zip(groups, percents.get_yticklabels(), strict=True)):
            label.set_verticalalignment("bottom")
            text = CONTRASTS.get((side, group), "")
            _note(percents, text, (0, row), (-3.5, -1), va="top")
            most = max(groups[group].values(), key=lambda one: one.n_prompts)
            _columns(points, row, most.n_cases, most.n_prompts)
    _columns(axes[0, 1], -0.5, "cases", "prompts", up=7)
    _percent_axes(axes[:, 0], "percent (reciprocal rank × 100)")
    _signed_axes(axes[:, 1], [one for one in measures if one.key.statistic == MAGNITUDE.name])
    _legend(figure, STATISTICS)
    return figure


@styled
def by_relation(scores: Scores) -> Figure:
    """A row for each relation, from the one whose name ranks best to the one whose ranks worst."""
    each = scores.by_relation
    found = {name: _by_key(measures) for name, measures in each.items()}
    names = sorted(found, key=lambda name: (-_rank(found[name]), name))
    n_cases = {name: max((one.n_cases for one in each[name]), default=0) for name in names}
    caption = _caption(sum(n_cases.values()), scores.seed, PROMPTS_EXPLAINED)
    title = titled("Where the model stands before any edit, by relation", scores.model)
    figure = new_figure(DOUBLE, 1.3 + RELATION_ROW * max(len(names), 6), title, caption)
    axes = figure.subplots(1, len(PANELS), sharey=True, width_ratios=(1, 1.35, 1))
    _rows(axes, [readable(name, NAME_WIDTH) for name in names])
    own = [scores.kinds.get(name, "") for name in names]
    _mark_kinds(axes[0], own)
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
    _legend(figure, PROMPTS, [kind for kind in KINDS if kind in own])
    return figure


def _groups(measures: Sequence[Measure], side: str) -> dict[str, dict[Dots, Measure]]:
    """What `start` shows of one side, by group of probes."""
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
    return {one.key: one for one in measures if one.before is not None}


def _rank(found: Mapping[Key, Measure]) -> float:
    """What the rows are sorted by; those without it come last."""
    return _bounds(found[RANK])[0] if RANK in found else -1


def _bounds(measure: Measure) -> tuple[float, float, float]:
    """Mean, low and high before an edit, times 100."""
    assert measure.before is not None  # _by_key leaves the others out
    return measure.before.floats(100)


def _draw(
    ax: Axes,
    rows: Sequence[Mapping[Dots, Measure]],
    series: Sequence[Dots],
    step: float,
    size: float,
) -> None:
    """Means as dots with intervals as lines; a single case has none, and a hollow dot.

    What rests on fewer than FEW cases is faint.

    Args:
        step: of a row: how far its dots are below one another.
        size: of a dot, in points.
    """
    for dots in series:
        places = {}  # by height
        for row, found in enumerate(rows):
            there = [one for one in series if one in found]
            if dots in there:
                slot = there.index(dots) - (len(there) - 1) / 2
                places[row + step * slot] = found[dots]
        heights = np.array(list(places))
        bounds = np.array([_bounds(one) for one in places.values()]).reshape(-1, 3)
        several = np.array([one.n_cases > 1 for one in places.values()], dtype=bool)
        colours = [_colour(dots, one) for one in places.values()]
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
        ax.text(0.5, 0.5, "empty", **where, color="0.35", bbox=box)


def _colour(dots: Dots, measure: Measure) -> tuple[float, float, float]:
    """The series' colour, paler where it rests on few cases."""
    kept = 1.0 if measure.n_cases >= FEW else FAINT
    red, green, blue = (1 - kept * (1 - part) for part in to_rgb(dots.colour))
    return red, green, blue


def _rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """From top to bottom, every other one shaded."""
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        for row in range(0, len(labels), 2):
            ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(max(len(labels), 1) - 0.5, -0.5)


def _percent_axes(axes: Sequence[Axes], label: str) -> None:
    for ax in axes:
        ax.set_xlim(-3, 103)
        ax.set_xticks(range(0, 101, 25))
        ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
    axes[-1].set_xlabel(label)


def _signed_axes(axes: Sequence[Axes], measures: Sequence[Measure]) -> None:
    """Zero in the middle, wide enough for every interval."""
    bounds = [bound for one in _by_key(measures).values() for bound in _bounds(one)]
    width = 1.1 * np.abs(finite(np.array([1.0, *bounds]))).max()
    for ax in axes:
        ax.set_xlim(-width, width)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
        ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=1)
    axes[-1].set_xlabel("magnitude\n(percentage points)")


def _mark_kinds(ax: Axes, kinds: Sequence[str]) -> None:
    """Marks and colours for the rows' names."""
    ax.tick_params(axis="y", pad=12)  # points: room for the marks
    for row, (label, kind) in enumerate(zip(ax.get_yticklabels(), kinds, strict=True)):
        mark, colour = KINDS.get(kind, ("", "black"))
        label.set_color(colour)
        _note(ax, mark, (0, row), (-3.5, 0), va="center", color=colour)


def _columns(ax: Axes, row: float, *texts: object, up: float = 0) -> None:
    """Right of the row, or `up` points above it."""
    for column, text in enumerate(texts):
        _note(ax, str(text), (1, row), (25 + 34 * column, up), va="center")


def _note(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **how: Any
) -> None:
    """Small print beside the panel, ending `offset` points from `at`: across it (0 to 1), row."""
    how = {"fontsize": SMALL, "color": "0.35", "ha": "right", "annotation_clip": False} | how
    across = ax.get_yaxis_transform()
    ax.annotate(text, at, offset, xycoords=across, textcoords="offset points", **how)


def _legend(figure: Figure, series: Sequence[Dots], kinds: Sequence[str] = ()) -> None:
    """Below the title: the series, then what the relations' marks mean."""
    handles = [
        Line2D([], [], color=colour, marker=shape, markersize=3.2, linewidth=0.7)
        for _, colour, shape in series
    ]
    legend_above(figure, handles, [one.name for one in series])
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
    """A character as the mark of a legend, in its middle."""
    size = 10
    shift = (-text_width(text, size) / 2, -size * 0.36)  # half of its width; of a capital's height
    return TextPath(shift, text, size=size, prop=FontProperties(family=FONT))


def _caption(n_cases: int, seed: int, explained: str) -> str:
    return (
        f"n = {plural(n_cases, 'case')}; seed {seed}; means over cases, lines: "
        "95\u00a0% intervals over cases (Wilson’s of rates, of magnitude and rank by the "
        f"bootstrap), pale: fewer than {FEW} cases, hollow: a single case, no interval; "
        f"{explained}."
    )
