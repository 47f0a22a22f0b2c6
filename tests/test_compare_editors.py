"""The comparison of editors: whole, stopped, with failures, and what it says of both sides."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from experiments import compare_editors
from experiments.compare_editors import Config
from kedit.data.choose import fewer_probes
from kedit.editing import moments as moments_module
from kedit.editing.edit import Edit
from kedit.editing.provenance import made_by
from kedit.editors.joint import Joint
from kedit.editors.lists import parse_specs
from kedit.editors.registry import label_of, make_editor
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.records import to_record
from kedit.results.outcomes import Outcome
from kedit.run_folder import RunFolder
from kedit.scoring.drift import baseline, held_out
from kedit.scoring.score import Scoring, score
from kedit.scoring.summary import LIFTS, Key
from kedit.studies.comparing import compare
from kedit.studies.comparison import Comparison
from kedit.studies.edits import Assessment, edit_cases
from kedit.studies.memory import peak_since_now
from kedit.studies.papers_table import COLUMNS
from kedit.studies.prepare import Arm, prepare
from tests.conftest import stopped_after

pytestmark = pytest.mark.slow

TOLD = "ft,ft+l:bound=0.01"
TOY = Config(model="toy", limit=3, editors=TOLD, chunks=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare_editors.run(replace(TOY, out=str(tmp_path_factory.mktemp("compare") / "run")))


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def table(file: Path) -> list[dict]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_every_case_is_edited_by_every_editor_from_both_sides(run: Path) -> None:
    edits = [one for one in records(run) if "editor" in one]
    assert len(edits) == 3 * 2 * 2 and len(records(run)) == 3 + len(edits)
    assert len({(one["id"], one["editor"], one["side"]) for one in edits}) == len(edits)
    assert all(one["seconds"] > 0 and one["perplexity"] > 1 and one["norm"] > 0 for one in edits)


def test_measures_of_both_sides_have_values_before_after_and_lifts(run: Path) -> None:
    found = Comparison.load(run)
    assert [(one.side, one.editor) for one in found.editors] == [
        (side, name) for side in ("entity", "relation") for name in TOLD.split(",")
    ]
    for one in found.editors:
        for side, group in (("entity", "efficacy"), ("relation", "removal")):
            measure = one.measure(Key(side, group, "magnitude"))
            assert measure and measure.before and measure.after and measure.lift
            assert measure.lift.mean == pytest.approx(measure.after.mean - measure.before.mean)
            assert measure.after.low <= measure.after.mean <= measure.after.high
            assert measure.n_cases == 3
        other = "relation" if one.side == "entity" else "entity"
        assert one.measure(Key(other, "transfer", "gain"))
        assert not one.measure(Key(one.side, "transfer", "gain"))
    edited = found.editors[0].measure(Key("entity", "efficacy", "magnitude"))
    assert edited and edited.lift and edited.lift.mean > 0.5  # it does edit


def test_tests_are_of_every_editor_against_the_first(run: Path) -> None:
    tests = table(run / "tests.csv")
    assert {(one["edited"], one["editor"]) for one in tests} == {
        (side, "ft+l:bound=0.01") for side in ("entity", "relation")
    }
    assert all(float(one["p"]) <= float(one["p (Holm)"]) <= 1 for one in tests)
    # three cases: no sign flip can be rarer than one in four
    assert min(float(one["p"]) for one in tests if one["group"] != "Score") > 0.2


@pytest.mark.parametrize("way", LIFTS)
@pytest.mark.parametrize("side", ["entity", "relation"])
def test_scores_are_tested_as_differences_of_the_scores(run: Path, side: str, way: str) -> None:
    first, second = Comparison.load(run).sides[side]
    key = Key(side, "Score", way)
    own = [one for one in second.tests if one.key.group == "Score"]
    assert {one.key.statistic for one in own} == {*LIFTS} and not first.tests
    (test,) = [one for one in own if one.key == key]
    then, now = first.measure(key), second.measure(key)
    assert then and now and then.after and now.after
    mean, low, high = test.difference.floats()
    assert mean == pytest.approx(float(now.after.mean - then.after.mean))
    assert low <= mean <= high and 0 < test.p <= 1
    for one in (first, second):
        for share in (one.locality, one.generalisation):
            mean, low, high = share.floats()
            assert -1 <= low <= mean <= high <= 1


def test_tables_and_figure_are_there(run: Path) -> None:
    text = (run / "comparison.md").read_text()
    assert "Edited from the entity side: toy, 3 cases" in text and "| seconds per edit |" in text
    rows = table(run / "comparison.csv")
    assert {row["edited"] for row in rows} == {"entity", "relation"} and all(
        row["after"] for row in rows
    )
    for name in ("comparison", "frontier"):
        assert (run / f"{name}.png").stat().st_size > 10_000 and (run / f"{name}.pdf").exists()


def test_the_table_has_how_likely_the_old_object_and_the_old_relation_still_are(run: Path) -> None:
    found = Comparison.load(run)
    for side in found.sides:
        table = found.table(side)
        rows = [
            row
            for row, part in zip(table.rows, table.parts, strict=True)
            if part == "probability of the old object or relation"
        ]
        assert [name for name, *_ in rows] == [
            "entity efficacy", "relation removal", "relation removal paraphrase",
        ]  # fmt: skip
        # before the edit: what the toy was trained to say
        assert all(float(before.split(" ")[0]) > 90 for _, before, *_ in rows)


@pytest.mark.parametrize("n_cases", [1, 2])
def test_cases_with_their_own_prompt_alone_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], n_cases: int
) -> None:
    """Nothing is asked of neighbours, so that locality is no number, and nothing breaks."""
    lines = [
        {"case_id": number, "prompt": fact.prompt, "subject": fact.subject,
         "ground_truth": fact.object, "target_new": toy_module.facts()[4].object}
        for number, fact in enumerate(toy_module.facts()[:n_cases])
    ]  # fmt: skip
    file = tmp_path / "own.json"
    file.write_text(json.dumps(lines), encoding="utf-8")
    config = replace(TOY, cases=str(file), perspective="entity", out=str(tmp_path / "run"))
    folder = compare_editors.run(config)
    text = (folder / "comparison.json").read_text()
    first, _ = json.loads(text, parse_constant=pytest.fail)["editors"]
    assert first["locality"] == {"mean": None, "low": None, "high": None}
    assert first["generalisation"]["mean"] is not None
    assert (first["generalisation"]["low"] is None) == (n_cases == 1)
    rows = {row["statistic"]: row for row in table(folder / "comparison.csv")}
    assert rows["success"]["after"] and (rows["success"]["after low"] == "") == (n_cases == 1)
    for name in ("comparison.csv", "tests.csv", "comparison.md"):
        assert "nan" not in (folder / name).read_text().lower()
    shown = capsys.readouterr().out
    assert f"{n_cases} case{'s' * (n_cases > 1)}" in shown and ("[" in shown) == (n_cases > 1)


def efficacies(score: dict) -> dict[str, float]:
    """Log-probability of the new answer after each side's own prompt."""
    own = [one for one in score["probes"] if one["group"] == "efficacy"]
    return {one["perspective"]: one["logprob"] for one in own}


