"""Frontiers: the best points, the gap between two, and the study that compares them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray
from transformer_lens import HookedTransformer

import kedit
from experiments import compare_frontiers as command
from experiments.compare_frontiers import Config
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.results.frontier import Frontiers, gap_between, unbeaten
from kedit.studies.frontiers import compare_frontiers, gaps_of

CASES = toy_module.cases()[:4]
TOY = Config(model="toy", editors="joint,w_out", values=[0.1, 10.0], limit=3, chunk_tokens=32)


def dominated(point: ndarray, points: ndarray) -> bool:
    """The definition: another point is at least as high in both, and higher in one."""
    return any((other >= point).all() and (other > point).any() for other in points)


def test_unbeaten_points_are_those_of_the_definition() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 30):
        points = generator.integers(0, 6, (n, 2)).astype(float)
        slow = {tuple(point) for point in points if not dominated(point, points)}
        found = unbeaten(points)
        assert [*map(tuple, found)] == sorted(slow)
    assert unbeaten(np.zeros((0, 2))).shape == (0, 2)


def line(height: float, start: float = 0.2, end: float = 0.8) -> ndarray:
    """A straight frontier: what is gained falls as what is kept rises."""
    kept = np.linspace(start, end, 5)
    return np.stack([kept, height - kept], 1)


def test_the_gap_of_parallel_frontiers_is_their_distance() -> None:
    ours, theirs = line(1.1, 0.3, 0.9), line(1.0)
    for at_equal in (0, 1):
        assert gap_between(ours, theirs, at_equal) == pytest.approx(0.1)
        assert gap_between(theirs, ours, at_equal) == pytest.approx(-0.1)
        assert gap_between(ours, ours, at_equal) == 0
        assert gap_between(ours, theirs, at_equal) == pytest.approx(
            gap_between(ours[:, ::-1], theirs[:, ::-1], 1 - at_equal)
        )
    beaten = np.concatenate([theirs, [[0.1, 0.1], [0.5, 0.2]]])
    assert gap_between(ours, beaten) == pytest.approx(gap_between(ours, theirs))
    assert gap_between(ours, theirs[::-1]) == gap_between(ours, theirs)  # in any order


def test_frontiers_that_share_no_range_have_no_gap() -> None:
    assert math.isnan(gap_between(line(1.0, 0.1, 0.3), line(1.0, 0.5, 0.9)))
    both = np.array([[0.5, 0.4]]), np.array([[0.5, 0.1]])
    assert gap_between(*both) == pytest.approx(0.3)


def test_gaps_have_intervals_over_the_draws_and_are_tested() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal((201, 1, 2))
    noise[0] = 0
    points = {
        "a": line(1.2)[None] + noise,
        "b": line(1.0)[None] - noise,
        "c": line(1.0) + 0 * noise,
    }
    gaps = gaps_of(points)
    assert [(gap.editor, gap.other) for gap in gaps[::2]] == [("a", "b"), ("a", "c"), ("b", "c")]
    for gap in gaps[:4]:
        assert gap.gap.low < 0.2 < gap.gap.high and float(gap.gap.mean) == pytest.approx(0.2)
        assert gap.p < 0.05 and gap.p <= gap.adjusted
    assert gaps[4].p > 0.05


@pytest.fixture(scope="module")
def found(toy: HookedTransformer) -> Frontiers:
    return compare_frontiers(
        toy, CASES, ["joint", "w_out"], values=(0.1, 10.0), text="self", chunk_tokens=32
    )


@pytest.mark.slow
def test_each_point_is_that_of_a_comparison(toy: HookedTransformer, found: Frontiers) -> None:
    specs = [f"{curve.editor}:weight={value:g}" for curve in found.curves for value in found.values]
    compared = kedit.compare(
        toy, CASES, specs, perspective="relation", text="self", chunks=1, chunk_tokens=32
    )
    points = [point for curve in found.curves for point in curve.points]
    for point, editor in zip(points, compared.editors, strict=True):
        assert point.locality == editor.locality
        assert point.generalisation == editor.generalisation
    assert found.n_cases == 4 and found.perspective == "relation" and found.model == "toy"
    assert len(found.gaps) == 2


@pytest.mark.slow
def test_a_run_writes_what_the_library_returns_and_is_continued(tmp_path: Path) -> None:
    folder = command.run(replace(TOY, out=str(tmp_path / "run")))
    result = Frontiers.load(folder)
    assert result.to_record() == json.loads((folder / "frontiers.json").read_text())
    assert {row["editor"] for row in result.rows()} == {"joint", "w_out"}
    assert [row["weight"] for row in result.rows()] == [0.1, 10.0, 0.1, 10.0]
    assert (folder / "frontiers.png").stat().st_size and (folder / "gaps.csv").read_text()
    lines = (folder / "records.jsonl").read_text()
    assert command.run(replace(TOY, out=str(folder))) == folder
    assert (folder / "records.jsonl").read_text() == lines
    shown = str(result)
    assert "at equal" in shown and "Score by both" in shown and "w_out" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": (1.0,)}, "values: must be at least two different values"),
        ({"values": (1.0, 1.0)}, "values: must be at least two different values"),
        ({"editors": ["joint", "joint"]}, "editors: must be different"),
        ({"editors": ["rome"]}, "ROME has no 'weight'"),
        ({"values": (1.0, -1.0)}, "weight=-1.0: must be a number above 0"),
    ],
)
def test_what_cannot_be_varied_is_refused(
    toy: HookedTransformer, options: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"editors": ["joint", "w_out"], "values": (1.0, 2.0), **options}
    with pytest.raises(InputError, match=message):
        compare_frontiers(toy, CASES, settings.pop("editors"), text="self", **settings)
