"""The experiment that finds neurons: whole, stopped, on facts that were not searched."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from experiments import _neuron_report, _neurons, find_neurons
from experiments._neurons import Searched, crossed, scale_relations, search_relations, settled
from experiments._run import open_run
from experiments.find_neurons import Config
from kedit.editing.neurons import refined
from kedit.errors import InputError
from kedit.models import toy as toy_module
from probes.neurons import of_half

pytestmark = pytest.mark.slow

TOY = Config(model="toy", facts="toy", relations=2, limit=4, steps=5, controls=2)


def numbers(folder: Path) -> dict:
    return json.loads((folder / "neurons.json").read_text())


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_neurons.run(replace(TOY, out=str(tmp_path_factory.mktemp("neurons") / "run")))


@pytest.fixture(scope="module")
def searched(
    toy: HookedTransformer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Searched]]:
    with open_run("x", replace(TOY, out=str(tmp_path_factory.mktemp("searched")))) as folder:
        return search_relations(TOY, folder, toy, toy_module.facts())[0]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time."""
    monkeypatch.setattr(_neuron_report, "_draw", lambda config, folder, findings: None)


@pytest.mark.usefixtures("undrawn")
def test_it_runs_on_the_toy_with_its_own_defaults(tmp_path: Path) -> None:
    config = Config(model="toy", steps=4, out=str(tmp_path))  # else 20 steps
    counted = numbers(find_neurons.run(config))["counted"]
    assert (counted["relations"], counted["facts"], counted["prompts"]) == (4, 32, 64)


def test_every_number_has_an_interval_and_both_halves(run: Path) -> None:
    found = numbers(run)
    assert found["counted"] == {
        "relations": 2, "facts": 8, "prompts": 16, "facts answered wrong": 0,
        "facts not usable": 0, "relations left out": [],
    }  # fmt: skip
    assert set(found["halves"]) == {"mlp", "attn"}
    for half in found["halves"].values():
        assert half["share"]["low"] <= half["share"]["mean"] <= half["share"]["high"]
        assert len(half["mass"]["mean"]) == len(half["neurons"]["mean"]) == 4
        assert half["total"]["mean"] == pytest.approx(sum(half["neurons"]["mean"]))
    shares = [half["share"]["mean"] for half in found["halves"].values()]
    assert sum(shares) == pytest.approx(1)
    assert len(found["attention's share by layer"]) == 4
    for name in ("own", "within", "between"):
        parts = [found["sharing"][half][name]["mean"] for half in ("mlp", "attn")]
        assert sum(parts) == pytest.approx(found["sharing"]["both"][name]["mean"])


def test_the_tables_hold_every_neuron_with_its_head_and_every_change(run: Path) -> None:
    neurons, found = rows(run, "neurons"), numbers(run)
    for relation, one in found["by relation"].items():
        own = [row for row in neurons if row["relation"] == relation]
        attn = [row for row in own if row["half"] == "attn"]
        assert len(own) == sum(sum(map(sum, counts)) for counts in one["neurons"].values())
        for row in attn:
            assert one["neurons"]["attn"][int(row["layer"])][int(row["head"])]
            assert int(row["head"]) == int(row["index"]) // 16
        assert all(not row["head"] for row in own if row["half"] == "mlp")
    changes = rows(run, "effects")
    assert {row["neurons"] for row in changes} == set(_neurons.WHOSE)
    assert {row["factor"] for row in changes} == {"0.0", "2.0"}
    of_several = [row for row in changes if row["prob low"]]  # a single relation has no interval
    assert of_several
    for row in of_several:
        assert float(row["prob low"]) <= float(row["prob"]) <= float(row["prob high"])


def test_the_figures_are_drawn(run: Path) -> None:
    for name in ("layers", "heads", "relations", "sharing", "scaling"):
        assert (run / f"{name}.png").stat().st_size > 10_000
        assert (run / f"{name}.pdf").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("half", ["mlp", "attn"])
def test_one_half_can_be_searched_alone(tmp_path: Path, half: str) -> None:
    folder = find_neurons.run(replace(TOY, halves=[half], out=str(tmp_path)))
    found = numbers(folder)
    assert set(found["halves"]) == set(found["sharing"]) == {half}
    assert {row["half"] for row in rows(folder, "effects")} == {half}


