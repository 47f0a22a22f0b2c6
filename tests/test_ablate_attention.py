"""The ablation of attention: its arms, equal norms, paired differences, and what is kept."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from transformer_lens import HookedTransformer

from experiments import ablate_attention
from experiments.ablate_attention import Config
from kedit.data.choose import spread_cases
from kedit.editors.joint import Joint
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models.toy import cases as toy_cases
from kedit.results.ablation import ABLATED, BOTH, BUDGETS, RANDOM, Ablation
from kedit.studies.ablating import ablate, arms_of, with_random_heads
from kedit.studies.comparing import compare
from kedit.studies.comparison import Comparison

pytestmark = pytest.mark.slow

TOY = Config(model="toy", limit=5, draws=2, n_random_heads=1, chunks=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ablate_attention.run(replace(TOY, out=str(tmp_path_factory.mktemp("ablate") / "run")))


def edits(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
    return [one for one in lines if "budget" in one]


def test_every_case_is_edited_by_every_arm_at_both_norms(run: Path) -> None:
    found = edits(run)
    assert len(found) == 5 * (3 + 2) * 2
    arms = Ablation.load(run).arms
    assert [len(arm.editors) for arm in arms] == [1, 1, 1, 2]
    assert {one["editor"] for one in found} == {each for arm in arms for each in arm.editors}


def test_at_equal_norms_all_edits_of_a_case_are_as_large_as_the_smallest(run: Path) -> None:
    sizes: dict[tuple[str, str], set[float]] = {}
    for one in edits(run):
        sizes.setdefault((one["id"], one["budget"]), set()).add(one["size"])
    ids = {case for case, _ in sizes}
    for case in ids:
        (equal,) = sizes[case, "equal"]
        assert equal == min(sizes[case, "free"]) < max(sizes[case, "free"])
    shrunk = {
        (one["id"], one["editor"]): one["norm"] for one in edits(run) if one["budget"] == "equal"
    }
    for one in edits(run):
        if one["budget"] == "free":
            (least,) = sizes[one["id"], "equal"]
            norm = shrunk[one["id"], one["editor"]]
            assert norm == pytest.approx(one["norm"] * least / one["size"], rel=1e-3)


def test_random_heads_are_drawn_by_seed_in_the_layers_of_both() -> None:
    both = Joint(layers=(0, 1), weight=3.0)
    one, other = (with_random_heads(both, 4, 1, draws=2, seed=seed) for seed in (0, 1))
    assert one == with_random_heads(both, 4, 1, draws=2, seed=0) and one != other
    assert len({editor.heads for editor in one}) == 2
    for editor in one:
        assert [layer for layer, _ in editor.heads] == [0, 1] and replace(editor, heads=()) == both


@pytest.mark.parametrize("n", [-1, 4, 5])
def test_as_many_heads_as_a_layer_has_are_not_drawn(n: int) -> None:
    with pytest.raises(InputError, match="from 1 to 3"):
        with_random_heads(Joint(layers=(0,)), 4, n, draws=1, seed=0)


def test_both_must_be_a_joint_editor(toy: HookedTransformer) -> None:
    with pytest.raises(InputError, match="rome: the editor of 'both' must be a joint editor"):
        ablate(toy, toy_cases(), {**ABLATED, BOTH: "rome"})


def test_differences_are_those_of_the_scores(run: Path) -> None:
    lines = Ablation.load(run).rows()
    assert {line["budget"] for line in lines} == set(BUDGETS)
    for line in lines:
        (both,) = (
            one
            for one in lines
            if (one["budget"], one["kind"], one["arm"]) == (line["budget"], line["kind"], BOTH)
        )
        if line["arm"] == BOTH:
            assert line["p"] is None and "both - this" not in line
        else:
            assert line["both - this"] == pytest.approx(both["Score"] - line["Score"])
            assert 0 < line["p"] <= 1
    free = [line for line in lines if (line["budget"], line["kind"]) == ("free", "all")]
    assert max(line["efficacy"] for line in free) > 0.5 and free[0]["n_cases"] == 5
    rows = list(csv.DictReader((run / "ablation.csv").read_text().splitlines()))
    assert len(rows) == len(lines) and (run / "ablation.png").stat().st_size > 10_000


def test_a_stopped_run_goes_on_with_what_is_missing(run: Path, tmp_path: Path) -> None:
    whole = (run / "records.jsonl").read_text().splitlines(keepends=True)
    for file in run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "records.jsonl").write_text("".join(whole[:-3]), encoding="utf-8")
    ablate_attention.run(replace(TOY, out=str(tmp_path)))
    again = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    assert again[:-3] == whole[:-3]
    for one, other in zip(map(json.loads, again[-3:]), map(json.loads, whole[-3:]), strict=True):
        assert (one["key"], one["trouble"]) == (other["key"], other["trouble"])
        assert (one["size"], one["kl"]) == pytest.approx((other["size"], other["kl"]), rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_random_heads": 4}, "--n-random-heads 4: must be less than the 4 heads"),
        ({"tuned": "nothing.json"}, "--tuned nothing.json: there is no such file"),
        ({"skip": 10**6}, "--skip 1000000: no case is left to edit"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ablate_attention.run(replace(TOY, out=str(tmp_path / "run"), **changed))


def test_tuned_settings_are_taken(toy: HookedTransformer) -> None:
    told = {arm: f"{name}:layers=(2,)" for arm, name in ABLATED.items()}
    arms = arms_of(toy, told, "relation", n_random_heads=1, draws=2, seed=0)
    assert [[*ones] for ones in arms.values()][:3] == [[one] for one in told.values()]
    for spec, editor in arms[RANDOM].items():
        assert spec.startswith("joint:layers=(2,):heads=((2,")
        assert editor == make_editor(spec, toy, "relation")


def test_a_journal_in_memory_is_gone_on_with_and_a_folder_loaded(
    run: Path, toy: HookedTransformer
) -> None:
    journal = Journal()
    done = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    journal.replace({one["key"]: one for one in done})
    chosen = spread_cases(toy_cases(), TOY.limit, 0)
    result = ablate(toy, chosen, n_random_heads=1, draws=2, chunks=1, journal=journal)
    assert [*journal.records.values()] == done
    assert result.to_record() == Ablation.load(run).to_record()
    assert Ablation.from_record(result.to_record()).rows() == result.rows()
    assert isinstance(result.plot(), Figure)
    assert [one.title for one in result.tables()] == [
        f"relation edits, {how}: toy" for how in BUDGETS.values()
    ]


def test_editors_are_compared_at_equal_norms(toy: HookedTransformer) -> None:
    journal = Journal()
    result = compare(
        toy, toy_cases()[:1], ["ft", "ft+l:bound=0.01"], perspective="entity", labels=(),
        norms="equal", journal=journal,
    )  # fmt: skip
    one, other = (record for record in journal.records.values() if "editor" in record)
    assert one["size"] == other["size"] and one["budget"] == other["budget"] == "equal"
    assert [costs.norm for costs in (own.costs for own in result.editors)] == [
        pytest.approx(record["norm"]) for record in (one, other)
    ]
    assert result.norms == "equal" and "scaled down to the norm of the smallest" in result.note
    assert Comparison.from_record(result.to_record()).norms == "equal"
