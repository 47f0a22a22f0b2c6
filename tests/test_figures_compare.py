"""The figure of an editor comparison, read back from its artists."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from figures.compare import BAND, COLOURS, NAME_WIDTH, SHADE, SHAPES, SLOT, STAYS, compared
from figures.score import CONTRASTS, SHOWN
from figures.style import Source, readable
from kedit.results.compared import Compared, Costs
from kedit.results.scores import EditScore, ProbeScore
from kedit.scoring.summary import E_EFFICACY, Key, Measure, changes
from kedit.stats import Interval
from kedit.studies.comparison import Comparison
from tests.figure_checks import caption_of

SOURCE = Source("gemma-3-270m", "rake.jsonl; seed 0")
SIDES = ("entity", "relation")
STATISTICS = ("success", "magnitude")
THREE = ("rome", "memit", "ft")
LONG = (
    "rome:where=last:training.clamp=1",
    "rome:where=last:training.clamp=4",
    "memit",
    "memit:layers=4,5,6:where=subject:relation=upstream:training.steps=20",
    "ft",
    "ft+l:bound=0.001",
)
PLACES = [place for place in CONTRASTS if place[1] != "portability"]
NOTHING = Interval(*np.full((3,), np.nan))


def interval(draw, statistic):
    low, mean, high = np.sort(draw.uniform(-1 if statistic == "magnitude" else 0, 1, 3))
    return Interval(*map(np.array, (mean, low, high)))


def made_up(seed, n_cases=20) -> list[Measure]:
    """Changes of every group; before the edit they are the same whatever the seed."""
    old, new = np.random.default_rng(0), np.random.default_rng(seed + 1)
    return [
        Measure(
            Key(*place, statistic),
            interval(old, statistic),
            interval(new, statistic),
            None,
            n_cases,
            3 * n_cases,
        )
        for place in PLACES
        for statistic in STATISTICS
    ]


def made_up_arms(names: Sequence[str] = THREE, sides: Sequence[str] = SIDES, **how):
    seeds = iter(range(99))
    return {side: {name: made_up(next(seeds), **how) for name in names} for side in sides}


def comparison_of(names: Sequence[str], model: str, n_cases: int = 20) -> Comparison:
    """Made-up editors, edited from both sides."""
    whole = Interval(*map(np.array, (0.8, 0.7, 0.9)))
    costs = Costs(failed=2, seconds=1.5, mib=12.0, perplexity=27.5, kl=0.01, norm=0.2)
    editors = tuple(
        Compared(name, side, tuple(measures), whole, whole, (), (), costs, True)
        for side, arms in made_up_arms(names, n_cases=n_cases).items()
        for name, measures in arms.items()
    )
    return Comparison(model, n_cases, 0, 25.9, "text that is held out", editors)


def entity_only(measures):
    return [one for one in measures if one.key.perspective == "entity"]


def percent(found: Interval | None) -> tuple[float, float, float]:
    assert found is not None
    mean, low, high = (100 * float(value) for value in found)
    return mean, low, high


def panels(figure: Figure, arms: Mapping) -> dict[tuple[str, str, str], Axes]:
    """Axes by (side probed, side edited, statistic)."""
    per_row = 2 * len(arms)
    sides = [ax.get_title("left").split()[0].lower() for ax in figure.axes[::per_row]]
    keys = [(side, edited, name) for side in sides for edited in arms for name in STATISTICS]
    return dict(zip(keys, figure.axes, strict=True))


def rows(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def series(ax: Axes) -> dict[str, PathCollection]:
    return {str(one.get_label()): one for one in ax.collections if isinstance(one, PathCollection)}


def offsets(ax: Axes, name: str) -> np.ndarray:
    """Number and height of an editor's dots."""
    return np.asarray(series(ax)[name].get_offsets())