def test_both_requests_of_a_case_are_one_edit(tmp_path: Path) -> None:
    told = ["joint&", "joint & joint", "joint"]
    config = replace(
        TOY, editors=",".join(told), perspective="together", limit=1, ranks=False,
        out=str(tmp_path),
    )  # fmt: skip
    found = Comparison.load(compare_editors.run(config)).editors
    assert [one.editor for one in found] == told
    for one in found:
        rows = {measure.key for measure in one.measures}
        assert not [key for key in rows if key[1] == "transfer"]  # there is no other side
        assert {key[0] for key in rows if key[2] == "lifts"} == {"entity", "relation", "both"}
    before, *edits = records(tmp_path)
    # the toy may have no room for two edits: the first of two in turn may be lost
    old, alone, in_turn, at_once = map(efficacies, (before, *(one["score"] for one in edits)))
    half = math.log(0.5)
    assert max(old.values()) < half < min(alone["entity"], in_turn["relation"], *at_once.values())
    assert alone["relation"] < min(in_turn["relation"], at_once["relation"])  # it is not asked for
    assert "Edited from both sides: toy, 1 case" in (tmp_path / "comparison.md").read_text()


def test_a_stopped_run_goes_on_with_what_is_missing(run: Path, tmp_path: Path) -> None:
    lines = tmp_path / "records.jsonl"
    with stopped_after(5), pytest.raises(KeyboardInterrupt):
        compare_editors.run(replace(TOY, out=str(tmp_path)))
    finished = lines.read_bytes()
    assert finished.count(b"\n") == 5
    compare_editors.run(replace(TOY, out=str(tmp_path)))
    assert lines.read_bytes().startswith(finished)
    whole = {one["key"]: one for one in records(run)}
    assert {one["key"] for one in records(tmp_path)} == set(whole)
    for one in records(tmp_path):
        if "editor" in one:
            assert one["norm"] == pytest.approx(whole[one["key"]]["norm"], rel=1e-3)


