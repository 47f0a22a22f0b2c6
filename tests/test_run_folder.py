"""What a run's folder keeps: nothing old is taken for new, nothing damaged for whole."""

import copy
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from experiments import score_model, trace_relation
from experiments._command import command, open_run
from experiments.trace_relation import Config
from figures import report
from figures._run_files import read_run
from kedit.data.choose import fact_key
from kedit.data.inputs import inputs_of
from kedit.editing.provenance import fingerprint
from kedit.errors import InputError
from kedit.facts import Fact, Relation
from kedit.models.toy import cases
from kedit.records import key_of
from kedit.run_folder import DAMAGED, LONGEST, RunFolder, file_name
from tests.test_export import saved

ROOT = Path(__file__).parent.parent
FACT = Fact("Ada", Relation("P103", "language"), "Danish", "The language of {} is", ("language",))


@dataclass(frozen=True)
class Options:
    """A run's, of its own."""

    model: str = "toy"
    facts: str = ""
    editors: str = "rome"
    out: str = ""


def opened(options: Options) -> Path:
    with open_run("x", options) as folder:
        return folder.path


def filled(path: Path) -> RunFolder:
    """A run of five records, the third with tensors."""
    with open_run("x", Options(out=str(path))) as folder:
        for number in range(5):
            tensors = {"a": torch.arange(4.0)} if number == 2 else None
            folder.add(str(number), {"score": 0.125 * number, "said": "où\n"}, tensors)
        return folder


def reopened(path: Path) -> RunFolder:
    with open_run("x", Options(out=str(path))) as folder:
        return folder


