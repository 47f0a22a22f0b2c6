"""Files of one's own in commands: which cases are edited from which side, what is traced."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from experiments import trace_relation
from experiments._edit_options import ToEdit, to_edit
from experiments._printing import LISTED, say_skipped
from experiments.compare_editors import Config
from experiments.trace_relation import Config as Trace
from kedit.data import builtin, load_cases
from kedit.data.choose import usable_facts
from kedit.errors import InputError, RecordError
from kedit.models import toy as toy_module
from kedit.studies.prepare import requests_of
from tests.test_cases import EASYEDIT, EDIT, MQUAKE, OWN, written

BOTH = ("entity", "relation")


def chosen(file: Path, sides: tuple[str, ...] = BOTH, **options: int) -> ToEdit:
    return to_edit(replace(Config(cases=str(file)), **options), sides)  # pyright: ignore


def test_a_file_without_a_relation_side_is_edited_from_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, EASYEDIT, {**EASYEDIT, "case_id": 8})
    found = chosen(file)
    assert found.sides == ["entity"] and [case.id for case in found.cases] == ["7", "8"]
    said = capsys.readouterr().out
    assert said.startswith(f"Edited from the entity side only: no record of {file} has a relation")
    assert chosen(file, ("entity",)).sides == ["entity"]
    assert not capsys.readouterr().out  # that was asked for
    for side in ("relation", "together"):
        with pytest.raises(InputError, match="has a relation side, .* in a field 'relation'"):
            chosen(file, (side,))
    with pytest.raises(
        InputError, match="--skip 2: no case is left to edit, because .*f.jsonl has 2"
    ):
        chosen(file, skip=2)


def test_cases_without_the_side_that_is_edited_are_skipped_with_the_reason(tmp_path: Path) -> None:
    first, second = MQUAKE["requested_rewrite"]
    unnamed = [{**first, "relation_id": "P99999"}, second]
    file = written(tmp_path, MQUAKE, {**MQUAKE, "case_id": 8, "requested_rewrite": unnamed})
    found = chosen(file)
    assert found.sides == list(BOTH) and [case.id for case in found.cases] == ["7"]
    assert found.skipped == {"8": "it has no relation side"}
    (case,) = found.cases
    for side, n in (("entity", 2), ("relation", 2), ("together", 4)):
        assert len(requests_of(case, side)) == n  # pyright: ignore[reportArgumentType]
    assert len(chosen(file, ("entity",)).cases) == 2


def test_own_facts_with_a_target_are_edited_from_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, OWN, {**OWN, "template": "no place"}, {"subject": "x"})
    found = chosen(file)
    assert found.sides == list(BOTH) and found.cases == load_cases(written(tmp_path, OWN))
    assert list(found.skipped) == ["f.jsonl, line 2", "f.jsonl, line 3"]
    assert "skipped: f.jsonl, line 2: read as your own facts: temp" in capsys.readouterr().out
    with pytest.raises(RecordError, match="none of the records of .*; f.jsonl, line 1: read as ed"):
        chosen(written(tmp_path, {**EDIT, "subject": ""}))


def test_skipped_records_are_listed_up_to_a_few(capsys: pytest.CaptureFixture[str]) -> None:
    say_skipped("f.jsonl", {f"line {n}": "[bad]" for n in range(LISTED + 3)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "skipped: line 0: [bad]" and len(lines) == LISTED + 1
    assert lines[-1] == "skipped: 3 more records of f.jsonl"


@pytest.fixture
def folder_and_file(tmp_path: Path) -> Iterator[tuple[Trace, Path]]:
    fact = toy_module.facts()[0]
    good = {
        "subject": fact.subject, "relation": fact.relation.name, "object": fact.object,
        "template": fact.template,
    }  # fmt: skip
    file = written(tmp_path, {**good, "template": "no place here"}, good, {**good, "object": "no"})
    yield Trace(model="toy", facts=str(file), corrupt="subject", by="noise", samples=1,
                sites=["resid_post"], out=str(tmp_path / "run")), file  # fmt: skip


def test_a_bad_record_of_a_file_that_is_traced_costs_itself(
    toy: HookedTransformer,
    folder_and_file: tuple[Trace, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kedit.models.load.load", lambda *_: toy)
    config, file = folder_and_file
    folder = trace_relation.run(config)
    assert len((folder / "records.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    skipped = json.loads((folder / "skipped.json").read_text(encoding="utf-8"))
    (reason,) = skipped.values()
    assert list(skipped) == ["f.jsonl, line 1"] and "exactly one {}" in reason
    assert f"skipped: f.jsonl, line 1: {reason}" in capsys.readouterr().out
    facts, again = usable_facts(str(file))
    assert len(facts) == 2 and again == skipped
    assert usable_facts("builtin") == (builtin.load(), {})
    assert usable_facts("builtin")[0] is builtin.load()  # words to put in are found by that
