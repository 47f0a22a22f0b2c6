"""Figures that a tracing command draws while facts are traced."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments import trace_relation
from experiments._trace import Config
from figures import style, traced
from probes.studies import tracing

CONFIG = Config(model="toy", limit=3, corrupt="subject", sites=["resid_post"])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The name and the title of each figure that is saved, in order."""
    saved: list[tuple[str, str]] = []

    def save(figure: Figure, folder: Path, name: str) -> Sequence[Path]:
        saved.append((name, figure.get_suptitle().replace("\n", " ")))
        return folder / f"{name}.png", folder / f"{name}.pdf"

    monkeypatch.setattr(style, "save", save)
    monkeypatch.setattr(style, "save_for_now", lambda *told: save(*told)[0])
    monkeypatch.setattr(tracing, "FIRST_LOOK", 1)
    return saved


def test_figures_say_how_many_facts_they_show_until_all_are_traced(
    tmp_path: Path, drawn: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trace_relation.run(replace(CONFIG, out=str(tmp_path / "run")))
    assert {name for name, _ in drawn} == {"subject-maps"}
    first, second, last = (title for _, title in drawn)
    assert "(so far: 1 of 3 facts)" in first and "(so far: 2 of 3 facts)" in second
    assert "so far" not in last
    printed = capsys.readouterr().out
    assert printed.startswith(f"First figures, of 1 of 3 facts: {folder / 'subject-maps.png'}")
    assert printed.count("First figures") == 1


def test_a_figure_that_cannot_be_drawn_stops_no_tracing(
    tmp_path: Path,
    drawn: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    every = traced.every
    tried = []

    def broken(found, so_far=""):
        if so_far:
            tried.append(so_far)
            raise ZeroDivisionError("no room")
        return every(found)

    monkeypatch.setattr(traced, "every", broken)
    with caplog.at_level(logging.WARNING, "kedit"):
        trace_relation.run(replace(CONFIG, out=str(tmp_path / "run")))
    assert [record.getMessage() for record in caplog.records] == [
        "Figures of 1 of 3 facts could not be drawn; tracing goes on: ZeroDivisionError('no room')"
    ]
    assert tried == ["1 of 3 facts"] and [name for name, _ in drawn] == ["subject-maps"]


def test_a_figure_that_is_saved_for_now_leaves_no_older_pdf(tmp_path: Path) -> None:
    figure = style.new_figure(3, 1, "A title", "a caption")
    png, pdf = style.save(figure, tmp_path, "a.b")
    whole = png.read_bytes()
    png.unlink()
    figure = style.new_figure(3, 1, "A title", "a caption")
    assert style.save_for_now(figure, tmp_path, "a.b") == png
    assert png.read_bytes() == whole and not pdf.exists()
