"""Figures of scores, read back from their artists."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation

from figures.score import (
    CONTRASTS,
    GROUPS,
    KINDS,
    PANELS,
    PROMPTS,
    RANK,
    SHOWN,
    SIDES,
    STATISTICS,
    by_relation,
    start,
)
from figures.score import FEW as FEWEST
from kedit.data import relations
from kedit.facts import Group
from kedit.results.measures import Key, Measure, Scores
from kedit.results.scores import EditScore, ProbeScore
from kedit.scoring.summary import E_EFFICACY, R_EFFICACY, measures
from kedit.stats import Interval
from tests.figure_checks import caption_of

MODEL = "gemma-3-270m"
NAMES = relations.labels()
FEW = NAMES[:5]
TABLE = relations.table().values()
KIND_OF = {described.relation.name: described.relation.kind for described in TABLE}
NEITHER = "neighborhood", "other relations"
LACKING = {  # (side, group) without the statistic
    "success": {("entity", "portability")},
    "magnitude": {("entity", "portability")},
    "exact match": set(),
    "says it": {(side, group) for side in SIDES for group in NEITHER},
    "reciprocal rank": {("entity", group) for group in GROUPS},
}


def interval(low, mean, high):
    return Interval(*map(np.array, (mean, low, high)))


def made_up(seed, n_cases=20):
    """Measures of every group on both sides, as far as its probes have them."""
    draw = np.random.default_rng(seed)
    return [
        Measure(
            Key(*place, statistic),
            interval(*np.sort(draw.uniform(-1 if statistic == "magnitude" else 0, 1, 3))),
            None,
            None,
            n_cases,
            n_prompts=10 * n_cases + row,
        )
        for row, place in enumerate(CONTRASTS)
        for statistic, without in LACKING.items()
        if place not in without
    ]


def scores_of(found=(), *, each=None, kinds=KIND_OF, model=MODEL):
    each = {name: tuple(own) for name, own in (each or {}).items()}
    perplexity = interval(20.0, 21.0, 22.0)
    return Scores(model, 0, tuple(found), each, kinds, perplexity, "a text", 16, 20, {})


def of_each(names=NAMES):
    return {name: made_up(seed) for seed, name in enumerate(names)}


def entity_only(found):
    return [one for one in found if one.key.perspective == "entity"]


def series(ax: Axes) -> dict[str, PathCollection]:
    return {str(one.get_label()): one for one in ax.collections if isinstance(one, PathCollection)}


def offsets(ax: Axes, name: str) -> np.ndarray:
    """Number and height of the dots of one series."""
    return np.asarray(series(ax)[name].get_offsets())


def points(ax: Axes, name: str) -> dict[int, float]:
    """The numbers of one series, by row."""
    return {round(height): x for x, height in offsets(ax, name)}


def lines(ax: Axes, name: str) -> dict[int, tuple[float, float]]:
    """The ends of the intervals that belong to the dots of one series, by row."""
    dots = series(ax)[name]
    drawn = ax.collections[list(ax.collections).index(dots) - 1]
    assert isinstance(drawn, LineCollection)
    ends = [np.asarray(segment) for segment in drawn.get_segments()]
    if ends:
        assert {*map(tuple, np.asarray(drawn.get_colors()))} <= {
            *map(tuple, np.asarray(dots.get_edgecolor()))
        }
    heights = set(offsets(ax, name)[:, 1])
    assert {height for segment in ends for height in segment[:, 1]} <= heights
    return {round(left[1]): (left[0], right[0]) for left, right in ends}


def rows(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def notes(ax: Axes) -> list[tuple[float, str]]:
    """What is written beside the rows, with the row."""
    return [(one.xy[1], one.get_text()) for one in ax.texts if isinstance(one, Annotation)]


def is_empty(ax: Axes) -> bool:
    return [text.get_text() for text in ax.texts].count("no data") == 1


def percent(measure: Measure) -> tuple[float, float, float]:
    assert measure.before is not None
    mean, low, high = (100 * float(value) for value in measure.before)
    return mean, low, high


WHOLE_FILE = [replace(one, n_cases=21919, n_prompts=219190) for one in made_up(0)]
SINGLE = [replace(one, n_cases=1, n_prompts=1) for one in made_up(0)]


def test_every_figure_says_what_it_shows():
    for figure in (start(scores_of(WHOLE_FILE)), by_relation(scores_of(each=of_each(FEW)))):
        assert MODEL in figure.get_suptitle()
        caption = caption_of(figure)
        wanted = (" cases; seed 0", "intervals over cases", "Wilson", "bootstrap", "single case")
        assert all(part in caption for part in wanted), caption


def test_by_relation_is_no_longer_than_a_page():
    width, height = by_relation(scores_of(each=of_each())).get_size_inches()
    assert width == 7 and height < 7.5


def test_start_holds_the_numbers_in_percent_the_sides_apart():
    found = made_up(0)
    figure = start(scores_of(found))
    for ax, side in zip(figure.axes[::2], SIDES, strict=True):
        assert ax.get_title("left") == SIDES[side]
        assert ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > 100
        for statistic in STATISTICS:
            there = {
                rows(ax).index(SHOWN.get(one.key.group, one.key.group)): percent(one)
                for one in found
                if one.key[::2] == (side, statistic.name)
            }
            assert points(ax, statistic.name) == {row: mean for row, (mean, *_) in there.items()}
            ends = {row: (low, high) for row, (_, low, high) in there.items()}
            assert lines(ax, statistic.name) == ends


def test_start_orders_the_groups_from_top_to_bottom_and_names_what_is_weighed():
    figure = start(scores_of(made_up(0)[::-1]))
    for ax, side in zip(figure.axes[::2], SIDES, strict=True):
        groups = [group for group in GROUPS if (side, group) in CONTRASTS]
        assert rows(ax) == [SHOWN.get(group, group) for group in groups]
        assert ax.yaxis_inverted()
        weighed = [(row, CONTRASTS[side, group]) for row, group in enumerate(groups)]
        assert notes(ax) == weighed


def test_the_dots_of_a_row_lie_below_one_another_about_its_middle():
    figure = start(scores_of(made_up(0)))
    for ax, names in (
        (figure.axes[2], ["success", "reciprocal rank", "exact match", "says it"]),
        (figure.axes[0], ["success", "exact match", "says it"]),
    ):
        heights = [offsets(ax, name)[0, 1] for name in names]
        assert (np.diff(heights) > 0.15).all() and max(heights) < 0.45
        np.testing.assert_allclose(np.mean(heights), 0, atol=1e-9)


def test_magnitudes_have_an_axis_of_their_own_centred_on_zero():
    found = [one for one in made_up(0) if one.key.statistic == "magnitude"]
    figure = start(scores_of(made_up(0)))
    furthest = max(abs(bound) for one in found for bound in percent(one))
    for left, right, side in zip(figure.axes[::2], figure.axes[1::2], SIDES, strict=True):
        assert list(series(right)) == ["magnitude"] and "magnitude" not in series(left)
        assert -right.get_xlim()[0] == right.get_xlim()[1] > furthest
        for one in found:
            if one.key.perspective == side:
                mean, *ends = percent(one)
                row = rows(left).index(SHOWN.get(one.key.group, one.key.group))
                assert points(right, "magnitude")[row] == mean
                assert lines(right, "magnitude")[row] == tuple(ends)


def test_start_writes_cases_and_prompts_beside_each_row():
    figure = start(scores_of(made_up(0, n_cases=17)))
    for left, right, side in zip(figure.axes[::2], figure.axes[1::2], SIDES, strict=True):
        groups = [group for group in GROUPS if (side, group) in CONTRASTS]
        assert len(rows(left)) == len(groups)
        places = [list(CONTRASTS).index((side, group)) for group in groups]
        wanted = [
            (row, text) for row, place in enumerate(places) for text in ("17", str(170 + place))
        ]
        heads = [(-0.5, "cases"), (-0.5, "prompts")] if side == "entity" else []
        assert notes(right) == wanted + heads
    assert "n = 17 cases" in caption_of(figure)


def test_start_says_what_its_colours_and_shapes_mean():
    (legend,) = start(scores_of(made_up(0))).legends
    assert [text.get_text() for text in legend.get_texts()] == [one.name for one in STATISTICS]
    handles = [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
    assert handles == [(one.colour, one.shape) for one in STATISTICS]
    assert len({one.colour for one in STATISTICS}) == len({one.shape for one in STATISTICS}) == 4


def test_what_has_no_number_before_the_edit_is_left_out():
    after = interval(0.4, 0.5, 0.6)
    lifts = Measure(Key("entity", "Score", "lifts"), None, after, None, 3, 9)
    only_after = Measure(E_EFFICACY, None, after, None, 3, 9)
    whole = Measure(Key("entity", "Score", "harmonic mean"), after, None, None, 3, 9)
    figure = start(scores_of([lifts, only_after, whole]))
    assert rows(figure.axes[0]) == [] and all(map(is_empty, figure.axes))
    figure = by_relation(scores_of(each={"country": [lifts, only_after, whole]}, kinds={}))
    assert rows(figure.axes[0]) == ["country"] and all(map(is_empty, figure.axes))


def test_a_file_without_a_relation_side_leaves_those_panels_empty():
    figure = start(scores_of(entity_only(made_up(0))))
    assert [is_empty(ax) for ax in figure.axes] == [False, False, True, True]
    each = {name: entity_only(found) for name, found in of_each().items()}
    figure = by_relation(scores_of(each=each))
    assert [is_empty(ax) for ax in figure.axes] == [True, True, False]
    assert rows(figure.axes[0]) == sorted(NAMES)


@pytest.mark.parametrize(("n_cases", "hollow"), [(1, True), (2, False)])
def test_a_single_case_is_hollow_and_has_no_interval(n_cases, hollow):
    found = made_up(0, n_cases)
    figure = by_relation(scores_of(each={"country": found, "capital": made_up(1)}))
    row, ax = rows(figure.axes[0]).index("country"), figure.axes[1]
    for prompt in PROMPTS:
        faces = np.asarray(series(ax)[prompt.name].get_facecolor())
        assert (faces == 1).all(1).tolist() == [place == row and hollow for place in range(2)]
        assert (row in lines(ax, prompt.name)) != hollow
        assert row in points(ax, prompt.name)


def test_relations_are_sorted_by_the_rank_of_their_names():
    each = of_each() | {"a relation without ranks": entity_only(made_up(0))}
    figure = by_relation(scores_of(each=each))
    names = rows(figure.axes[0])
    assert len(names) == 35 and names[-1] == "a relation without ranks"
    ranks = [
        percent(one)[0] for name in names[:-1] for one in each[name] if one.key == RANK
    ]  # from top to bottom
    assert ranks == sorted(ranks, reverse=True) and figure.axes[0].yaxis_inverted()
    assert points(figure.axes[1], PROMPTS[0].name) == dict(enumerate(ranks))


def test_by_relation_holds_the_numbers_of_every_row():
    each = of_each()
    figure = by_relation(scores_of(each=each))
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    names = rows(figure.axes[0])
    assert set(names) == set(NAMES)
    by_key = [{one.key: percent(one) for one in each[name]} for name in names]
    for ax, panel in zip(figure.axes, PANELS, strict=True):
        assert ax.get_title("left") == panel.title and ax.get_xlabel() == panel.unit
        for key, dots in panel.series.items():
            assert points(ax, dots.name) == {row: own[key][0] for row, own in enumerate(by_key)}
            assert lines(ax, dots.name) == {row: own[key][1:] for row, own in enumerate(by_key)}


def test_a_relation_without_one_statistic_keeps_its_row():
    each = of_each(FEW)
    each[FEW[1]] = [one for one in each[FEW[1]] if one.key != R_EFFICACY]
    ax = by_relation(scores_of(each=each)).axes[0]
    row = rows(ax).index(FEW[1])
    first, _, paraphrases = PROMPTS
    assert set(points(ax, first.name)) == set(range(5)) - {row}
    assert set(points(ax, paraphrases.name)) == set(range(5))


def test_relations_carry_the_mark_and_the_colour_of_their_kind_and_their_cases():
    each = {name: made_up(seed, n_cases=seed + 2) for seed, name in enumerate(NAMES)}
    figure = by_relation(scores_of(each=each, kinds={**KIND_OF, "country": ""}))
    left, right = figure.axes[0], figure.axes[-1]
    for row, label in enumerate(left.get_yticklabels()):
        name = label.get_text()
        mark, colour = ("", "black") if name == "country" else KINDS[KIND_OF[name]]
        assert label.get_color() == colour
        assert notes(left)[row] == (row, mark)
        assert notes(right)[row] == (row, str(NAMES.index(name) + 2))
    explained = figure.legends[1]
    assert [text.get_text() for text in explained.get_texts()] == [f"{k} relation" for k in KINDS]
    assert [line.get_color() for line in explained.get_lines()] == [c for _, c in KINDS.values()]
    assert notes(right)[34:] == [(-0.5, "cases")]
    assert f"n = {sum(range(2, 36))} cases" in caption_of(figure)


def test_by_relation_shows_which_prompts_its_legend_and_its_titles_name():
    edit, remove, paraphrases = PROMPTS
    success, rank, objects = (panel.series for panel in PANELS)
    assert success == {
        Key("relation", "efficacy", "success"): edit,
        Key("relation", "paraphrase", "success"): paraphrases,
    }
    assert rank == {
        Key("relation", "efficacy", "reciprocal rank"): edit,
        Key("relation", "removal", "reciprocal rank"): remove,
        Key("relation", "paraphrase", "reciprocal rank"): paraphrases,
    }
    assert objects == {
        Key("entity", "efficacy", "success"): edit,
        Key("entity", "paraphrase", "success"): paraphrases,
    }
    legend = by_relation(scores_of(each=of_each(FEW))).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [one.name for one in PROMPTS]


def test_a_long_name_is_shortened():
    long = {f"{name} of a film or of a television programme": made_up(0) for name in FEW}
    names = rows(by_relation(scores_of(each=long)).axes[0])
    assert {len(name) for name in names} == {30} and all(name[-1] == "…" for name in names)


def test_every_group_of_probes_has_its_place():
    assert set(GROUPS) == set(get_args(Group))
    assert {group for _, group in CONTRASTS} == set(GROUPS)


def test_measures_of_scores_are_drawn_as_they_come():
    def case(id, logprob, rank):
        entity = ProbeScore("entity", "efficacy", "a", "b", "c", logprob, -2.0, False)
        relation = ProbeScore(
            "relation", "efficacy", "a", "b", "None", -1.0, -2.0, False, rank, "b c", says=True
        )
        return EditScore(id, "country", "hierarchical", (entity, relation), None, {})

    found = measures([case("1", -1.0, 1), case("2", -3.0, 2), case("3", -3.0, 4)], draws=50)
    figure = start(scores_of(found))
    above, below = figure.axes[::2]
    assert points(above, "success") == {0: pytest.approx(100 / 3)}
    assert points(below, "success") == {0: 100}
    assert points(below, "reciprocal rank") == {0: pytest.approx(100 * (1 + 1 / 2 + 1 / 4) / 3)}
    assert points(above, "says it") == {} and points(below, "says it") == {0: 100}
    assert notes(figure.axes[3]) == [(0, "3"), (0, "3")]


def test_what_rests_on_few_cases_is_pale():
    each = {"capital": made_up(0, n_cases=FEWEST - 1), "country": made_up(0, n_cases=FEWEST)}
    ax = by_relation(scores_of(each=each)).axes[0]
    edges = np.asarray(series(ax)[PROMPTS[0].name].get_edgecolor())[:, :3]
    pale, full = (edges[rows(ax).index(name)] for name in each)
    np.testing.assert_allclose(full, to_rgb(PROMPTS[0].colour))
    assert (pale >= full).all() and pale.sum() > full.sum() + 0.5