def test_a_file_that_has_changed_is_not_the_same_run(tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text("1\n")
    options = Options(facts=str(facts), out=str(tmp_path / "run"))
    opened(options)
    opened(options)  # the control: the same once more
    RunFolder(tmp_path / "run").add("a", {"score": 1})
    facts.write_text("2\n")
    with pytest.raises(
        InputError, match=f"with another {facts}, which has changed since: choose another --out, or"
    ):
        opened(options)
    assert list(RunFolder(tmp_path / "run").records) == ["a"]  # and it is all there
    facts.write_text("1\n")
    opened(options)


def test_a_file_that_has_changed_gets_another_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facts.jsonl").write_text("1\n")
    options = Options(facts="facts.jsonl")
    first = opened(options)
    assert opened(options) == first
    Path("facts.jsonl").write_text("2\n")
    assert opened(options) != first


def test_files_are_found_wherever_an_option_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.json", "mend.safetensors", "m.gguf", "toy", "rome", "facts"):
        Path(name).write_text(name)
    Path("model").mkdir()
    Path("model", "config.json").write_text("{}")
    Path("model", "model.safetensors").write_text("1")
    Path("results").mkdir()
    options = {
        "facts": "facts",  # a whole option needs no suffix
        "cases": "a.jsonl,b.json",
        "editors": "rome,mend:file=mend.safetensors:scale=2",
        "more": ["{} is in a.jsonl", "./m.gguf"],
        "model": "model",
        "auto": "toy",
        "text": "hf:wikitext",
        "long": "x" * 5000,
        "nul": "a\0b",
        "user": "~nobody-of-that-name/x",
        "limit": 3,
        "folder": "results",
    }
    found = inputs_of(options)
    assert set(found) == {"facts", "a.jsonl", "b.json", "mend.safetensors", "./m.gguf", "model"}
    for changed in ("a.jsonl", "mend.safetensors", "model/model.safetensors", "model/config.json"):
        before = inputs_of(options)
        Path(changed).write_text("other")
        after = inputs_of(options)
        assert [name for name in found if before[name] != after[name]] == [changed.split("/")[0]]


def test_other_weights_are_not_the_same_run(toy: HookedTransformer, tmp_path: Path) -> None:
    other = copy.deepcopy(toy)
    with open_run("x", Options(out=str(tmp_path))) as folder:
        folder.require_weights(fingerprint(toy))
        folder.add("a", {"score": 1})
    with open_run("x", Options(out=str(tmp_path))) as folder:
        folder.require_weights(fingerprint(other))  # the control: a copy is the same
    with torch.no_grad():
        other.get_parameter("blocks.1.mlp.W_in")[5, 7] += 1e-3
    with (
        open_run("x", Options(out=str(tmp_path))) as folder,
        pytest.raises(InputError, match="holds a run of toy with other weights, which have chan"),
    ):
        folder.require_weights(fingerprint(other))
    assert list(reopened(tmp_path).records) == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trace", "score"])
def test_an_experiment_refuses_what_it_measured_on_other_weights(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def run() -> Path:
        if name == "score":
            config = score_model.Config(
                model="toy", limit=1, say=False, n_texts=0, out=str(tmp_path)
            )
            return score_model.run(config)
        config = Config(model="toy", limit=1, corrupt="subject", sites=["z"], out=str(tmp_path))
        return trace_relation.run(config)

    models = [toy, copy.deepcopy(toy)]
    with torch.no_grad():
        models[1].get_parameter("blocks.0.mlp.b_in")[3] += 0.5
    monkeypatch.setattr("kedit.models.load.load", lambda *_: models[0])
    before = (run() / "records.jsonl").read_bytes()
    monkeypatch.setattr("kedit.models.load.load", lambda *_: models[1])
    with pytest.raises(InputError, match="of toy with other weights"):
        run()
    assert (tmp_path / "records.jsonl").read_bytes() == before
    monkeypatch.setattr("kedit.models.load.load", lambda *_: models[0])
    assert (run() / "records.jsonl").read_bytes() == before


def test_no_experiment_loads_its_model_past_its_folder() -> None:
    loading = {
        file.stem
        for file in (ROOT / "experiments").glob("*.py")
        if re.search(r"models\.load import load$", file.read_text("utf-8"), re.MULTILINE)
    }
    assert loading == {"_loading", "_explore"}  # explore has no run
    texts = [file.read_text("utf-8") for file in (ROOT / "experiments").glob("*.py")]
    # edit_fact must know the model before it knows what is asked
    assert sum("loaded(config, None)" in text for text in texts) == 1
    assert "folder.require_weights(" in (ROOT / "experiments/_edit_run.py").read_text("utf-8")


def test_a_model_folder_with_other_weights_is_not_the_same_run(tmp_path: Path) -> None:
    model = Path(saved("gpt2", tmp_path / "model"))
    options = Options(model=str(model), editors="kn", out=str(tmp_path / "run"))
    opened(options)
    weights = model / "model.safetensors"
    numbers = bytearray(weights.read_bytes())
    numbers[-5] ^= 1
    weights.write_bytes(numbers)
    with pytest.raises(InputError, match=f"with another {model}, which has changed since"):
        opened(options)


def test_a_run_of_an_earlier_kedit_is_refused(tmp_path: Path) -> None:
    opened(Options(out=str(tmp_path)))
    told = json.loads((tmp_path / "config.json").read_text())
    for lacking in ("inputs", "weights"):
        older = {name: value for name, value in told.items() if name != lacking}
        (tmp_path / "config.json").write_text(json.dumps(older))
        with pytest.raises(InputError, match="earlier version of kedit.*: choose another --out"):
            opened(Options(out=str(tmp_path)))
        assert json.loads((tmp_path / "config.json").read_text()) == older


def test_a_run_of_another_format_is_refused_and_one_without_a_number_goes_on(
    tmp_path: Path,
) -> None:
    opened(Options(out=str(tmp_path)))
    config = tmp_path / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "format": "2"}))
    with pytest.raises(InputError, match="of format 2, but this kedit goes on with format 1: use"):
        opened(Options(out=str(tmp_path)))
    del told["format"]
    config.write_text(json.dumps(told))
    opened(Options(out=str(tmp_path)))
    assert json.loads(config.read_text())["format"] == "1"


@pytest.mark.parametrize("content", [b"", b'{"experi', b"{}", b"[]", b"null", b"\xff\xfe{}", b"3"])
def test_a_torn_configuration_is_told_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    opened(Options(out=str(tmp_path)))
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match="config.json is damaged, .*: choose another --out, or"):
        opened(Options(out=str(tmp_path)))