@pytest.mark.usefixtures("undrawn")
def test_a_single_relation_has_numbers_and_no_pairs_with_others(tmp_path: Path) -> None:
    found = numbers(find_neurons.run(replace(TOY, relations=1, out=str(tmp_path))))
    assert found["sharing"]["both"]["between"]["mean"] is None
    assert found["sharing"]["both"]["within"]["mean"] >= 0


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("n_finished", [3, 10])  # searched: 8, scaled: 8
def test_a_stopped_run_goes_on_and_ends_the_same(
    run: Path, tmp_path: Path, n_finished: int
) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "records.jsonl").write_bytes(b"".join(lines[:n_finished]) + b'{"key": "torn')
    (stopped / "neurons.json").unlink()
    find_neurons.run(replace(TOY, out=str(stopped)))
    assert (stopped / "records.jsonl").read_bytes() == b"".join(lines)
    assert (stopped / "neurons.json").read_text() == (run / "neurons.json").read_text()


def test_no_fact_is_tested_with_neurons_that_were_found_on_it(
    searched: dict[str, list[Searched]],
    toy: HookedTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tested = {}

    def watch(config, model, worded, own, others):
        tested[worded[0].relation.id, worded[0].subject] = own, others
        return []

    monkeypatch.setattr(_neurons, "_scaled", watch)
    with open_run("x", replace(TOY, out=str(tmp_path))) as folder:
        scale_relations(TOY, folder, toy, searched)
    assert len(tested) == 8
    differ = 0
    for relation, each in searched.items():
        (other,) = (name for name in searched if name != relation)
        for place, one in enumerate(each):
            rest = [each[i].found.neurons for i in range(4) if i % 2 != place % 2]
            far = [searched[other][i].found.neurons for i in range(4) if i % 2 != place % 2]
            own, others = tested[relation, one.found.subject]
            assert own == refined(rest, TOY.agree_facts)
            assert others == [refined(far, TOY.agree_facts)]
            differ += own != refined([fact.found.neurons for fact in each], TOY.agree_facts)
    assert differ  # it matters which facts were searched


@pytest.mark.parametrize("n", [4, 5, 8])
def test_each_half_of_the_facts_is_tested_with_what_the_other_has(n: int) -> None:
    items = list(range(n))
    for item, rest in zip(items, crossed(items), strict=True):
        assert item not in rest
        assert set(rest) | {item} < set(items)  # nor its neighbours in its own half
        assert len(rest) >= 2


@pytest.mark.usefixtures("undrawn")
def test_facts_that_the_model_does_not_know_are_counted_and_left_out(tmp_path: Path) -> None:
    known = [fact for fact in toy_module.facts() if fact.relation.id in ("P19", "P103")]
    wrong = {"Ada Alder": "zebra", "Elif Elm": "zebra"}
    records = [
        {
            "subject": fact.subject,
            "relation": fact.relation.name,
            "relation_id": fact.relation.id,
            "object": "zebra"
            if fact.relation.id == "P19"
            else wrong.get(fact.subject, fact.object),
            "template": fact.template,
        }
        for fact in known
    ]
    few = [{**one, "relation_id": "P1", "relation": "few"} for one in records[-3:]]  # all known
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, [*records, *few])))
    config = replace(TOY, facts=str(file), limit=0, out=str(tmp_path / "run"))
    counted = numbers(find_neurons.run(config))["counted"]
    assert sorted(counted["relations left out"]) == ["P1", "P19"]
    assert (counted["facts answered wrong"], counted["facts"]) == (16 + 2, 14)
    file.write_text("\n".join(json.dumps(one) for one in records if one["object"] == "zebra"))
    with pytest.raises(InputError, match="answers 4 facts right in 3 wordings of no relation"):
        find_neurons.run(replace(config, out=str(tmp_path / "none")))


def test_all_wordings_of_a_fact_have_one_object(toy: HookedTransformer, tmp_path: Path) -> None:
    facts = toy_module.facts()
    second = [replace(fact, object="zebra") for fact in facts]
    with open_run("x", replace(TOY, out=str(tmp_path))) as folder:
        for _ in ("now", "from the folder"):
            found, _ = search_relations(TOY, folder, toy, [*second, *facts])
            for one in (one for each in found.values() for one in each):
                assert {fact.object for fact in one.worded} == {one.found.object} != {"zebra"}
                assert tuple(fact.prompt for fact in one.worded) == one.found.prompts
                assert len(one.worded) == 2


def test_halves_are_searched_under_one_threshold(searched: dict[str, list[Searched]]) -> None:
    found = [one.found.neurons for each in searched.values() for one in each]
    assert any(of_half(one, "mlp") for one in found) and any(of_half(one, "attn") for one in found)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(halves=["elbow"]), "--halves elbow: one of mlp attn is wanted"),
        (Config(halves=[]), "--halves: at least one is wanted"),
        (Config(limit=3), "--limit 3: at least 4 facts"),
    ],
)
def test_what_cannot_be_searched_is_told_before_the_model_is_loaded(
    config: Config, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_neurons.run(replace(config, model="no-such-model"))
    assert settled(Config(model="toy")).facts == "toy"
    assert settled(Config()).facts == "builtin"
