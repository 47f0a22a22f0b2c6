"""Figures of several models, read back from their artists, and the CSV files beside them."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import by_depth, by_model, models
from figures._models import looks
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.trace_averages import TraceAverages
from kedit.run_folder import RunFolder
from kedit.scoring.summary import BY_ALL, Key
from tests.figure_checks import assert_fits, caption_of
from tests.made_up_models import asked, compared, kinds_of, traced, written

DEEP, FLAT = "someone/deep", "flat"
EDITORS = ("rome", "memit", "joint:layers=(10,)")


def grid(figure: Figure) -> np.ndarray:
    """The panels by row and column."""
    spec = figure.axes[0].get_subplotspec()
    assert spec is not None
    return np.array(figure.axes).reshape(spec.get_gridspec().get_geometry())


def lines(ax: Axes) -> list[Line2D]:
    """The curves, and the strongest heads; not the line at zero."""
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def line(ax: Axes, label: str, dashes: str = "-") -> Line2D:
    (found,) = [
        one for one in lines(ax) if (one.get_label(), one.get_linestyle()) == (label, dashes)
    ]
    return found


def marks(ax: Axes) -> set[tuple[float, float, str]]:
    """Depth and number of each marked peak, and the colour of its face."""
    return {
        (float(x), float(y), to_hex(one.get_markerfacecolor()))  # pyright: ignore[reportArgumentType]
        for one in ax.lines
        if one.get_marker() != "None"
        for x, y in zip(one.get_xdata(), one.get_ydata(), strict=True)  # pyright: ignore[reportArgumentType]
    }


def bands(ax: Axes) -> list[tuple[str, np.ndarray]]:
    """Colour, and corners, of each band."""
    drawn = [one for one in ax.collections if isinstance(one, PolyCollection)]
    return [
        (to_hex(np.asarray(one.get_facecolor())[0]), np.asarray(one.get_paths()[0].vertices))
        for one in drawn
    ]


BUCKETS = ("last corrupted", "last token")  # of the rows of panels


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def numbers(rows: Sequence[Mapping], name: str, **where) -> np.ndarray:
    """Mean, low and high of the rows that are of these, one line each."""
    found = [row for row in rows if all(row[key] == value for key, value in where.items())]
    columns = (name, f"{name} low", f"{name} high")
    return np.array([[row[column] for column in columns] for row in found], dtype=float)


def one_of(found: TraceAverages, part: str, site: str, bucket: str) -> np.ndarray:
    """Mean, low and high by layer, as the result has them."""
    effect = found.grids(part)[site]
    cell = METRICS.index(found.metric), effect.buckets.index(bucket)
    return np.stack([bounds[cell] for bounds in (effect.mean, effect.low, effect.high)])


def test_effects_of_each_model_are_drawn_at_their_depth() -> None:
    found = [traced(DEEP, 9), traced(FLAT, 4, n_facts=20)]
    figure, rows = by_depth.effects(found), by_depth.effect_rows(found)
    assert_fits(figure)
    panels, shown = grid(figure), looks([DEEP, FLAT])
    titles = ["single residual", "MLP, window 10", "attention, window 10", "strongest head"]
    assert [ax.get_title("left") for ax in panels[0]] == titles
    for row, bucket in zip(panels, BUCKETS, strict=True):
        for ax, site in zip(row, ("resid_post", "mlp_out", "attn_out"), strict=False):
            assert len(lines(ax)) == len(bands(ax)) == 4
            for one, n_layers in zip(found, (9, 4), strict=True):
                for part, dashes in (("subject", "-"), ("relation", "--")):
                    label, colour, _ = shown[one.model]
                    drawn, wanted = line(ax, label, dashes), one_of(one, part, site, bucket)
                    depth = np.arange(n_layers) / (n_layers - 1)
                    assert to_hex(str(drawn.get_color())) == to_hex(colour)
                    np.testing.assert_array_equal(drawn.get_ydata(), wanted[0])
                    np.testing.assert_array_equal(drawn.get_xdata(), depth)
                    place = {"model": one.model, "corrupted": part, "site": site, "token": bucket}
                    np.testing.assert_array_equal(numbers(rows, "effect", **place).T, wanted)
                    corners = {
                        (x, y) for x, *ys in zip(depth, *wanted[1:], strict=True) for y in ys
                    }
                    assert any(
                        band == to_hex(colour) and corners <= set(map(tuple, edge))
                        for band, edge in bands(ax)
                    )
                    peak = int(np.abs(wanted[0]).argmax())
                    face = "#ffffff" if part == "relation" else to_hex(colour)
                    assert (depth[peak], wanted[0, peak], face) in marks(ax)
    assert legend(figure) == [
        "deep: 9 layers, n = 60 (subject), 60 (relation)",
        "flat: 4 layers, n = 20 (subject), 20 (relation)",
        "subject corrupted (filled marks)",
        "relation corrupted (hollow marks)",
    ]


def test_the_strongest_heads_are_those_of_the_tables() -> None:
    found = [traced(DEEP, 9), traced(FLAT, 4)]
    panels, rows = grid(by_depth.effects(found)), by_depth.effect_rows(found)
    for ax, bucket in zip(panels[:, -1], BUCKETS, strict=True):
        told = [
            (one.model, n_layers, row)
            for one, n_layers in zip(found, (9, 4), strict=True)
            for row in one.rows()
            if (row["grid"], row["bucket"]) == ("z", bucket)
        ]
        assert len(told) == 4
        wanted = {(row["layer"] / (n_layers - 1), row["effect"]) for _, n_layers, row in told}
        assert {mark[:2] for mark in marks(ax)} == wanted
        ends = [
            np.asarray(segment)[:, 1].tolist()
            for one in ax.collections
            if isinstance(one, LineCollection)
            for segment in one.get_segments()
        ]
        assert sorted(ends) == sorted([row["low"], row["high"]] for *_, row in told)
        for model, _, row in told:
            (found_row,) = [
                one for one in rows
                if (one["model"], one["corrupted"], one["token"], one["site"])
                == (model, row["part"], bucket, "z")
            ]  # fmt: skip
            for name in ("layer", "head", "effect"):
                assert found_row[name] == row[name]


def test_a_model_may_have_a_run_for_each_corrupted_part() -> None:
    whole = by_depth.effect_rows([traced(DEEP, 9)])
    runs = [traced(DEEP, 9, [part]) for part in ("relation", "subject")]
    assert by_depth.effect_rows(runs) == whole
    assert legend(by_depth.effects(runs)) == legend(by_depth.effects([traced(DEEP, 9)]))


def test_the_towers_of_one_model_have_their_own_curves_and_count_as_one_model() -> None:
    flat = traced(FLAT, 4)
    towers = [
        replace(effect, name=f"{tower}.{effect.name}")
        for tower in ("encoder", "decoder")
        for effect in flat.effects
    ]
    figure = by_depth.effects([replace(flat, model="t5", effects=tuple(towers))])
    assert figure.get_suptitle() == "Average indirect effect by relative depth, 1 model"
    assert [text.partition(":")[0] for text in legend(figure)[:2]] == ["t5, encoder", "t5, decoder"]


def test_what_a_model_lacks_is_left_out() -> None:
    few = traced(FLAT, 4, ["subject"])
    few = replace(few, effects=tuple(one for one in few.effects if one.name == "mlp_out"))
    panels = grid(by_depth.effects([few, traced(DEEP, 9, ["relation"], empty=["last token"])]))
    assert [one.get_label() for one in lines(panels[0, 1])] == ["flat", "deep"]
    assert [one.get_label() for one in lines(panels[0, 0])] == ["deep"]
    assert [one.get_label() for one in lines(panels[1, 1])] == ["flat"]
    assert [text.get_text() for text in panels[1, 0].texts] == ["no data"]
    colour = looks([FLAT, DEEP])[DEEP].colour
    assert to_hex(str(lines(panels[0, 0])[0].get_color())) == to_hex(colour)


def test_models_with_windows_of_their_own_are_told() -> None:
    wide = traced(DEEP, 9)
    wide = replace(wide, effects=tuple(replace(one, window=5 * one.window) for one in wide.effects))
    panels = grid(by_depth.effects([traced(FLAT, 4), wide]))
    assert panels[0, 1].get_title("left") == "MLP, windows 10 and 50"


def test_knockouts_of_each_model_are_drawn_at_their_depth() -> None:
    found = [asked(DEEP, 7), asked(FLAT, 4, cuts=["last to subject"], n_facts=1)]
    figure, rows = by_depth.knockouts(found), by_depth.knockout_rows(found)
    panels = grid(figure)
    assert [len(lines(ax)) for ax in panels[0]] == [2, 1, 1, 1]
    for one, n_layers, label in zip(found, (7, 4), ("deep", "flat"), strict=True):
        for ax, (name, curve) in zip(panels[0], one.curves().items(), strict=False):
            drawn, wanted = line(ax, label), 100 * np.stack(curve)
            np.testing.assert_array_equal(drawn.get_ydata(), wanted[0])
            np.testing.assert_array_equal(drawn.get_xdata(), np.arange(n_layers) / (n_layers - 1))
            csv_numbers = numbers(rows, "change in percent", model=one.model, cut=name)
            np.testing.assert_allclose(csv_numbers.T, wanted)
    assert "5 layers" in caption_of(figure)
    assert legend(figure) == ["deep: 7 layers, n = 5 facts", "flat: 4 layers, n = 1 fact"]


def test_scores_of_write_sites_are_drawn_at_the_layers_that_were_tried() -> None:
    found = [written(DEEP, 14), written(FLAT, 8, ["last", "object_last"])]
    figure, rows = by_depth.write_sites(found), by_depth.write_site_rows(found)
    panels = grid(figure)
    names = ["Subject’s last token", "Object’s last token", "Last token"]
    assert [ax.get_title("left") for ax in panels[0]] == names
    where_of = ("subject_last", "object_last", "last")
    for row, half in zip(panels, ("mlp", "attn"), strict=True):
        for ax, where in zip(row, where_of, strict=True):
            for one, label in zip(found, ("deep", "flat"), strict=True):
                sites = {
                    site.layer: site.found["Score"]
                    for site in one.edited
                    if (site.half, site.where) == (half, where)
                }
                if not sites:
                    assert label not in [drawn.get_label() for drawn in lines(ax)]
                    continue
                layers = sorted(sites)
                wanted = [100 * sites[layer].mean for layer in layers]
                drawn = line(ax, label)
                np.testing.assert_allclose(np.asarray(drawn.get_ydata()), wanted)
                np.testing.assert_allclose(
                    np.asarray(drawn.get_xdata()), np.array(layers) / (one.n_layers - 1)
                )
                told = numbers(rows, "Score in percent", model=one.model, half=half, key=where)
                np.testing.assert_allclose(told[:, 0], wanted)
    assert len(rows) == sum(len(one.edited) for one in found)


def dots(ax: Axes, label: str) -> tuple[list[str], np.ndarray, list[str]]:
    """Of a model's marks in a panel: the names of their rows, mean, low, high; their faces."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    first = next(row[0] for row in grid(figure) if ax in list(row))
    names = [tick.get_text() for tick in first.get_yticklabels()]
    (at,) = [
        index
        for index, one in enumerate(ax.collections)
        if isinstance(one, PathCollection) and one.get_label() == label
    ]
    drawn, intervals = ax.collections[at], ax.collections[at - 1]
    assert isinstance(drawn, PathCollection) and isinstance(intervals, LineCollection)
    offsets = np.asarray(drawn.get_offsets())
    ends = [np.asarray(segment)[:, 0] for segment in intervals.get_segments()]
    rows = [names[round(height)] for height in offsets[:, 1]]
    faces = [to_hex(face) for face in np.asarray(drawn.get_facecolor())]
    return rows, np.column_stack([offsets[:, 0], np.array(ends).reshape(-1, 2)]), faces


