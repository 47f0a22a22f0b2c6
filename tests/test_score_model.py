"""The experiment that scores an unedited model: whole, stopped, and on a file with bad records."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from experiments import score_model
from experiments.score_model import Config
from kedit.data.choose import spread_cases, usable_cases
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.records import to_record
from kedit.results.measures import OF_PROMPTS, Scores
from kedit.run_folder import RunFolder
from kedit.scoring.summary import STATISTICS
from kedit.studies.scoring import score_cases
from tests.conftest import stopped_after

pytestmark = pytest.mark.slow

TOY = Config(model="toy", limit=20, n_texts=2)


def record(case_id: int, subject: str, **more: object) -> dict:
    rewrite = {
        "prompt": "The birthplace of {} is",
        "relation_id": "P19",
        "subject": subject,
        "target_true": {"str": "Corum"},
        "target_new": {"str": "Delft"},
    }
    return {"case_id": case_id, "requested_rewrite": rewrite, **more}


def file_of(path: Path, *records: object) -> str:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score_model.run(replace(TOY, out=str(tmp_path_factory.mktemp("score") / "run")))


def test_every_metric_of_both_sides_has_a_value_an_interval_and_an_n(run: Path) -> None:
    found = Scores.load(run)
    assert (found.n_cases, found.skipped, found.model) == (20, {}, "toy")
    mean, low, high = found.perplexity.floats()
    assert low <= mean <= high and found.n_chunks == 16
    rows = {(*one.key,): one.row() for one in found.overall}
    for side, group in (
        ("entity", "efficacy"), ("entity", "paraphrase"), ("entity", "neighborhood"),
        ("entity", "other relations"), ("relation", "efficacy"), ("relation", "paraphrase"),
        ("relation", "removal"), ("relation", "removal paraphrase"), ("relation", "neighborhood"),
        ("relation", "other relations"),
    ):  # fmt: skip
        for statistic in ("success", "magnitude", "exact match"):
            one = rows[side, group, statistic]
            assert one["before low"] <= one["before"] <= one["before high"]
            assert one["n_cases"] == 20 and one["n_prompts"] >= 20
    assert rows["entity", "neighborhood", "success"]["before"] == 1  # the toy knows its world
    assert rows["entity", "efficacy", "says the rival"]["before"] == 1
    assert rows["both", "generated text", "n-gram entropy"]["n_cases"] == 2
    assert rows["both", "Score", "harmonic mean"]["before"] == 0
    assert len(found.by_relation) == len(found.kinds) == 4


def test_the_table_holds_all_cases_and_each_relation(run: Path) -> None:
    rows = list(csv.DictReader((run / "measures.csv").read_text().splitlines()))
    assert {row["cases of"] for row in rows} == {"all", *(r.name for r in toy_module.WORLD)}
    assert all(row["before"] and not row["after"] for row in rows)


def test_the_figures_are_drawn(run: Path) -> None:
    for name in ("start", "by-relation"):
        assert (run / f"{name}.png").stat().st_size > 10_000
        assert (run / f"{name}.pdf").exists()


def test_a_stopped_run_goes_on_and_ends_the_same(run: Path, tmp_path: Path) -> None:
    lines = tmp_path / "records.jsonl"
    with stopped_after(3), pytest.raises(KeyboardInterrupt):
        score_model.run(replace(TOY, out=str(tmp_path)))
    finished = lines.read_bytes()
    assert finished.count(b"\n") == 3
    score_model.run(replace(TOY, out=str(tmp_path)))
    assert lines.read_bytes().startswith(finished)
    for one, other in zip(Scores.load(tmp_path).overall, Scores.load(run).overall, strict=True):
        assert one.row() == pytest.approx(other.row(), abs=1e-5)


def test_bad_records_are_counted_and_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    source = file_of(
        tmp_path / "cases.jsonl",
        record(0, "Ada Alder"),
        record(1, "Bruno Birch", paraphrase_prompts=["Bruno Birch " * 60 + "was born in"]),
        '{"case_id": 2, "requested',
        record(3, ""),
        record(0, "Clara Cedar"),
        record(5, "Elif Elm"),
    )
    folder = score_model.run(replace(TOY, cases=source, limit=0, out=str(tmp_path / "run")))
    skipped = json.loads((folder / "skipped.json").read_text())
    assert len(skipped) == 4
    text = json.dumps(skipped)
    for message in (
        "line 3", "broken JSON", "line 4", "subject", "line 5", "tokens, the model reads 64",
    ):  # fmt: skip
        assert message in text
    assert Scores.load(folder).n_cases == 2 and Scores.load(folder).skipped == skipped


def test_a_file_of_which_nothing_can_be_used_stops_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    source = file_of(tmp_path / "cases.jsonl", record(3, ""))
    with pytest.raises(InputError, match=r"none of the records of .* can be used; .*subject"):
        score_model.run(replace(TOY, cases=source))


def test_a_result_in_memory_is_the_one_of_the_folder(run: Path, toy: HookedTransformer) -> None:
    journal = RunFolder(run)  # with all of its records: nothing is scored again
    n_records = len(journal.records)
    found = score_cases(toy, spread_cases(toy_module.cases(), 20, 0), n_texts=2, journal=journal)
    assert to_record(found) == to_record(Scores.load(run)) and len(journal.records) == n_records
    assert to_record(Scores.from_record(found.to_record())) == to_record(found)


def test_the_tables_are_of_all_cases_and_of_each_relation(run: Path) -> None:
    found = Scores.load(run)
    table, by_relation, summary = found.table(), found.table(by="relation"), found.summary()
    assert table.title == "toy before any edit, 20 cases" and not table.parts
    groups = {
        (one.key.perspective, one.key.group) for one in found.overall if "both" not in one.key
    }
    assert {row[:2] for row in table.rows} == {one for one in groups if one[1] != "Score"}
    assert table.rows[0][:3] == ("entity", "efficacy", "0 [0, 16]")
    assert set(by_relation.parts) == set(found.by_relation)
    assert [row[1] for row in summary.rows] == [
        "generated text, n-gram entropy", "Score, harmonic mean", "Score, harmonic mean",
        "efficacy, harmonic mean", "paraphrase, harmonic mean",
    ]  # fmt: skip
    assert tuple(STATISTICS) == OF_PROMPTS
    with pytest.raises(InputError, match="by='editor': must be"):
        found.table(by="editor")
    assert "before any edit" in found.plot().get_suptitle()
    assert "by relation" in found.plot(by="relation").get_suptitle()


def test_few_cases_are_of_many_relations() -> None:
    cases = toy_module.cases()
    chosen = spread_cases(cases, 8, seed=0)
    relations = [case.entity.fact.relation.id for case in chosen]
    assert all(relations.count(relation) == 2 for relation in set(relations))
    assert len(set(relations)) == 4
    assert chosen == spread_cases(cases, 8, seed=0) != spread_cases(cases, 8, seed=1)
    assert usable_cases("toy") == (cases, {}) and spread_cases(cases, 0, 0) == cases


def test_what_is_missing_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    config = replace(TOY, model="no-such-model", cases="nowhere.jsonl", out=str(tmp_path))
    with pytest.raises(InputError, match=r"nowhere.jsonl: cannot be read"):
        score_model.run(config)
