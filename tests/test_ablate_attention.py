"""The ablation of attention: its arms, equal norms, paired differences, and what is kept."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from experiments import ablate_attention
from experiments._ablation import BUDGETS, RANDOM, arms_of
from experiments._listed_editors import BOTH
from experiments.ablate_attention import Config
from kedit.errors import InputError

pytestmark = pytest.mark.slow

TOY = Config(model="toy", limit=5, draws=2, heads=1, chunks=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ablate_attention.run(replace(TOY, out=str(tmp_path_factory.mktemp("ablate") / "run")))


def edits(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
    return [one for one in lines if "budget" in one]


def test_every_case_is_edited_by_every_arm_at_both_norms(run: Path) -> None:
    found = edits(run)
    assert len(found) == 5 * (3 + 2) * 2
    told = json.loads((run / "ablation.json").read_text())["editors"]
    assert [len(ones) for ones in told.values()] == [1, 1, 1, 2]
    assert {one["editor"] for one in found} == {each for ones in told.values() for each in ones}


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


def test_random_heads_are_drawn_by_seed_in_the_layers_of_both(toy: HookedTransformer) -> None:
    one, other = (arms_of(replace(TOY, seed=seed), toy)[RANDOM] for seed in (0, 1))
    assert one == arms_of(TOY, toy)[RANDOM] and one != other and len(set(one)) == 2
    for told in one:
        heads = eval(told.split("heads=")[1])
        assert [layer for layer, _ in heads] == [0, 1]


def test_differences_are_those_of_the_scores(run: Path) -> None:
    lines = json.loads((run / "ablation.json").read_text())["lines"]
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
        ({"heads": 4}, "--heads 4: fewer than a layer's 4 are wanted"),
        ({"tuned": "nothing.json"}, "--tuned nothing.json: there is no such file"),
        ({"skip": 10**6}, "--skip 1000000 leaves none of the"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ablate_attention.run(replace(TOY, out=str(tmp_path / "run"), **changed))


def test_tuned_settings_are_taken(toy: HookedTransformer, tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    told = {name: f"{name}:layers=(2,)" for name in ("w_out", "w_o", "joint")}
    file.write_text(json.dumps({"editors": told}), encoding="utf-8")
    arms = arms_of(replace(TOY, tuned=str(file)), toy)
    assert list(arms.values())[:3] == [[one] for one in told.values()]
    assert all(one.startswith("joint:layers=(2,):heads=((2,") for one in arms[RANDOM])