def dots(ax: Axes, name: str) -> dict[int, float]:
    """What an editor's dots say, by row."""
    return {round(height): x for x, height in offsets(ax, name)}


def faces(drawn: Collection) -> list[str]:
    return [to_hex(face) for face in np.asarray(drawn.get_facecolor())]


def lines(ax: Axes, name: str) -> dict[int, tuple[float, float]]:
    """The ends of an editor's intervals, by row; at the heights of its dots."""
    drawn = ax.collections[list(ax.collections).index(series(ax)[name]) - 1]
    assert isinstance(drawn, LineCollection)
    ends = [np.asarray(segment) for segment in drawn.get_segments()]
    heights = set(offsets(ax, name)[:, 1])
    assert {height for segment in ends for height in segment[:, 1]} <= heights
    return {round(left[1]): (left[0], right[0]) for left, right in ends}


def ticks(ax: Axes) -> list[tuple[float, float, float]]:
    """Number, top and bottom of what is upright: the values before any edit."""
    drawn = [one for one in ax.collections if isinstance(one, LineCollection)]
    ends = [np.asarray(segment) for one in drawn for segment in one.get_segments()]
    return [(a[0], a[1], b[1]) for a, b in ends if a[1] != b[1]]


def bands(ax: Axes) -> list[tuple[float, ...]]:
    """Low, high, top and bottom of the intervals before any edit."""
    drawn = [one for one in ax.collections if isinstance(one, PolyCollection)]
    assert all(faces(one) == [to_hex(BAND)] for one in drawn)
    boxes = [one.get_paths()[0].get_extents() for one in drawn]
    return [(box.x0, box.x1, box.y0, box.y1) for box in boxes]


def notes(ax: Axes) -> list[str]:
    return [one.get_text() for one in ax.texts]


def legend(figure: Figure, which: int) -> list[str]:
    return [text.get_text() for text in figure.legends[which].get_texts()]


@cache
def three() -> tuple[Figure, Mapping[str, Mapping[str, list[Measure]]]]:
    """Drawn once, for the tests that only look."""
    arms = made_up_arms()
    return compared(arms, SOURCE, FAILED), arms


ONE_SIDED = {"entity": {"rome": entity_only(made_up(0))}}
FAILED = {("entity", "ft"): 3, ("relation", "ft"): 12, ("relation", "memit"): 1}
WHOLE_FILE = made_up_arms(["rome"], n_cases=21919) | {"entity": {"rome": made_up(0, n_cases=1)}}
MANY = [*LONG, "$x_1$", "東京都庁舎"]


def test_the_figure_says_what_it_shows():
    caption = caption_of(three()[0])
    wanted = (
        "n = 20 cases",
        SOURCE.details,
        "Wilson’s",
        "bootstrap",
        "before any edit",
        "no interval",
    )
    assert all(part in caption for part in wanted), caption


def test_two_editors_more_do_not_take_a_page_more():
    figure = compared(made_up_arms(LONG), SOURCE, FAILED)
    width, height = figure.get_size_inches()
    assert width == 7 and height < 10.2  # A4, less three quarters of an inch at both ends


def test_dots_are_means_after_the_edit_in_percent_and_lines_their_intervals():
    figure, arms = three()
    for (side, edited, statistic), ax in panels(figure, arms).items():
        assert list(series(ax)) == list(THREE)
        groups = [group for probed, group in PLACES if probed == side]
        for name in THREE:
            after = {
                groups.index(one.key.group): percent(one.after)
                for one in arms[edited][name]
                if one.key[::2] == (side, statistic)
            }
            assert dots(ax, name) == {row: mean for row, (mean, *_) in after.items()}
            assert lines(ax, name) == {row: (low, high) for row, (_, low, high) in after.items()}