def test_shares_of_each_model_are_drawn_by_kind() -> None:
    found = [kinds_of(DEEP), kinds_of(FLAT, ["subject"], seed=1)]
    figure, rows = by_model.shares(found), by_model.share_rows(found)
    panels = grid(figure)
    for row, part in zip(panels, ("subject", "relation"), strict=True):
        assert row[0].get_title("left") == f"{part.capitalize()} corrupted"
        for ax, measure in zip(row, ("restored", "severed"), strict=True):
            for one, label in zip(found, ("deep", "flat"), strict=True):
                wanted = {
                    share.kind: share.share.floats()
                    for share in one.shares
                    if (share.part, share.measure) == (part, measure)
                }
                kinds, numbers_of, _ = dots(ax, label)
                assert kinds == list(wanted)
                np.testing.assert_array_equal(
                    numbers_of, np.array([*wanted.values()]).reshape(-1, 3)
                )
                place = {"model": one.model, "corrupted": part, "measure": measure}
                told = numbers(rows, "share", **place)
                np.testing.assert_array_equal(told.reshape(-1, 3), numbers_of)
    (test, *_) = found[1].tests
    assert (
        f"restored, subject: {found[0].tests[2].p:.2g} (deep), {test.p:.2g} (flat)"
        in caption_of(figure)
    )


