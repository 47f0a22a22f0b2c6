"""Tuning: as many tries for each editor, the best by Score, and its file read by others."""

import copy
import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from transformer_lens import HookedTransformer

from experiments import tune_editors
from experiments.tune_editors import Config
from kedit.data.choose import fewer_probes, spread_cases
from kedit.editors.joint import Joint
from kedit.editors.lists import parse_specs
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models.toy import cases as toy_cases
from kedit.results.tuning import Tuning
from kedit.studies.tuning import WIDEST, Space, read_space, space_of, tried, tune

pytestmark = pytest.mark.slow

EDITORS = ["rome:where=last", "w_out", "ft+l"]
TOY = Config(model="toy", editors=",".join(EDITORS), tries=3, limit=2, perspective="relation")
RANKED_BY = ("Score", "Score by magnitude", "mean share")
SPACE: Space = {"training.clamp": [0.5, 2.0], "layers": [(1,), (1, 2)], "bound": [0.005, 0.02, 0.1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    (folder / "space.json").write_text(json.dumps(SPACE), encoding="utf-8")
    config = replace(TOY, space=str(folder / "space.json"), out=str(folder / "run"))
    return tune_editors.run(config)


def test_every_editor_has_as_many_tries_and_the_first_is_its_own(toy: HookedTransformer) -> None:
    editors = [*EDITORS, "joint", "kn"]  # both have wordings: a number, and texts
    found = tried("toy", editors, "relation", space_of(toy), 6, seed=0)
    assert list(found) == editors
    for name, ones in found.items():
        first, *_ = ones
        assert first == name and len(ones) == 6
        for spec, editor in ones.items():
            assert spec.startswith(name) and editor == make_editor(spec, "toy", "relation")


def test_a_try_has_the_same_values_for_all_that_have_the_field() -> None:
    found = tried("toy", EDITORS, "relation", SPACE, 3, seed=0)
    rome, joint, ft = ([*ones][1:] for ones in found.values())
    assert all("training.clamp" in one and "bound" not in one for one in rome + joint)
    assert all("halves" not in one and "where" not in one for one in joint)  # what makes it w_out
    for one, other in zip(rome, joint, strict=True):
        clamp = one.split("training.clamp=")[1].split(":")[0]
        assert f"training.clamp={clamp}" in other
    assert all("bound=" in one and "clamp" not in one for one in ft)


def test_settings_of_an_editor_that_are_not_its_defaults_stay() -> None:
    (ones,) = tried("toy", [Joint(layers=(2,))], "relation", SPACE, 3, seed=0).values()
    assert {one.layers for one in ones.values() if isinstance(one, Joint)} == {(2,)}
    assert [*ones][0] == "joint:layers=(2,)" and all("clamp" in one for one in [*ones][1:])


def test_too_few_different_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"ft\+l: tries=5 .* only 4 different settings"):
        tried("toy", ["ft+l"], "relation", {"bound": [0.1, 0.2, 0.3]}, 5, seed=0)


def test_the_same_settings_are_not_tried_twice_under_two_specs() -> None:
    bound = make_editor("ft+l", "toy", "relation").bound  # pyright: ignore
    space = {"bound": [bound, 2 * bound]}
    (of_bound,) = tried("toy", ["ft+l"], "relation", space, 2, seed=0).values()
    assert {editor.bound for editor in of_bound.values()} == {*space["bound"]}  # pyright: ignore
    with pytest.raises(InputError, match="the space has only 2 different settings"):
        tried("toy", ["ft+l"], "relation", space, 3, seed=0)


@pytest.mark.parametrize("text", ["[", "[1]", '{"bound": 3}', '{"bound": []}'])
def test_a_space_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "space.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="--space"):
        read_space(file)


def test_the_best_is_the_one_with_the_highest_score_then_mean(run: Path) -> None:
    rows = list(csv.DictReader((run / "tries.csv").read_text().splitlines()))
    assert len(rows) == 3 * 3
    told = json.loads((run / "tuned.json").read_text())
    for name, best in told["editors"].items():
        own = [row for row in rows if row["editor"] == name]
        ranked = sorted(own, key=lambda r: [-float(r[one]) for one in RANKED_BY])
        assert own[0]["spec"] == best and own == ranked
        assert [one["rank"] for one in own] == ["1", "2", "3"]
    gained = ("efficacy", "paraphrase", "removal")
    groups = (*gained, "neighbours kept", "other objects kept", "other relations kept")
    names = [name + how for name in groups for how in ("", ", magnitude")]
    shares = [float(rows[0][name]) for name in names]
    assert float(rows[0]["mean share"]) == pytest.approx(sum(shares) / len(names))
    assert any(float(row["mean share"]) > 0.3 for row in rows)  # some do something


def test_only_probes_of_the_edited_side_are_scored(run: Path) -> None:
    lines = map(json.loads, (run / "records.jsonl").read_text().splitlines())
    sides = {p["perspective"] for one in lines if "probes" in one for p in one["probes"]}
    assert sides == {"relation"}


def test_it_goes_on_and_is_read_by_the_comparison(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "records.jsonl").read_text()
    config = json.loads((run / "config.json").read_text())["all"]
    assert tune_editors.run(Config(**config)) == run
    assert (run / "records.jsonl").read_text() == before
    assert parse_specs(str(run / "tuned.json")) == list(
        json.loads((run / "tuned.json").read_text())["editors"].values()
    )
    for name in ("tuning", "frontier"):
        assert (run / f"{name}.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="not a file that tune_editors wrote"):
        parse_specs(str(run / "config.json"))


def test_spaces_fit_the_models_depth_and_scale(toy: HookedTransformer) -> None:
    model = copy.deepcopy(toy)
    for n_layers in (4, 3, 2):
        model.cfg.n_layers = n_layers
        layers = space_of(model)["layers"]
        assert {len(one) for one in layers} <= set(range(1, WIDEST + 1))
        assert all(one[0] >= 0 and one[-1] < n_layers for one in layers) and layers
    for block in model.blocks:
        block.mlp.W_out.data.mul_(10)
    before, after = space_of(toy)["write"], space_of(model)["write"]
    assert after == pytest.approx([10 * value for value in before], rel=0.1)


def test_a_journal_in_memory_is_gone_on_with_and_a_folder_loaded(
    run: Path, toy: HookedTransformer
) -> None:
    journal = Journal()
    done = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    journal.replace({one["key"]: one for one in done})
    cases = spread_cases(toy_cases(), TOY.limit, 0)
    chosen = [fewer_probes(case, TOY.prompts_per_kind) for case in cases]
    result = tune(toy, chosen, EDITORS, space=SPACE, tries=TOY.tries, journal=journal)
    assert [*journal.records.values()] == done
    assert result.to_record() == Tuning.load(run).to_record()
    assert result.best == json.loads((run / "tuned.json").read_text())["editors"]
    assert Tuning.from_record(result.to_record()).rows() == result.rows()
    assert set(result.to_pandas()["editor"]) == set(EDITORS) and isinstance(result.plot(), Figure)