def arm(make: Callable[[Sequence[EditRequest]], Edit]) -> Arm:
    return Arm("broken", "entity", make)


def test_editors_are_compared_in_memory_and_a_journal_saves_doing_it_again(
    toy: HookedTransformer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, cases = Journal(), toy_module.cases()[:1]
    editors = ["ft", Joint(layers=(1,), n_tokens=64)]
    settings = {"perspective": "relation", "chunks": 1, "labels": ()}
    found = compare(toy, cases, editors, **settings, journal=journal)
    assert [one.editor for one in found.editors] == ["ft", "joint:layers=(1,):n_tokens=64"]
    assert Comparison.from_record(to_record(found)).to_record() == found.to_record()
    monkeypatch.setattr("kedit.studies.edits.edit_of", pytest.fail)
    again = compare(toy, cases, editors, **settings, journal=journal)
    assert again.to_record() == found.to_record()
    against = found.test("ft")
    assert {row[0] for row in against.rows} == {"joint:layers=(1,):n_tokens=64"}
    with pytest.raises(InputError, match="editor 'rome' was not compared"):
        found.test("rome")
    with pytest.raises(InputError, match="was not edited"):
        found.table("entity")


def test_tests_against_the_first_editor_are_those_that_are_saved(run: Path) -> None:
    found = Comparison.load(run)
    saved = [one for one in found.editors[1].tests if one.key.statistic == "magnitude"]
    rows = found.test("ft").rows
    assert len(rows) == len(saved) > 5
    assert [row[3] for row in rows] == [f"{one.p:.2g}" for one in saved]


def test_an_editors_label_makes_the_editor_again() -> None:
    for spec in ("joint:layers=(1,):n_tokens=64", "rome:layer=2:key='legacy'", "ft:layer=0"):
        editor = make_editor(spec, "unknown/model")
        assert make_editor(label_of(editor), "unknown/model") == editor


def test_an_edit_in_trouble_is_named_and_counts_as_no_edit(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    case = toy_module.cases()[0]
    (before,) = score(toy, [case], Scoring(say=False))
    text = baseline(toy, held_out(toy, "", 1))
    weight = toy.blocks[1].mlp.W_out  # pyright: ignore

    def wrecking(requests: Sequence[EditRequest]) -> Edit:
        delta = 20 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        return Edit({"blocks.1.mlp.W_out": delta}, made_by("broken", {}, requests, toy))

    def refusing(requests: Sequence[EditRequest]) -> Edit:
        raise InputError("no such token")

    for number, (make, trouble) in enumerate(((wrecking, "perplexity"), (refusing, "no such tok"))):
        folder = RunFolder(tmp_path / str(number))
        folder.path.mkdir()
        broken = arm(make)
        how = Assessment(Scoring(say=False), text)
        (outcome,) = edit_cases(toy, {case: before}, [broken], how, folder)[broken]
        assert trouble in outcome.trouble
        assert outcome.counted(before) == before
        # what was measured is kept all the same
        assert (outcome.score is not None) is (make is wrecking)
        assert outcome.score is None or outcome.score != before
        assert Outcome.from_record(records(folder.path)[0]) == outcome


def test_editors_are_split_at_commas_outside_of_brackets_and_quotation_marks() -> None:
    told = [
        "rome", "memit:layers=(1,2):weight=3", "joint:heads=((0,1),(1,3))", "ft:text='a,b'",
        "rome:contexts=('Smile :), he says. ',)", "rome:text=Bob's.txt", "ft",
    ]  # fmt: skip
    assert parse_specs(" ,".join(told)) == told


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"editors": "rome,nome"}, "there is no editor 'nome'"),
        ({"editors": " , "}, "--editors: no editor is given"),
        ({"skip": 10_000}, "--skip 10000"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        compare_editors.run(replace(TOY, **changed, out=str(tmp_path)))


def test_the_peak_is_that_of_the_work_alone() -> None:
    small = [torch.ones(1000) for _ in range(30_000)]  # 120 MB that the allocator keeps for itself
    del small
    peak = peak_since_now([torch.device("cpu")])
    held = [torch.ones(1000) for _ in range(30_000)]
    del held
    taken = peak()
    if taken is None:
        pytest.skip("this system does not count it")
    assert 1e8 < taken < 3e8
    assert (peak_since_now([torch.device("cpu")])() or 0) < 5e7


def test_the_papers_table_has_both_sides_of_every_editor_and_the_model_before(run: Path) -> None:
    lines = (run / "comparison.md").read_text().splitlines()
    assert lines[0].startswith("### Success in percent, as in the RaKE paper")
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:9])
    assert heads[2:] == list(COLUMNS)
    told = [(side, name) for side in ("entity", "relation") for name in TOLD.split(",")]
    assert [(row[0], row[1]) for row in rows] == [("", "before"), *told]
    found = {
        (one.side, one.editor, *measure.key): measure
        for one in Comparison.load(run).editors
        for measure in one.measures
    }
    for side, name, *cells in rows[1:]:
        wanted = [
            found[(side, name, *key)]
            for group in ("efficacy", "paraphrase")
            for key in (
                ("entity", group, "success"),
                ("relation", group, "success"),
                ("both", group, "harmonic mean"),
            )
        ]
        shown = [float(cell.split(" ")[0]) for cell in cells]
        assert shown == pytest.approx(
            [100 * one.after.mean for one in wanted if one.after], abs=0.5
        )
        before = [float(cell.split(" ")[0]) for cell in rows[0][2:]]
        assert before == pytest.approx(
            [100 * one.before.mean for one in wanted if one.before], abs=0.5
        )
    assert any(row[2] != rows[0][2] for row in rows)


