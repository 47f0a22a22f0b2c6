"""Many facts edited at once: one edit, which is saved, and a verdict for each fact."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from experiments import edit_fact
from experiments.edit_fact import Config, exit_code
from figures.edit import many_facts
from kedit.data import load_cases
from kedit.editing.edit import Edit, PreparedEditor
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest
from kedit.models import toy as toy_module
from kedit.results.many_facts import FactEdited, FactsEdited
from kedit.run_folder import RunFolder
from kedit.studies.held_out import HeldOut
from kedit.studies.many_facts import edit_many
from kedit.studies.replies import replies
from tests.test_cases import MQUAKE, written
from tests.test_edit_fact import EDITED, drawn
from tests.test_edit_fact import done as made_up
from tests.test_figures import assert_fits

BORN = "The birthplace of {} is"
FACTS = {fact.subject: fact for fact in toy_module.facts() if fact.template == BORN}
FT = "ft:lr=5e-3:steps=25"  # fine-tuning makes the toy say anything


def record(subject: str, target: str, **more: object) -> dict[str, object]:
    fact = FACTS[subject]
    return {
        "subject": subject, "relation": "birthplace", "object": fact.object, "target": target,
        "template": fact.template, **more,
    }  # fmt: skip


ADA = record(
    "Ada Alder", "Delft", paraphrases=["{} was born in"], neighbours=["Farid Fir", "Elif Elm"]
)
CLARA = record("Clara Cedar", "Corum")
CONTRADICTING = record("Ada Alder", "Arle")
SAID = record("Bruno Birch", "Corum", object="Arle")  # the toy says Corum already
LONG = record("Dmitri Dogwood", "Delft", template=20 * "they say that " + "{} is")
BAD = {**CLARA, "template": "no place here"}


@dataclass(frozen=True)
class Fixed:
    """An editor that has been made ready already."""

    edits: PreparedEditor

    def on(self, model: HookedTransformer) -> PreparedEditor:
        return self.edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        return self.edits(requests)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[EditCase]:
    folder = tmp_path_factory.mktemp("facts")
    return load_cases(written(folder, ADA, CLARA, CONTRADICTING, SAID, LONG))


@pytest.fixture(scope="module")
def done(toy: HookedTransformer, cases: list[EditCase]) -> FactsEdited:
    return edit_many(toy, cases, FT, held_out=None)


def test_what_cannot_be_edited_is_skipped_and_the_rest_is_one_edit(done: FactsEdited) -> None:
    assert [fact.id for fact in done.facts] == ["line 1", "line 2"]
    assert sorted(done.skipped) == ["line 3", "line 4", "line 5"]
    assert done.skipped["line 4"] == "the model says 'Corum' already"
    assert "tokens, the model reads 64" in done.skipped["line 5"]
    assert "two requests contradict each other" in done.skipped["line 3"]
    assert [request["subject"] for request in done.edit.made.requests] == [
        "Ada Alder", "Clara Cedar",
    ]  # fmt: skip
    first, second = done.facts
    assert [one.question.role for one in first.exchanges] == [
        "edited", "paraphrase", "neighbour", "neighbour",
    ]  # fmt: skip
    assert [one.question.role for one in second.exchanges] == ["edited"]
    assert done.n_said == 2 and all(fact.exchanges[0].works for fact in done.facts)
    # what it takes to make the toy say anything makes it say so everywhere
    assert first.verdict.outcome == "at a price"
    assert "neighbours" in {price.name for price in first.verdict.prices}
    assert "norm" not in {price.name for price in first.verdict.prices}  # it is the whole edit's


def test_the_saved_edit_says_what_the_report_has_and_is_undone_to_the_bit(
    toy: HookedTransformer, done: FactsEdited, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    loaded = Edit.load(done.edit.save(tmp_path / "edit.safetensors"))
    with loaded.applied(toy):
        again = replies(toy, [one.question for one in done.exchanges])
        for one, reply in zip(done.exchanges, again, strict=True):
            assert (reply.said, reply.answer) == (one.after.said, one.after.answer)
            assert (reply.new, reply.old) == pytest.approx((one.after.new, one.after.old))
        assert any(not torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_an_editor_that_refuses_one_record_edits_the_others(
    toy: HookedTransformer, cases: list[EditCase]
) -> None:
    make = make_editor("ft:lr=1e-9:steps=1", "toy").on(toy)

    def refusing(requests: Sequence[EditRequest]) -> Edit:
        if any(request.fact.subject == "Ada Alder" for request in requests):
            raise InputError("no such subject")
        return make(requests)

    editor = Fixed(refusing)
    found = edit_many(toy, cases[:2], editor, held_out=None)
    assert [fact.id for fact in found.facts] == ["line 2"]
    assert found.skipped == {"line 1": "no such subject"}
    assert found.verdict.outcome == "fails" and found.facts[0].verdict.outcome == "fails"
    assert found.in_words().startswith(
        "The edit fails: the model now says the targets of 0 of 1 facts (0 facts work, 0 work at a"
    )
    with pytest.raises(InputError, match="no fact is left to edit; record line 1: no such subject"):
        edit_many(toy, cases[:1], editor, held_out=None)


def test_all_edits_of_a_record_are_made_together(toy: HookedTransformer, tmp_path: Path) -> None:
    first, second = MQUAKE["requested_rewrite"]
    template = FACTS["Ada Alder"].template
    rewrites = [
        {**first, "prompt": template, "target_new": {"str": "Delft"}},
        {**second, "subject": "Clara Cedar", "prompt": template, "target_new": {"str": "Corum"}},
    ]
    file = written(tmp_path, {**MQUAKE, "requested_rewrite": rewrites})
    asked: list[Sequence[EditRequest]] = []
    make = make_editor("ft:lr=1e-9:steps=1", "toy").on(toy)

    def edits(requests: Sequence[EditRequest]) -> Edit:
        asked.append(requests)
        return make(requests)

    found = edit_many(toy, load_cases(file), Fixed(edits), held_out=None)
    assert [one.fact.subject for one in asked[0]] == ["Ada Alder", "Clara Cedar"]
    assert [fact.exchanges[0].question.new for fact in found.facts] == ["Delft", "Corum"]
    assert [len(fact.exchanges) for fact in found.facts] == [
        2,
        1,
    ]  # the question is the first one's


def test_a_file_of_facts_is_edited_saved_and_told(
    toy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("kedit.models.load.load", lambda *_: toy)
    monkeypatch.setattr("figures.style.save", lambda *_: None)
    short = HeldOut(torch.arange(24).reshape(3, 8) % 60, "a short text")
    monkeypatch.setattr("kedit.studies.many_facts.held_out_text", lambda *_: short)
    file = written(tmp_path, ADA, BAD, CLARA)
    config = Config(model="toy", facts=str(file), editor=FT, out=str(tmp_path / "run"))
    folder = edit_fact.run(config)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    screen, text = capsys.readouterr().out, (folder / "report.md").read_text(encoding="utf-8")
    assert [fact["id"] for fact in found["facts"]] == ["line 1", "line 3"]
    assert list(found["skipped"]) == ["f.jsonl, line 2"] and "f.jsonl, line 2" in text
    assert "skipped: f.jsonl, line 2: read as your own facts: template: must have" in screen
    assert found["verdict"].startswith("The model says the target, but at a price: the model now")
    assert found["verdict"] in text and found["outcome"] == "at a price"
    assert exit_code(folder) == 0 and len(found["request"]) == 2
    assert "The birthplace of Ada Alder is: Corum → Delft" in text
    for part in ("1 of 1", "0 of 2", "Edit.load"):
        assert part in screen and part in text
    assert Edit.load(folder / "edit.safetensors").deltas
    assert found["perplexity"]["before"] > 0
    for options, message in (
        ({"subject": "Ada Alder"}, "already gives the facts to edit: leave out --subject"),
        ({"facts": str(written(tmp_path, BAD, name="g.jsonl"))}, "none of the records of .*g.json"),
    ):
        with pytest.raises(InputError, match=message):
            edit_fact.run(replace(config, **options))


def test_the_figure_has_a_row_for_each_fact_and_says_how_many_are_left_out() -> None:
    exchange = drawn(EDITED, (0.001, 0.99), (0.76, 0.001), ("Paris", "Rome"))
    facts = tuple(FactEdited(f"line {number}", (exchange,)) for number in range(50))
    found = FactsEdited("toy", "ft", 0, made_up([exchange]).made, facts, {})
    for n in (1, 12):
        figure = many_facts(found, n)
        assert_fits(figure)
        assert len(figure.axes[0].get_yticklabels()) == n
        assert f"the first {n} of 50 facts" in figure.get_supxlabel()


def test_the_result_is_read_back_without_the_edit(done: FactsEdited, tmp_path: Path) -> None:
    done.save(RunFolder(tmp_path))
    found = FactsEdited.load(tmp_path)
    assert found == done and found.edit is None
    assert found.in_words() == done.in_words() and found.verdict == done.verdict
    assert len(found.to_pandas()) == 2 * len(done.exchanges)
    assert str(found.table()) == str(done.table())


def test_records_without_a_relation_are_left_out_of_an_edit_of_relations(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    (case,) = load_cases(written(tmp_path, CLARA))
    cases = [case, replace(case, id="line 2", relation=None)]
    found = edit_many(toy, cases, FT, perspective="relation", held_out=None)
    assert [fact.id for fact in found.facts] == ["line 1"]
    assert found.skipped == {"line 2": "it has no relation side"}
    with pytest.raises(InputError, match="no record names its relation, which perspective="):
        edit_many(toy, cases[1:], FT, perspective="relation", held_out=None)
