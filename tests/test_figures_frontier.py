"""The frontier: what is drawn where."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.compare import COLOURS
from figures.frontier import CURVE, NARROWEST, frontier
from figures.style import Source
from kedit.results.frontier import FrontierPoint
from kedit.stats import Interval
from tests.figure_checks import assert_fits


def interval(mean: float, width: float = 0.05) -> Interval:
    return Interval(*map(np.array, (mean, mean - width, mean + width)))


def place(locality: float, generalisation: float) -> FrontierPoint:
    return FrontierPoint(interval(locality), interval(generalisation))


TOY = Source("toy", "n = 3 cases; seed 0")
ONE = {"rome": [place(0.9, -0.2)], "joint:layers=(11,):weight=1000": [place(0.7, 0.8)]}
OTHERS = [place(0.8, 0.5), place(0.6, 0.7), place(0.5, 0.9)]


def lines(figure: Figure, colour: str) -> list[Line2D]:
    return [line for line in figure.axes[0].lines if to_hex(line.get_color()) == colour.lower()]


def test_each_editor_has_a_mark_with_both_intervals_in_percent() -> None:
    figure = frontier({"relation": ONE}, TOY)
    assert_fits(figure)
    for (name, ones), colour in zip(ONE.items(), COLOURS, strict=False):
        (mark,) = lines(figure, colour)
        assert mark.get_xydata()[0].tolist() == pytest.approx(  # pyright: ignore
            [100 * float(ones[0].locality.mean), 100 * float(ones[0].generalisation.mean)]
        ), name
    segments = [one.get_segments()[0] for one in figure.axes[0].collections]  # pyright: ignore
    assert np.allclose(segments[0], [(85, -20), (95, -20)])
    assert np.allclose(segments[1], [(90, -25), (90, -15)])
    low, high = figure.axes[0].get_ylim()
    assert -40 < low < -25 and 85 < high < 100  # what is below zero is seen, and no empty half


def test_of_other_settings_those_that_none_beats_are_joined() -> None:
    figure = frontier({"relation": {"joint": [place(0.7, 0.8), *OTHERS]}}, TOY)
    small, best, mark = lines(figure, COLOURS[0])
    assert np.array(small.get_xydata()).shape == (3, 2)
    assert mark.get_markersize() > small.get_markersize()
    assert np.allclose(best.get_xydata(), [(50, 90), (70, 80), (80, 50)])  # pyright: ignore


def test_settings_are_named_only_where_they_tell_editors_apart() -> None:
    def names(*told: str) -> list[str]:
        figure = frontier({"entity": {one: [place(0.5, 0.5)] for one in told}}, TOY)
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert names(*ONE) == ["rome", "joint", "same harmonic mean"]
    assert names("rome", "rome:layer=3") == ["rome", "rome:layer=3", "same harmonic mean"]


def test_what_is_not_a_number_is_left_out() -> None:
    nan = Interval(*[np.array(np.nan)] * 3)
    figure = frontier({"relation": {"rome": [FrontierPoint(nan, nan)]}}, TOY)
    assert not lines(figure, COLOURS[0])
    assert_fits(figure)


def test_curves_are_of_equal_harmonic_means() -> None:
    figure = frontier({"relation": ONE, "entity": ONE}, TOY)
    assert len(figure.axes) == 2
    curves = [one for one in lines(figure, to_hex(CURVE["color"])) if len(one.get_xdata())]  # pyright: ignore
    assert curves
    for curve in curves:
        x, y = np.array(curve.get_xydata()).T  # pyright: ignore
        assert np.ptp(2 * x * y / (x + y)) < 1e-9


def test_the_axes_are_on_the_marks_but_never_a_hairs_breadth() -> None:
    near = {"w_out": [place(0.74, 0.92)], "joint": [place(0.86, 0.81)]}
    (ax,) = frontier({"relation": near}, TOY).axes
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert low > 60 and high < 103
    sure = FrontierPoint(*[interval(0.9, 0.0)] * 2)
    (ax,) = frontier({"relation": {"rome": [sure]}}, TOY).axes
    assert np.ptp(ax.get_xlim()) == np.ptp(ax.get_ylim()) == NARROWEST


def test_a_mark_on_another_one_is_smaller() -> None:
    same = {"rome": [place(0.9, 0.8)], "joint": [place(0.9, 0.8)], "ft": [place(0.2, 0.3)]}
    figure = frontier({"relation": same}, TOY)
    sizes = [max(one.get_markersize() for one in lines(figure, colour)) for colour in COLOURS[:3]]
    assert sizes[0] == sizes[2] > sizes[1]