BAD = [
    b'{"key": "1", "score": 0.5}',  # no checksum, where others have one
    b'{"key": "1", "sco',
    b"[1]",
    b"{}",
    b"null",
    b"\xff\xfe\x00",
    b"\0\0\0\0",
    b"[" * 100_000,
    b"",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_line_costs_itself_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: bytes
) -> None:
    before = filled(tmp_path).records
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join([lines[0], bad + b"\n", *lines[2:]]))
    shown = read_run(tmp_path).records  # as the page reads it
    with caplog.at_level(logging.WARNING, "kedit"):
        folder = reopened(tmp_path)
    assert list(folder.records) == ["0", "2", "3", "4"]
    assert all(folder.records[key] == before[key] for key in folder.records)
    assert list(shown) == list(folder.records.values())
    assert (tmp_path / DAMAGED).read_bytes() == bad + b"\n"
    (told,) = caplog.messages
    assert f"damaged lines of {tmp_path / 'records.jsonl'} (1), and" in told
    assert "lost or damaged (0)" in told
    folder.add("1", {"score": 0.125})
    caplog.clear()
    assert set(reopened(tmp_path).records) == set("01234") and not caplog.messages


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = tmp_path / "records.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(whole.replace(b"0.375", b"0.385"))
    assert list(reopened(tmp_path).records) == ["0", "1", "2", "4"]
    assert b"0.385" in (tmp_path / DAMAGED).read_bytes()


def test_any_flipped_bit_costs_the_record_it_is_in_and_no_other(tmp_path: Path) -> None:
    before = filled(tmp_path).records
    lines = tmp_path / "records.jsonl"
    whole = lines.read_bytes()
    (own,) = [line for line in whole.splitlines(keepends=True) if b'"key": "3"' in line]
    start = whole.index(own)
    for place in range(start, start + len(own) - 1):  # the end of a line makes two bad ones
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        lines.write_bytes(damaged)
        found = reopened(tmp_path).records
        assert list(found) == ["0", "1", "2", "4"], damaged[start : start + len(own)]
        assert all(found[key] == before[key] for key in found)


@pytest.mark.parametrize("tail", [b'{"key": "5", "score": 0.', b"\0" * 20, b'{"key": "5"}'])
def test_a_torn_last_line_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tail: bytes
) -> None:
    filled(tmp_path)
    whole = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(whole + tail)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert list(reopened(tmp_path).records) == list("01234")
    assert (tmp_path / "records.jsonl").read_bytes() == whole
    assert not (tmp_path / DAMAGED).exists() and not caplog.messages


def test_a_record_that_is_there_is_replaced(tmp_path: Path) -> None:
    filled(tmp_path).add("3", {"score": 7})
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines()
    assert len(lines) == 5 and b'"score": 7' in lines[3]
    assert reopened(tmp_path).records["3"] == {"key": "3", "score": 7}


def of(path: Path, change: Callable[[bytearray], object]) -> None:
    numbers = bytearray(path.read_bytes())
    change(numbers)
    path.write_bytes(numbers)


def flip(numbers: bytearray) -> None:
    numbers[-2] ^= 1


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: of(file, lambda numbers: numbers.__delitem__(slice(60, None))),
    "a flipped bit": lambda file: of(file, flip),
    "another record's": lambda file: file.write_bytes(file.with_name("b.safetensors").read_bytes()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_lost_or_damaged_tensors_have_their_record_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    with open_run("x", Options(out=str(tmp_path))) as folder:
        for key, number in (("a", 1.0), ("b", 2.0)):
            folder.add(key, {"score": number}, {"effect": torch.full((3,), number)})
    assert list(reopened(tmp_path).records) == ["a", "b"]  # the control
    HARMS[harm](tmp_path / "tensors" / "a.safetensors")
    with caplog.at_level(logging.WARNING, "kedit"):
        folder = reopened(tmp_path)
    assert list(folder.records) == ["b"]
    assert "records.jsonl (0), and records whose tensors are lost or damaged (1)" in caplog.text
    assert torch.equal(folder.tensors("b")["effect"], torch.full((3,), 2.0))
    folder.add("a", {"score": 1.0}, {"effect": torch.ones(3)})
    assert set(reopened(tmp_path).records) == {"a", "b"}
    HARMS[harm](tmp_path / "tensors" / "a.safetensors")
    with pytest.raises(InputError, match="lost or damaged: run the same command again"):
        folder.tensors("a")


def test_a_page_of_damaged_tensors_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.add("t", {"traces": []}, {"effect": torch.ones(3)})
    of(tmp_path / "tensors" / "t.safetensors", flip)
    with pytest.raises(InputError, match="t.safetensors is damaged. Repeat the run's command"):
        report.run(report.Config(runs=[str(tmp_path)]))


@pytest.mark.parametrize("below", ["", "run"])
def test_a_folder_that_is_a_file_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / below)
    argv = ["experiments/trace_relation.py", "--model", "toy", "--out", out]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        command(Config, trace_relation.run)
    (line,) = str(end.value).splitlines()
    assert line == f"error: --out {out}: {tmp_path / 'file'} is a file, but a folder is needed"


