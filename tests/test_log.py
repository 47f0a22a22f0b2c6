"""--log: a finished run in Weights & Biases and TensorBoard, without a network."""

import csv
import sys
from pathlib import Path

import pytest

from experiments import _log
from experiments._command import command
from experiments.compare_editors import Config, run
from kedit.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("log") / "run"
    return run(Config(model="toy", editors="joint", limit=2, chunks=1, out=str(out)))


def test_tensorboard_gets_every_number_figure_and_option(folder: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _log.log_run(folder, "tensorboard")
    logged = events.EventAccumulator(str(folder / "tensorboard"))
    logged.Reload()
    tags = logged.Tags()
    assert {"comparison", "frontier"} <= set(tags["images"])
    assert "options/text_summary" in tags["tensors"]
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        name = "/".join(
            row[key] for key in ("edited", "editor", "perspective", "group", "statistic")
        )
        (event,) = logged.Scalars(f"comparison/{name}/after")
        assert event.value == pytest.approx(float(row["after"]), abs=1e-6)


def test_wandb_keeps_the_run_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    _log.log_run(folder, "wandb")
    (kept,) = (folder / "wandb").glob("offline-run-*")
    files = [file.name for file in kept.rglob("*")]
    assert any(name.startswith("comparison") and name.endswith(".table.json") for name in files)
    assert any(name.startswith("comparison") and name.endswith(".png") for name in files)


def test_the_command_line_logs_after_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[Path, str]] = []
    monkeypatch.setattr("experiments._command.log_run", lambda *given: logged.append(given))
    told = ["experiments/compare_editors.py", "--model", "toy", "--log", "wandb"]
    monkeypatch.setattr(sys, "argv", told)
    command(Config, lambda config: folder)
    assert logged == [(folder, "wandb")]
    monkeypatch.setattr(_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"--log wandb needs wandb: pip install 'kedit\[wandb\]'"):
        command(Config, lambda config: folder)


def test_what_is_no_run_is_not_logged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes no run that could be logged"):
        _log.log_run(tmp_path, "wandb")