def test_one_pass_over_the_text_serves_all_editors(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_module, "cache_dir", lambda: tmp_path)
    passes, sums = [], moments_module._sums
    monkeypatch.setattr(moments_module, "_sums", lambda *a: (passes.append(a[1]), sums(*a))[1])
    corpus = tmp_path / "text.txt"
    corpus.write_text("Bruno Birch likes to speak Danish. " * 400, encoding="utf-8")
    told = "rome:n_tokens=256,memit:n_tokens=256,joint:n_tokens=256,ft"
    arms = prepare(toy, told.split(","), ["relation"], text=str(corpus))
    assert [arm.name for arm in arms] == told.split(",")
    (first, *kept) = passes  # W_out of layers 1 and 2, and both halves of 0 and 1
    assert sorted(len(job.sites) for job in first) == [1, 1, 2, 2]
    assert all(job.file.exists() for jobs in kept for job in jobs)


def test_fewer_probes_are_the_first_of_each_kind() -> None:
    case = toy_module.cases()[0]
    fewer = fewer_probes(case, 1)
    kinds, kept = (
        [(probe.perspective, probe.group) for probe in one.probes] for one in (case, fewer)
    )
    assert kept == list(dict.fromkeys(kinds))
    assert len(fewer.probes) < len(case.probes) and fewer_probes(case, 0) is case
    assert fewer.probes[0] == case.probes[0] and fewer_probes(case, 99) == case