def test_editors_keep_colour_shape_and_place_in_every_row_and_in_the_legend():
    arms = {"entity": {name: made_up(0) for name in LONG}, "relation": {"ft": made_up(1)}}
    figure = compared(arms, SOURCE, {})
    for name, line in zip(legend(figure, 1), figure.legends[1].get_lines(), strict=True):
        place = next(n for n, one in enumerate(LONG) if readable(one, NAME_WIDTH) == name)
        assert (line.get_color(), line.get_marker()) == (COLOURS[place], SHAPES[place])
    assert len({*COLOURS}) == 8 and len({*SHAPES}) == 7
    row = 7.3 * SLOT  # six editors and what sets them apart from the next row's
    for (_, edited, _), ax in panels(figure, arms).items():
        for place, (name, colour) in enumerate(zip(LONG, COLOURS[: len(LONG)], strict=True)):
            if edited == "relation" and name != "ft":
                assert not len(offsets(ax, name))
                continue
            assert set(faces(series(ax)[name])) == {colour.lower()}
            within = offsets(ax, name)[:, 1] - range(len(offsets(ax, name)))
            np.testing.assert_allclose(within, (place - 2.5) * SLOT / row, atol=1e-9)
    eight = compared({"entity": {name: [] for name in MANY}}, SOURCE, {})
    looks = {(line.get_color(), line.get_marker()) for line in eight.legends[1].get_lines()}
    assert len(looks) == 8


def test_one_tick_and_one_band_a_row_show_what_was_before_any_edit():
    figure, arms = three()
    for (side, edited, statistic), ax in panels(figure, arms).items():
        before = [
            percent(one.before) for one in arms[edited]["rome"] if one.key[::2] == (side, statistic)
        ]
        assert [x for x, *_ in ticks(ax)] == [mean for mean, *_ in before]
        np.testing.assert_allclose([band[:2] for band in bands(ax)], [ends for _, *ends in before])
        for row, (_, top, bottom) in enumerate(ticks(ax)):
            heights = [offsets(ax, name)[row, 1] for name in THREE]
            assert row - 0.5 < top < min(heights) < max(heights) < bottom < row + 0.5
            np.testing.assert_allclose(bands(ax)[row][2:], (top, bottom))


def test_editors_whose_cases_differ_have_their_own_value_before():
    one, other = made_up(0)[:1], made_up(1)[:1]
    other = [replace(other[0], before=other[0].after)]
    arms = {"entity": {"rome": one, "memit": one, "ft": other}}
    ax = panels(compared(arms, SOURCE, {}), arms)["entity", "entity", "success"]
    assert [x for x, *_ in ticks(ax)] == [percent(one[0].before)[0], percent(other[0].before)[0]]
    (_, first, between), (_, start, last) = ticks(ax)
    rome, memit, ft = (offsets(ax, name)[0, 1] for name in THREE)
    assert first < rome < memit < between and start < ft < last and memit < start
    assert len(bands(ax)) == 2


def test_what_is_not_a_number_is_left_out():
    old, new = made_up(0), made_up(1)
    gone = {E_EFFICACY, Key("relation", "removal", "magnitude")}
    new = [replace(one, after=NOTHING) if one.key in gone else one for one in new]
    new[4] = replace(new[4], before=NOTHING)  # success of neighborhood
    mean, *_ = new[2].after or NOTHING  # success of paraphrase
    new[2] = replace(new[2], after=Interval(mean, *NOTHING[1:]))
    arms = {"entity": {"rome": old, "memit": new}}
    shown = panels(compared(arms, SOURCE, {}), arms)
    ax = shown["entity", "entity", "success"]
    assert set(dots(ax, "rome")) == set(range(4)) and set(dots(ax, "memit")) == {1, 2, 3}
    assert dots(ax, "memit")[1] == 100 * float(mean) and set(lines(ax, "memit")) == {2, 3}
    hollow = [face == "#ffffff" for face in faces(series(ax)["memit"])]
    assert hollow == [True, False, False]  # no interval, so hollow
    assert len(ticks(ax)) == 4 and np.isfinite(ticks(ax)).all() and np.isfinite(bands(ax)).all()
    assert set(dots(shown["relation", "entity", "magnitude"], "memit")) == {0, 1, 3, 4, 5, 6}
    assert all(np.isfinite(ax.get_xlim()).all() for ax in shown.values())


