"""The experiment that scores an unedited model: whole, stopped, and on a file with bad records."""

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import score_model
from experiments._run import open_run
from experiments._score import benchmark, score_cases, spread
from experiments.score_model import Config
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.scoring.score import Scoring

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TOY = Config(model="toy", limit=20, texts=2)


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
    found = json.loads((run / "measures.json").read_text())
    assert (found["cases"], found["skipped"]) == (20, 0)
    assert found["perplexity"]["low"] <= found["perplexity"]["mean"] <= found["perplexity"]["high"]
    rows = {(m["perspective"], m["group"], m["statistic"]): m for m in found["overall"]}
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
    assert len(found["by relation"]) == 4


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
    process = subprocess.Popen(
        [
            sys.executable, "-m", "experiments.score_model", "--model", "toy", "--limit", "20",
            "--texts", "2", "--out", str(tmp_path),
        ],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = lines.read_bytes()
    score_model.run(replace(TOY, out=str(tmp_path)))
    assert lines.read_bytes().startswith(finished[: finished.rfind(b"\n") + 1])
    again = json.loads((tmp_path / "measures.json").read_text())
    whole = json.loads((run / "measures.json").read_text())
    for one, other in zip(again["overall"], whole["overall"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


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
    assert json.loads((folder / "measures.json").read_text())["cases"] == 2


def test_a_file_of_which_nothing_can_be_used_stops_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    source = file_of(tmp_path / "cases.jsonl", record(3, ""))
    with pytest.raises(InputError, match=r"none of the records of .* can be used; .*subject"):
        score_model.run(replace(TOY, cases=source))


def test_a_case_that_is_built_anew_is_scored_anew(tmp_path: Path, toy: object) -> None:
    cases = toy_module.cases()[:2]
    with open_run("x", replace(TOY, out=str(tmp_path))) as folder:
        score_cases(folder, toy, cases, Scoring(say=False), 0)  # pyright: ignore
        assert len(folder.records) == 2
        changed = replace(cases[0], probes=cases[0].probes[:1])
        scores = score_cases(folder, toy, [changed, cases[1]], Scoring(say=False), 0)  # pyright: ignore
        assert len(folder.records) == 3
    assert [len(score.probes) for score in scores] == [1, len(cases[1].probes)]


def test_few_cases_are_of_many_relations() -> None:
    cases = toy_module.cases()
    chosen = spread(cases, 8, seed=0)
    relations = [case.entity.fact.relation.id for case in chosen]
    assert all(relations.count(relation) == 2 for relation in set(relations))
    assert len(set(relations)) == 4
    assert chosen == spread(cases, 8, seed=0) != spread(cases, 8, seed=1)
    assert benchmark("toy") == (cases, {}) and spread(cases, 0, 0) == cases


def test_what_is_missing_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    config = replace(TOY, model="no-such-model", cases="nowhere.jsonl", out=str(tmp_path))
    with pytest.raises(InputError, match=r"nowhere.jsonl: cannot be read"):
        score_model.run(config)