def test_a_full_disk_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(InputError, match=f"{tmp_path} cannot be .*: No space left on device"),
        open_run("x", Options(out=str(tmp_path))) as folder,
    ):
        folder.add("a", {"score": 1})
        monkeypatch.setattr(os, "fsync", full)
        folder.add("b", {"score": 2})
    monkeypatch.undo()
    assert "a" in reopened(tmp_path).records


def test_an_error_of_a_network_is_not_one_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no route"), open_run("x", Options(out=str(tmp_path))):
        raise OSError("no route")


def test_a_facts_key_changes_with_anything_of_it() -> None:
    others = [
        replace(FACT, relation_words=("language of",)),
        replace(FACT, relation=replace(FACT.relation, kind="symmetric")),
        replace(FACT, relation=replace(FACT.relation, domain="person")),
        replace(FACT, relation=replace(FACT.relation, aliases=("tongue",))),
        replace(FACT, object="Greek"),
    ]
    assert len({fact_key(one) for one in (FACT, *others)}) == 6
    assert fact_key(replace(FACT)) == fact_key(FACT)
    one, *_ = cases()
    assert len({key_of(one), key_of(replace(one, probes=one.probes[:-1])), key_of(cases()[0])}) == 2


def test_a_field_that_a_later_kedit_adds_changes_no_key() -> None:
    old = make_dataclass("Probe", [("prompt", str), ("rival", str, "")])
    new = make_dataclass("Probe", [("prompt", str), ("rival", str, ""), ("more", tuple, ())])
    assert key_of(old("a", "b")) == key_of(new("a", "b"))
    assert key_of(new("a", "b", ("c",))) != key_of(new("a", "b"))
    assert key_of(old("a")) != key_of(old("b"))


def test_a_files_name_is_bounded_and_clean(tmp_path: Path) -> None:
    plain = "subject-P19-Inés Ironwood-mlp_out"
    assert file_name(plain) == plain
    for text in ("a/b\\c", "NUL\0here", "line\nline", "x" * 3000, "é" * 3000, "\ud800", "../../x"):
        name = file_name(text)
        assert 0 < len(name.encode()) <= LONGEST and "/" not in name
        (tmp_path / f"{name}.png").touch()
        assert (tmp_path / f"{name}.png").resolve().parent == tmp_path.resolve()
    assert file_name("x" * 3000 + "a") != file_name("x" * 3000 + "b")


def test_what_ctrl_c_ends_has_the_shells_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: Config) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["experiments/trace_relation.py", "--model", "toy"])
    with pytest.raises(SystemExit) as end:
        command(Config, interrupted)
    assert end.value.code == 130
    assert "the same command continues from there" in capsys.readouterr().err


def test_a_run_notes_the_commit_where_there_is_one(tmp_path: Path) -> None:
    opened(Options(out=str(tmp_path)))
    told = json.loads((tmp_path / "versions.json").read_text("utf-8"))
    assert ("commit" in told) == (ROOT / ".git").exists()
    assert re.fullmatch(r"[0-9a-f]{40}\+?", told.get("commit", "0" * 40))
