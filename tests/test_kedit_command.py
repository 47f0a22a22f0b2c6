"""The command `kedit`: short names, completion, the cache and the doctor."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as kedit_command
from experiments import _doctor, _parsing
from experiments._names import COMMANDS, purpose
from kedit import cache
from kedit.errors import InputError
from kedit.models import doctor as checks

ROOT = Path(__file__).parent.parent


def run_kedit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Runs the command as its script does, and returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["kedit", *arguments])
    monkeypatch.setattr(_parsing, "spoken_name", "")
    for module in COMMANDS.values():  # a module that was imported cannot be run as `python -m` does
        monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        kedit_command.main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_every_command_has_a_short_name() -> None:
    experiments = {
        f"experiments.{file.stem}"
        for file in (ROOT / "experiments").glob("*.py")
        if not file.stem.startswith("_")
    }
    assert experiments <= set(COMMANDS.values())
    assert all(purpose(module).endswith((".", ":")) for module in COMMANDS.values())


def test_a_short_name_runs_the_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--cases", "toy", "--model", "toy", "--tune", "2", "--validate", "2", "--seed", "3")
    assert run_kedit(monkeypatch, "split", *options, "--out", str(tmp_path / "short")) == 0
    monkeypatch.setattr(_parsing, "spoken_name", "")
    monkeypatch.delitem(sys.modules, "experiments.split_cases", raising=False)
    monkeypatch.setattr(sys, "argv", ["m", *options, "--out", str(tmp_path / "long")])
    runpy.run_module("experiments.split_cases", run_name="__main__", alter_sys=True)
    short, long = (
        json.loads((tmp_path / name / "splits.json").read_text(encoding="utf-8"))
        for name in ("short", "long")
    )
    assert short == long
    capsys.readouterr()
    assert run_kedit(monkeypatch, "split", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: kedit split ")


def test_help_and_unknown_names_list_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_kedit(monkeypatch) == 0
    assert all(f"  {name} " in capsys.readouterr().out for name in ["trace"])
    assert run_kedit(monkeypatch, "trance") == kedit_command.WRONG_USE
    said = capsys.readouterr().err
    assert said.startswith("error: trance is not a command")
    assert all(f"\n  {name} " in said for name in COMMANDS)


def test_bash_completes_commands_options_and_choices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert run_kedit(monkeypatch, "completion", "bash") == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")

    def completed(*words: str) -> list[str]:
        given = " ".join(f"'{word}'" for word in words)
        told = subprocess.run(
            ["bash", "-c", f"source {script}; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; "
             '_shtab_kedit; echo "${COMPREPLY[@]}"'],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return told.stdout.split()

    assert completed("kedit", "do") == ["doctor"]
    assert completed("kedit", "trace", "--wind") == ["--window"]
    assert completed("kedit", "trace", "--corrupt", "s") == ["subject"]


def test_the_cache_is_listed_and_cleared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    (tmp_path / "moments").mkdir()
    (tmp_path / "moments" / "one").write_bytes(b"1" * 1000)
    (tmp_path / "moments" / "two").write_bytes(b"2" * 500)
    (tmp_path / "counterfact.json").write_bytes(b"3" * 20)
    (tmp_path / "link").symlink_to(tmp_path / "moments" / "one")
    assert cache.entries() == {"counterfact.json": 20, "link": 0, "moments": 1500}
    with pytest.raises(InputError, match="the cache has no nothing; it has counterfact.json"):
        cache.clear(["nothing"])
    assert run_kedit(monkeypatch, "cache", "clear", "--only", "moments") == 0
    assert set(cache.entries()) == {"counterfact.json", "link"}
    assert run_kedit(monkeypatch, "cache", "clear") == 0
    assert tmp_path.is_dir() and not cache.entries()
    assert run_kedit(monkeypatch, "cache") == 0
    assert str(tmp_path) in capsys.readouterr().out.replace("\n", "")


def test_the_cache_of_a_new_user_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "never" / "made"))
    assert cache.entries() == {} and cache.clear() == 0
    found = checks.doctor()
    assert found.caches == {}
    assert not found.problems
    assert all("ready" not in where for where, _ in found.models.values())


def test_the_doctor_says_what_stops_kedit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    assert _doctor.exit_code(tmp_path) == 0
    versions = {"transformer-lens": "4.0.1"}
    monkeypatch.setattr(checks, "_version", lambda package: versions.get(package, ""))
    assert run_kedit(monkeypatch, "doctor") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "problem: transformer-lens 4.0.1: kedit needs at least 3.9 and less than 4" in said
    assert "problem: the package gguf is missing" in said