def test_scores_and_their_parts_are_drawn_by_editor() -> None:
    found = [compared(DEEP, EDITORS), compared(FLAT, ("ft", *EDITORS[:2]), ["entity"], seed=1)]
    figure, rows = by_model.editors(found), by_model.editor_rows(found)
    panels = grid(figure)
    labels = [[tick.get_text() for tick in row[0].get_yticklabels()] for row in panels]
    assert labels == [["rome", "memit", "joint", "ft"], ["rome", "memit", "joint"]]
    for row, side in zip(panels, ("entity", "relation"), strict=True):
        assert row[0].get_title("left") == f"Edited from the {side} side"
        for ax, name in zip(row, ("Score", "generalisation", "locality"), strict=True):
            for one, label in zip(found, ("deep", "flat"), strict=True):
                editors = one.sides.get(side, [])
                wanted = []
                for editor in editors:
                    score = editor.measure(Key(side, "Score", BY_ALL))
                    assert score and score.after
                    mean = score.after if name == "Score" else getattr(editor, name)
                    wanted.append(mean.floats(100))
                shown, drawn, faces = dots(ax, label)
                assert shown == [editor.editor.partition(":")[0] for editor in editors]
                np.testing.assert_allclose(drawn, np.array(wanted).reshape(-1, 3))
                hollow = [face == "#ffffff" for face in faces]
                assert hollow == [not editor.is_tuned for editor in editors]
                place = {"model": one.model, "edited": side, "measure": name}
                told = numbers(rows, "percent", **place).reshape(-1, 3)
                np.testing.assert_allclose(told, drawn)
    assert "Hollow" in caption_of(figure)
    assert legend(figure) == ["deep: n = 20 cases", "flat: n = 20 cases"]


