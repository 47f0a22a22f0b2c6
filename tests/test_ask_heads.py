"""Asking heads on the toy: what the answers are, what resumes, what their figures show."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformer_lens import HookedTransformer

from experiments import ask_heads as experiment
from figures.questions import decoding, knockouts, paths
from kedit.errors import InputError
from kedit.heads import Head
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.results.decoding import Decoded
from kedit.results.head_answers import RANDOM, TOGETHER, HeadAnswers
from kedit.results.tracing import WRONG
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from probes.studies import heads as study
from probes.studies.heads import ask_heads
from tests.made_up_heads import fact_of, found_of, scores

TOY = experiment.Config(model="toy", choose=3, limit=3, n_heads=3, decoded=40)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment.run(replace(TOY, out=str(tmp_path_factory.mktemp("asked") / "run")))


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be asked of the model."""

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    for name in ("of_known", "fact_runs", "decode"):
        monkeypatch.setattr(study, name, fails)
    monkeypatch.setattr("probes.studies.head_choice.of_known", fails)


@pytest.mark.slow
def test_heads_are_asked_on_facts_that_they_were_not_chosen_on(asked: Path):
    records = [json.loads(line) for line in (asked / "records.jsonl").read_text().splitlines()]
    chosen = {one["prompt"] for one in records if one["key"].startswith("chosen on")}
    about = {one["prompt"] for one in records if one["key"].startswith("asked")}
    assert len(chosen) == len(about) == 3 and not chosen & about


