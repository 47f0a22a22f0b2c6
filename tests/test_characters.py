"""Characters that mean something to a terminal, a table or a page, and those that these lack."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import edit_fact, trace_relation
from kedit.screen import print_anything
from kedit.tables import Table, escaped

MARKED = "[/old] $x$ <b>巴黎</b> | é"
# each command writes to the folder that it is given
PRINTED = {
    "trace_relation": (
        "experiments.trace_relation", "--model", "toy", "--limit", "1", "--sites", "mlp_out",
        "--corrupt", "subject",
    ),
    "edit_fact": (
        "experiments.edit_fact", "--model", "toy", "--editor", "ft+l", "--neighbours", MARKED,
    ),
    "patch_prompts": ("experiments.patch_prompts", "--model", "toy", "--sites", "mlp_out"),
}  # fmt: skip


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *told: str) -> bytes:
    """What a command prints on a terminal of another encoding; in this process, which is quicker.

    It is run as `python -m` runs it, and must end with exit status 0 or 1.
    """
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    monkeypatch.setattr(sys, "argv", list(told))
    monkeypatch.delitem(sys.modules, told[0], raising=False)  # runpy warns of a second import
    try:
        runpy.run_module(told[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert end.code in (None, 0, 1)
    sys.stdout.flush()
    return written.getvalue()


def run(encoding: str, *told: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-m", *told], env=env, capture_output=True, check=False)


def test_markdown_shows_texts_as_they_are():
    assert escaped(MARKED) == "\\[/old] \\$x\\$ \\<b>巴黎\\</b> \\| é"
    assert escaped("a*b*`c`\n") == "a\\*b\\*\\`c\\`↵"
    table = Table("", ("a", "b"), (("1", "|"),))
    assert table.to_markdown() == "| a | b |\n| --- | --- |\n| 1 | \\| |"


def test_standard_output_takes_what_its_encoding_lacks(monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    print_anything()
    sys.stdout.write("é → 巴")
    sys.stdout.flush()
    assert written.getvalue() == b"? ? ?"


@pytest.mark.slow
def test_a_relation_with_markup_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    facts = tmp_path / "facts.jsonl"
    fact = {
        "subject": "Ada Alder", "relation": MARKED, "object": "Corum",
        "template": "The birthplace of {} is",
    }  # fmt: skip
    facts.write_text(json.dumps(fact), encoding="utf-8")
    config = trace_relation.Config(
        model="toy", facts=str(facts), by="noise", samples=2, corrupt="subject", heatmaps=1,
        sites=["z"], out=str(tmp_path / MARKED.replace("/", "")),
    )  # fmt: skip
    folder = trace_relation.run(config)
    printed = capsys.readouterr().out
    assert f"Everything is in {folder}" in printed.replace("\n", "")
    assert len(list((folder / "facts").glob("*.png"))) == 1


@pytest.mark.slow
def test_a_neighbour_with_markup_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = edit_fact.Config(
        model="toy", editor="ft+l", neighbours=[MARKED], out=str(tmp_path / "run")
    )
    folder = edit_fact.run(config)
    assert "[/old] $x$" in capsys.readouterr().out
    assert escaped(MARKED) in (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("trace_relation", "ascii"),
        ("trace_relation", "cp1252"),
        ("edit_fact", "ascii"),
        ("patch_prompts", "cp1252"),
    ],
)
def test_a_terminal_without_the_characters_ends_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
):
    out = tmp_path / "run 巴→é"
    shown = printed(monkeypatch, encoding, *PRINTED[name], "--out", str(out))
    assert b"Everything is in" in shown and b"?" in shown
    json.loads((out / "config.json").read_text(encoding="utf-8"))
    shown = printed(monkeypatch, encoding, "figures.report", str(out))
    assert b"The page is in" in shown and b"?" in shown
    assert "run 巴→é" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_a_user_can_mend_is_told_in_any_encoding():
    for told in (
        ("figures.report", "no/folder 巴→é"),
        ("experiments.trace_relation", "--model", "toy", "--facts", "no/file 巴→é"),
    ):
        done = run("ascii", *told)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and last.startswith(b"error: ") and b"no/f" in last