@pytest.mark.parametrize(("n_cases", "hollow"), [(1, True), (2, False)])
def test_a_single_case_is_hollow_and_has_no_interval(n_cases, hollow):
    for ax in compared({"entity": {"rome": made_up(0, n_cases)}}, SOURCE, {}).axes:
        assert set(faces(series(ax)["rome"])) == {"#ffffff" if hollow else COLOURS[0].lower()}
        assert bool(lines(ax, "rome")) != hollow


@pytest.mark.parametrize("edited", SIDES)
def test_the_edited_side_comes_first_and_the_other_is_transfer(edited):
    arms = made_up_arms(sides=[edited])
    upper, lower = compared(arms, SOURCE, {}).axes[::2]
    (other,) = set(SIDES) - {edited}
    assert upper.get_title("left") == f"{edited.capitalize()} probes (edited)"
    assert lower.get_title("left") == f"{other.capitalize()} probes (transfer)"
    assert f"After edits of the {edited} side" in notes(upper)
    assert not any("After edits" in text for text in notes(lower))


def test_with_both_sides_edited_a_column_is_a_side_edited_and_a_row_a_side_probed():
    figure, arms = three()
    for (side, edited, statistic), ax in panels(figure, arms).items():
        role = "edited" if side == edited else "transfer"
        title = f"{side.capitalize()} probes ({role})"
        assert ax.get_title("left") == (title if statistic == "success" else "")
        above = side == "entity" and statistic == "success"
        assert (f"After edits of the {edited} side" in notes(ax)) == above
        unit = {"success": "success (%)", "magnitude": "magnitude (points)"}[statistic]
        assert ax.get_xlabel() == ("" if side == "entity" else unit)


def test_rows_are_the_groups_with_what_is_weighed_and_shaded_where_they_should_stay():
    figure, arms = three()
    stay, change = to_hex(SHADE), to_hex("white")
    shown = panels(figure, arms)
    for (side, edited, statistic), ax in shown.items():
        groups = [group for probed, group in PLACES if probed == side]
        shades = [to_hex(patch.get_facecolor()) for patch in ax.patches]
        assert shades == [stay if group in STAYS else change for group in groups]
        assert ax.yaxis_inverted()
        if (edited, statistic) == ("entity", "success"):
            assert rows(ax) == [SHOWN.get(group, group) for group in groups]
            assert notes(ax)[: len(groups)] == [CONTRASTS[side, group] for group in groups]
    assert legend(figure, 0) == ["before any edit", "should change", "should stay"]
    last_two = figure.legends[0].get_patches()[-2:]
    assert [to_hex(patch.get_facecolor()) for patch in last_two] == [change, stay]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_all_panels_of_a_statistic_have_one_scale_wide_enough_for_every_interval(moment):
    small = Interval(*map(np.array, (0.1, 0.05, 0.15)))
    wide = small._replace(mean=np.array(-0.5), low=np.array(-0.6))
    near = [replace(one, before=small, after=small) for one in made_up(0)]
    far = [replace(one, **{moment: wide}) for one in near if one.key.group == "removal"]
    arms = {"entity": {"rome": near}, "relation": {"rome": near, "ft": far}}
    shown = panels(compared(arms, SOURCE, {}), arms)
    limits = {
        statistic: {ax.get_xlim() for key, ax in shown.items() if key[2] == statistic}
        for statistic in STATISTICS
    }
    ((low, high),) = limits["success"]
    assert low < 0 and high > 100
    ((low, high),) = limits["magnitude"]
    assert -low == high and 62 < high < 70


