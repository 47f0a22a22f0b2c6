"""The command line of every command: shared options, help, renamed options, --quiet, --verbose."""

import importlib
import json
import logging
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from experiments import patch_prompts
from experiments._command import command
from experiments._own_metric import function_of
from experiments._parsing import options_of as all_options
from experiments._parsing import parsed
from experiments._renamed import MEANINGS, RENAMED
from experiments._verbosity import is_quiet
from kedit import progress as room
from kedit.errors import InputError

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(file.stem for file in (ROOT / "experiments").glob("[a-z]*.py"))
ROWS = [(name, old, new) for name, row in RENAMED.items() for old, new in row.items()]


def config_of(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}").Config


def read(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> Any:
    """What the command `name` reads from its command line."""
    monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py", *arguments])
    return parsed(config_of(name), None, "")


def options_of(name: str) -> set[str]:
    return {*all_options(config_of(name))}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_has_the_shared_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(
        monkeypatch, name, "--device", "cpu", "--dtype", "float64", "--seed", "7", "--verbose"
    )
    assert (found.config.device, found.config.dtype, found.config.seed) == ("cpu", "float64", 7)
    assert found.verbose and not found.quiet


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_is_explained_in_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # one option per line
    with pytest.raises(SystemExit):
        read(monkeypatch, name, "--help")
    _, *helps = capsys.readouterr().out.replace("\n\n", "\n  --\n").split("\n  --")
    explained = {f"--{words[0]}": words[1:] for text in helps if (words := text.split())}
    assert set(explained) >= options_of(name) | {"--quiet", "--verbose"}
    for option in options_of(name):
        text = " ".join(explained[option]).partition(" (default: ")[0]
        assert text.endswith(".") or "(default: results/" in " ".join(explained[option]), option
        assert len(text.split()) > 4, option


@pytest.mark.parametrize(("name", "old", "new"), ROWS)
def test_a_renamed_option_is_answered_by_its_new_name(
    name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert new in options_of(name) and old not in options_of(name)
    for spelling in {old, f"--{old[2:].replace('-', '_')}"}:
        for arguments in ([spelling, "3"], [f"{spelling}=3"]):
            with pytest.raises(InputError) as refused:
                read(monkeypatch, name, *arguments)
            assert str(refused.value) == f"{spelling} was renamed: use {new} ({MEANINGS[new]})"


def test_the_command_ends_with_that_line_before_anything_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments._command.require_possible", None)  # not called
    monkeypatch.setattr(sys, "argv", ["experiments/choose_sites.py", "--probes", "2"])
    with pytest.raises(SystemExit) as end:
        command(config_of("choose_sites"), importlib.import_module("experiments.choose_sites").run)
    assert str(end.value) == (
        "error: --probes was renamed: use --prompts-per-kind (number of test prompts per kind)"
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("score_model", ["--held", "x"]), ("trace_relation", ["--sit", "z"]), ("say_text", ["--qui"])],
)
def test_no_option_can_be_abbreviated(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as end:
        read(monkeypatch, name, *arguments)
    assert end.value.code == 2


def test_underscores_and_contradictions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--held_out: options are spelled with dashes, use --held"):
        read(monkeypatch, "score_model", "--held_out=x")
    with pytest.raises(InputError, match="--quiet and --verbose contradict each other"):
        read(monkeypatch, "score_model", "--quiet", "--verbose")


def ran(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *more: str) -> None:
    """Runs patch_prompts on the toy with progress that is shown at once."""
    monkeypatch.setattr(room, "AFTER", 0.0)
    caplog.clear()
    arguments = ["experiments/patch_prompts.py", "--model", "toy", "--sites", "z", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    command(patch_prompts.Config, patch_prompts.run)


def test_quiet_prints_tables_and_errors_alone_and_verbose_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def slow(spec: str) -> Any:
        time.sleep(0.2)  # so that the default's progress has time to be shown
        return function_of(spec)

    monkeypatch.setattr("experiments.patch_prompts.function_of", slow)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("figures.style.save", lambda *_: None)
    ran(monkeypatch, caplog)
    usual = capsys.readouterr()
    assert "strongest cells" in usual.out and "Everything is in" in usual.out
    assert "importing torch" in usual.err and not caplog.messages
    (folder,) = (tmp_path / "results/patch_prompts").iterdir()
    records = (folder / "records.jsonl").read_bytes()
    ran(monkeypatch, caplog, "--quiet")
    quiet = capsys.readouterr()
    assert "strongest cells" in quiet.out and "Everything is in" not in quiet.out
    assert not quiet.err and not caplog.messages and not is_quiet()
    ran(monkeypatch, caplog, "--verbose")
    verbose = capsys.readouterr()
    assert verbose.out == usual.out
    assert any("finished records (" in message for message in caplog.messages)
    assert all(message.endswith(" s)") for message in caplog.messages[1:])
    # the same run each time: neither option is in its identity
    assert list((tmp_path / "results/patch_prompts").iterdir()) == [folder]
    assert (folder / "records.jsonl").read_bytes() == records
    measured = json.loads((folder / "config.json").read_text("utf-8"))["measured"]
    assert not {"quiet", "verbose", "seed"} & set(measured)
    with pytest.raises(SystemExit) as end:
        ran(monkeypatch, caplog, "--quiet", "--clean", "Only one text")
    assert str(end.value).startswith("error: --corrupted: a text is needed")
    assert not is_quiet() and logging.getLogger("kedit").level == logging.NOTSET


def test_silence_shows_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "AFTER", 0.01)
    monkeypatch.setattr(room, "EVERY", 0.01)
    for silent in (True, False):
        with room.silence() if silent else nullcontext(), room.progress("facts") as bars:
            bars.add_task("tracing", total=2)
            time.sleep(0.3)
        assert ("tracing" in capsys.readouterr().err) != silent


def test_an_option_that_a_command_does_not_use_is_not_in_the_identity_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("figures.style.save", lambda *_: None)
    folders = {patch_prompts.run(patch_prompts.Config("toy", sites=["z"], seed=n)) for n in (0, 1)}
    assert len(folders) == 1
