"""The experiment that finds neurons: whole, stopped, on facts that were not searched."""

import csv
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from transformer_lens import HookedTransformer

from experiments import find_neurons as experiment
from experiments.find_neurons import Config
from kedit.data.choose import facts_source
from kedit.editing.neurons import refined
from kedit.errors import InputError
from kedit.facts import Fact
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.results.neuron_findings import NeuronFindings
from kedit.run_folder import RunFolder
from probes.neurons import FactNeurons, of_half, search
from probes.studies import neuron_scaling, neuron_search
from probes.studies import neurons as study
from probes.studies.neuron_scaling import NEURONS_OF, crossed, trials
from probes.studies.neuron_search import Searched, search_relations
from probes.studies.neurons import find_neurons

pytestmark = pytest.mark.slow

TOY = Config(
    model="toy", facts="toy", n_relations=2, facts_per_relation=4, gradient_steps=5, controls=2
)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment.run(replace(TOY, out=str(tmp_path_factory.mktemp("neurons") / "run")))


def searching(toy: HookedTransformer) -> Callable[[Sequence[Fact]], FactNeurons]:
    return partial(search, toy, steps=5)


@pytest.fixture(scope="module")
def searched(toy: HookedTransformer, run: Path) -> dict[str, Sequence[Searched]]:
    """What the run's records hold."""
    found = search_relations(
        toy, toy_module.facts(), searching(toy), RunFolder(run),
        n_relations=2, facts_per_relation=4, wordings=3, seed=0,
    )  # fmt: skip
    return dict(found.relations)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time."""
    for name in ("neurons.layers", "neurons.heads", "neurons.relations", "scaling.sharing",
                 "scaling.scaled"):  # fmt: skip
        monkeypatch.setattr(f"figures.{name}", lambda found: Figure())


@pytest.mark.usefixtures("undrawn")
def test_it_runs_on_the_toy_with_its_own_defaults(tmp_path: Path) -> None:
    config = Config(model="toy", gradient_steps=4, out=str(tmp_path))  # else 20 steps
    found = NeuronFindings.load(experiment.run(config))
    assert (len(found.relations), found.n_facts, found.n_prompts) == (4, 32, 64)


def test_every_number_has_an_interval_and_both_halves(run: Path) -> None:
    found = NeuronFindings.load(run)
    assert (len(found.relations), found.n_facts, found.n_prompts) == (2, 8, 16)
    assert (found.left_out.wrong, found.left_out.unusable, found.left_out.relations) == (0, 0, ())
    assert set(found.halves) == {"mlp", "attn"}
    for half in found.halves.values():
        assert half.share is not None and half.share.low <= half.share.mean <= half.share.high
        assert len(half.mass.mean) == len(half.neurons.mean) == 4
        assert half.total.mean == pytest.approx(half.neurons.mean.sum())
    shares = [half.share.mean for half in found.halves.values() if half.share]
    assert sum(shares) == pytest.approx(1)
    assert found.attention is not None and len(found.attention.by_layer) == 4
    for name in ("own", "within", "between"):
        parts = [getattr(found.sharing[half], name).mean for half in ("mlp", "attn")]
        assert sum(parts) == pytest.approx(getattr(found.sharing["both"], name).mean)


def test_the_tables_hold_every_neuron_with_its_head_and_every_change(run: Path) -> None:
    neurons, found = rows(run, "neurons"), NeuronFindings.load(run)
    for one in found.relations:
        own = [row for row in neurons if row["relation"] == one.id]
        attn = [row for row in own if row["half"] == "attn"]
        assert len(own) == sum(counts.sum() for counts in one.counts.values())
        for row in attn:
            assert one.counts["attn"][int(row["layer"]), int(row["head"])]
            assert int(row["head"]) == int(row["index"]) // 16
        assert all(not row["head"] for row in own if row["half"] == "mlp")
    changes = rows(run, "effects")
    assert {row["neurons"] for row in changes} == set(NEURONS_OF)
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
    folder = experiment.run(replace(TOY, halves=[half], out=str(tmp_path)))
    found = NeuronFindings.load(folder)
    assert set(found.halves) == set(found.sharing) == {half} and found.attention is None
    assert {row["half"] for row in rows(folder, "effects")} == {half}


@pytest.mark.usefixtures("undrawn")
def test_a_single_relation_has_numbers_and_no_pairs_with_others(tmp_path: Path) -> None:
    found = NeuronFindings.load(experiment.run(replace(TOY, n_relations=1, out=str(tmp_path))))
    assert math.isnan(found.sharing["both"].between.mean)
    assert found.sharing["both"].within.mean >= 0


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("n_finished", [3, 10, 20])  # asked: 8, searched: 8, scaled: 8
def test_a_stopped_run_goes_on_and_ends_the_same(
    run: Path, tmp_path: Path, n_finished: int
) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "records.jsonl").write_bytes(b"".join(lines[:n_finished]) + b'{"key": "torn')
    (stopped / "neurons.json").unlink()
    experiment.run(replace(TOY, out=str(stopped)))
    assert (stopped / "records.jsonl").read_bytes() == b"".join(lines)
    assert (stopped / "neurons.json").read_text() == (run / "neurons.json").read_text()


def test_a_study_in_memory_does_nothing_twice(
    run: Path, toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, folder = Journal(), RunFolder(run)
    for key, record in folder.records.items():
        journal.add(key, record, folder.tensors(key) if "tensors" in record else None)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    for module, name in (
        (study, "search"),
        (neuron_scaling, "effects"),
        (neuron_search, "answers_right"),
    ):
        monkeypatch.setattr(module, name, never)
    found = find_neurons(
        toy,
        toy_module.facts(),
        n_relations=2,
        facts_per_relation=4,
        gradient_steps=5,
        controls=2,
        journal=journal,
    )
    assert found.to_record() == NeuronFindings.load(run).to_record()
    assert "Neurons of 2 relations: toy" in found._repr_html_()


def test_findings_come_back_whole_from_their_record(run: Path) -> None:
    found = NeuronFindings.load(run)
    back = NeuronFindings.from_record(json.loads(json.dumps(found.to_record())))
    assert back.to_record() == found.to_record() and back.rows() == found.rows()
    assert str(back.scaling_table()) == str(found.scaling_table())


def test_no_fact_is_tested_with_neurons_that_were_found_on_it(
    searched: dict[str, Sequence[Searched]],
) -> None:
    tested = {(one.relation, one.worded[0].subject): one for one in trials(searched, 0.4)}
    assert len(tested) == 8
    differ = 0
    for relation, each in searched.items():
        (other,) = (name for name in searched if name != relation)
        for place, one in enumerate(each):
            rest = [each[i].found.neurons for i in range(4) if i % 2 != place % 2]
            far = [searched[other][i].found.neurons for i in range(4) if i % 2 != place % 2]
            trial = tested[relation, one.found.subject]
            assert trial.own == refined(rest, 0.4)
            assert trial.others == [refined(far, 0.4)]
            differ += trial.own != refined([fact.found.neurons for fact in each], 0.4)
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
    config = replace(TOY, facts=str(file), facts_per_relation=0, out=str(tmp_path / "run"))
    found = NeuronFindings.load(experiment.run(config))
    assert sorted(found.left_out.relations) == ["P1", "P19"]
    assert (found.left_out.wrong, found.n_facts) == (16 + 2, 14)
    file.write_text("\n".join(json.dumps(one) for one in records if one["object"] == "zebra"))
    with pytest.raises(
        InputError, match="no relation of which the model answers 4 facts right in 3 wordings"
    ):
        experiment.run(replace(config, out=str(tmp_path / "none")))


def test_all_wordings_of_a_fact_have_one_object(toy: HookedTransformer) -> None:
    facts, journal = toy_module.facts(), Journal()
    second = [replace(fact, object="zebra") for fact in facts]
    for _ in ("now", "from the journal"):
        found = search_relations(
            toy, [*second, *facts], searching(toy), journal,
            n_relations=1, facts_per_relation=4, wordings=3, seed=0,
        )  # fmt: skip
        for one in (one for each in found.relations.values() for one in each):
            assert {fact.object for fact in one.worded} == {one.found.object} != {"zebra"}
            assert tuple(fact.prompt for fact in one.worded) == one.found.prompts
            assert len(one.worded) == 2


def test_halves_are_searched_under_one_threshold(searched: dict[str, Sequence[Searched]]) -> None:
    found = [one.found.neurons for each in searched.values() for one in each]
    assert any(of_half(one, "mlp") for one in found) and any(of_half(one, "attn") for one in found)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(halves=["elbow"]), "--halves elbow: must be one of mlp attn"),
        (Config(halves=[]), "--halves: at least one value is needed"),
        (Config(facts_per_relation=3), "--facts-per-relation 3: at least 4 facts"),
    ],
)
def test_what_cannot_be_searched_is_told_before_the_model_is_loaded(
    config: Config, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        experiment.run(replace(config, model="no-such-model"))
    assert facts_source("auto", "toy") == "toy"
    assert facts_source("auto", Config().model) == "builtin"