def test_what_the_measures_do_not_have_has_no_row():
    measures = [one for one in made_up(0) if one.key.group != "removal paraphrase"]
    extra = Measure(Key("entity", "Score", "lifts"), None, measures[0].after, None, 20, 60)
    exact = replace(measures[0], key=Key("entity", "portability", "exact match"))
    arms = {"relation": {"rome": [extra, exact, *measures]}}
    upper, lower = compared(arms, SOURCE, {}).axes[::2]
    assert rows(upper) == [
        "efficacy", "paraphrase", "removal", "neighbours", "other objects", "other relations",
    ]  # fmt: skip
    assert rows(lower) == ["efficacy", "paraphrase", "neighbours", "other relations"]
    figure = compared(ONE_SIDED, SOURCE, {})
    assert [ax.get_title("left") for ax in figure.axes] == ["Entity probes (edited)", ""]


def test_panels_without_a_number_say_so():
    arms = {"entity": {"rome": made_up(0)}, "relation": {"rome": []}}
    figure = compared(arms, SOURCE, {})
    for (_, edited, _), ax in panels(figure, arms).items():
        assert ("no data" in notes(ax)) == (edited == "relation")
    figure = compared({"relation": {"rome": []}}, SOURCE, {("relation", "rome"): 7})
    assert len(figure.axes) == 2 and all("no data" in notes(ax) for ax in figure.axes)
    assert legend(figure, 1) == ["rome, 7 failed"] and "n = 0 cases" in caption_of(figure)


def test_the_legend_names_the_editors_and_counts_the_edits_that_failed():
    few = {"entity": {name: made_up(0)[:1] for name in THREE}}
    one_side = compared(few, SOURCE, {**FAILED, ("entity", "rome"): 0})
    assert legend(one_side, 1) == ["rome", "memit", "ft, 3 failed"]
    both, _ = three()
    assert legend(both, 1) == [
        "rome", "memit, failed: 1 relation", "ft, failed: 3 entity, 12 relation",
    ]  # fmt: skip
    names = legend(compared({"entity": {name: made_up(0)[:1] for name in LONG}}, SOURCE, {}), 1)
    # two in a line, which matplotlib fills column by column
    assert names[::3] == [LONG[0], LONG[1]] and names[1] == LONG[2] and names[2::3] == [*LONG[4:]]
    assert names[4].endswith("…") and len(names[4]) == 54


def test_cases_stand_in_the_caption_and_beside_each_row():
    few, many = made_up(0, n_cases=17), made_up(1, n_cases=20)
    many[0] = replace(many[0], n_cases=17)
    many[1] = replace(many[1], n_cases=17)
    figure = compared({"entity": {"rome": few, "ft": many}}, SOURCE, {})
    assert "n = 17–20 cases" in caption_of(figure)
    assert notes(figure.axes[1]) == ["17", "17–20", "17–20", "17–20", "cases"]
    assert "n = 20 cases" in caption_of(three()[0])


def test_changes_of_scores_are_drawn_as_they_come():
    def case(id, *logprobs):
        probes = [
            ProbeScore(side, "efficacy", "a", "b", "c", logprob, -2.0, False)
            for side, logprob in zip(SIDES, logprobs, strict=True)
        ]
        return EditScore(id, "country", "hierarchical", tuple(probes), None, {})

    before = [case("1", -3.0, -1.0), case("2", -3.0, -1.0)]
    after = [case("1", -1.0, -1.0), case("2", -3.0, -1.0)]
    arms = {"entity": {"rome": changes(before, after, "entity", draws=50)}}
    shown = panels(compared(arms, SOURCE, {}), arms)
    edited, other = (shown[side, "entity", "success"] for side in SIDES)
    assert dots(edited, "rome") == {0: 50} and [x for x, *_ in ticks(edited)] == [0]
    assert dots(other, "rome") == {0: 100} and [x for x, *_ in ticks(other)] == [100]