def test_long_names_of_editors_are_broken_between_settings() -> None:
    specs = ["joint:layers=(10,11):weight=1000:training.steps=20", "joint"]
    figure = by_model.editors([compared(DEEP, specs, ["relation"])])
    long, short = (tick.get_text() for tick in figure.axes[0].get_yticklabels())
    assert (long.replace("\n", ""), short) == (specs[0], "joint")
    assert all(line.endswith((":", "20")) for line in long.splitlines())


def test_what_cannot_be_drawn_together_is_refused() -> None:
    one, other = traced(DEEP, 9), traced(FLAT, 4)
    with pytest.raises(InputError, match="differ in the metric .*deep: prob; flat: logprob"):
        by_depth.effects([one, replace(other, metric="logprob")])
    noisy = replace(other, settings=replace(other.settings, by="noise"))
    with pytest.raises(InputError, match="differ in the corruption"):
        by_depth.effects([one, noisy])
    with pytest.raises(InputError, match="2 runs of someone/deep have the relation corrupted"):
        by_depth.effects([one, traced(DEEP, 9, ["relation"])])
    with pytest.raises(InputError, match="2 runs of flat have knockouts"):
        by_depth.knockouts([asked(FLAT, 4)] * 2)
    with pytest.raises(InputError, match="norms of edits"):
        found = compared(DEEP, EDITORS)
        by_model.editors([found, replace(found, model=FLAT, norms="equal")])
    with pytest.raises(InputError, match="no results"):
        by_model.shares([])


def test_models_of_one_name_are_numbered() -> None:
    assert [look.name for look in looks(["a/model", "b/model", "c"]).values()] == [
        "model (1)", "model (2)", "c",
    ]  # fmt: skip


def test_the_command_draws_folders_and_tells_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_with(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["models", *arguments])
        models.main()

    found = [compared(model, EDITORS, seed=seed) for seed, model in enumerate((DEEP, FLAT))]
    runs = []
    for index, one in enumerate(found):
        path = tmp_path / f"run{index}"
        path.mkdir()
        (path / "config.json").write_text('{"experiment": "compare_editors"}')
        one.save(RunFolder(path))
        runs.append(str(path))
    out = tmp_path / "figure"
    run_with(*runs, "--out", str(out))
    assert str(out / "compare_editors.png") in capsys.readouterr().out
    assert {file.suffix for file in out.iterdir()} == {".png", ".pdf", ".csv"}
    with (out / "compare_editors.csv").open(encoding="utf-8", newline="") as table:
        told = list(csv.DictReader(table))
    wanted = by_model.editor_rows(found)
    assert [{name: str(value) for name, value in row.items()} for row in wanted] == told
    (tmp_path / "run1" / "config.json").write_text('{"experiment": "ask_heads"}')
    with pytest.raises(SystemExit, match="^error: the runs are of different studies"):
        run_with(*runs)
    (tmp_path / "run1" / "config.json").write_text('{"experiment": "edit_fact"}')
    with pytest.raises(SystemExit, match="no figure shows edit_fact of several models"):
        run_with(runs[1])