@pytest.mark.slow
def test_the_tables_are_means_of_the_answers(asked: Path):
    found = HeadAnswers.load(asked)
    told = {(row["head"], row["question"]): float(row["mean"]) for row in rows(asked / "heads.csv")}
    direct = np.mean([one.heads[0].direct for one in found.facts])
    assert told[str(found.heads[0]), "direct effect (logits)"] == pytest.approx(direct)
    ablated = np.mean([one.together.mean.prob for one in found.facts])
    assert told["together", "ablated, mean (probability)"] == pytest.approx(ablated)
    assert ablated < -0.05  # the heads were chosen for something
    written = {(row["prompt"], row["head"]): row["writes"] for row in rows(asked / "ov.csv")}
    assert len(written) == len(found.facts) * len(found.heads)
    one = found.facts[0]
    for token in one.heads[0].ov_writes:
        assert repr(token) in written[one.prompt, str(found.heads[0])]
    assert "last to subject" in {row["cut"] for row in rows(asked / "knockout.csv")}
    assert {row["to"] for row in rows(asked / "paths.csv")} >= {"logits"}
    assert {row["held out"] for row in rows(asked / "decoding.csv")} <= {"subject", "wording"}
    for name in ("heads", "knockout", "paths", "decoding"):
        assert (asked / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("never")
def test_a_second_run_asks_nothing_again(asked: Path):
    before = (asked / "heads.csv").read_text(), (asked / "decoding.csv").read_text()
    experiment.run(replace(TOY, out=str(asked)))
    assert ((asked / "heads.csv").read_text(), (asked / "decoding.csv").read_text()) == before


@pytest.mark.slow
@pytest.mark.usefixtures("never")
def test_a_journal_in_memory_goes_on_as_a_folder_does(asked: Path, toy: HookedTransformer):
    journal = Journal()
    journal.replace(RunFolder(asked).records)
    found = ask_heads(
        toy, toy_module.facts(), choose=3, limit=3, n_heads=3, decoded=40, journal=journal
    )
    assert found.to_record() == HeadAnswers.load(asked).to_record()
    assert str(found.heads[0]) in found._repr_html_()


@pytest.mark.slow
def test_named_heads_are_asked_in_memory_and_unknown_facts_are_left_out(toy: HookedTransformer):
    pool = toy_module.facts()
    subjects = sorted({fact.subject for fact in pool})[:6]
    wrong = subjects[:2]
    facts = [
        replace(fact, object="zebra") if fact.subject in wrong else fact
        for fact in pool
        if fact.relation.id == "P19" and fact.subject in subjects
    ]
    journal, heads = Journal(), [Head(1, 0), Head(0, 1)]
    found = ask_heads(toy, facts, heads, pool=pool, choose=2, limit=0, decoded=0, journal=journal)
    assert found.heads == (Head(0, 1), Head(1, 0)) and not found.decoded
    left_out = [one for one in journal.records.values() if "skipped" in one]
    assert {one["why"] for one in left_out} == {WRONG}
    assert len(left_out) == 2 and all(one["prompt"] for one in left_out)
    assert len(found.facts) == 6 - 2 - 2
    with pytest.raises(InputError, match="no head L9H9: the model has 4 layers of 4 heads"):
        ask_heads(toy, facts, [Head(9, 9)], choose=2)


def test_named_heads_must_be_there(tmp_path: Path):
    config = replace(TOY, heads="L9H9", choose=1, limit=1, out=str(tmp_path / "a"))
    with pytest.raises(InputError, match="--heads L9H9: toy has 4 layers of 4 heads, L0H0 to L3H3"):
        experiment.run(config)
    with pytest.raises(InputError, match="a name such as L11H2"):
        experiment.run(replace(config, heads="nine", out=str(tmp_path / "b")))


def test_means_are_over_facts_and_of_the_metric_that_is_shown():
    one, other = fact_of([Head(0, 1)], -0.1), fact_of([Head(0, 1)], -0.3)
    found = found_of([one, other])
    direct, mean, resample = found.panels()
    assert [panel.name for panel in (direct, mean, resample)] == [
        "direct effect (logits)", "ablated, mean (probability)", "ablated, resample (probability)",
    ]  # fmt: skip
    assert list(direct.means) == ["L0H1"] and list(mean.means) == ["L0H1", TOGETHER, RANDOM]
    assert mean.means["L0H1"].floats() == pytest.approx((-0.2, -0.3, -0.1))
    nats = replace(found, metric="logprob").panels()[1]
    assert nats.unit == "nats" and float(nats.means["L0H1"].mean) == pytest.approx(-0.4)
    assert "2 facts of 1 relation; the heads were chosen on other facts" in found.table().note


def test_a_cut_counts_the_facts_that_have_such_tokens():
    one = fact_of([Head(0, 1)], knockout={"last to the rest": (-0.5, 0.0)})
    other = fact_of([Head(0, 1)], knockout={"last to subject": (-0.2, -0.4)})
    found = found_of([one, other, other])
    assert list(found.curves()) == ["last to subject", "last to the rest"]
    counts = {(row["cut"], row["layer"]): row["facts"] for row in found.knockout_rows()}
    assert counts["last to subject", 1] == 2 and counts["last to the rest", 0] == 1


def test_answers_come_back_whole_from_their_record():
    found = found_of([fact_of([Head(0, 1), Head(2, 0)])], decoded={"subject": (decoded(0.5),)})
    back = HeadAnswers.from_record(json.loads(json.dumps(found.to_record())))
    assert back.facts == found.facts and back.to_record() == found.to_record()


def decoded(accuracy: float, layer: int = 0) -> Decoded:
    own, control, gap = (
        Interval(*(np.array(value + bound) for bound in (0, -0.1, 0.1)))
        for value in (accuracy, 0.2, accuracy - 0.2)
    )
    return Decoded("mlp_out", layer, None, own, control, gap, 0.1)


def test_a_panel_of_knockouts_with_fewer_facts_than_the_figure_says_so():
    both, one = {"last to subject": (0.0,), "last to the rest": (0.0,)}, {"last to subject": (0.1,)}
    facts = [fact_of([], knockout=both), fact_of([], knockout=one)]
    subject, rest = (ax.get_title("left") for ax in knockouts(found_of(facts)).axes)
    assert "fact" not in subject and rest.endswith("(1 fact)")


def test_knockouts_paths_and_decoding_are_drawn_as_they_are():
    cuts = {"last to subject": (-0.1, -0.5), "last to relation": (0.0, -0.2)}
    heads, ways = [Head(0, 1), Head(3, 0)], [{"L2.mlp": 0.3, "logits": -0.1}, {"logits": 0.2}]
    fact = fact_of(heads, knockout=cuts)
    answers = [
        replace(one, paths={to: scores(value) for to, value in own.items()})
        for one, own in zip(fact.heads, ways, strict=True)
    ]
    both = (decoded(0.5, 0), decoded(0.9, 1))
    found = found_of([replace(fact, heads=tuple(answers))], window=5, decoded={"subject": both})
    first, second = knockouts(found).axes
    assert first.get_title("left") == "subject hidden from\nthe last token"
    for ax, wanted in ((first, [-10, -50]), (second, [0, -20])):
        np.testing.assert_allclose(np.asarray(ax.lines[-1].get_ydata()), wanted)
    table = np.ma.asarray(paths(found).axes[0].collections[0].get_array()).reshape(2, 2)
    np.testing.assert_allclose(table.filled(np.nan), [[0.3, -0.1], [np.nan, 0.2]])
    (ax,) = decoding(found).axes
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), [0.5, 0.9])
