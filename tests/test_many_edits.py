"""The study of many edits in one model: groups of cases, both orders, costs, resuming, figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from experiments.edit_many import Config, run
from figures.many_edits import many_edits
from kedit.editing.edit import Edit, PreparedEditor, edit_in_turn
from kedit.editing.provenance import fingerprint
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.results.many_edits import EditedModels, ManyEdits
from kedit.results.scores import EditScore
from kedit.scoring.drift import baseline, drift, held_out
from kedit.scoring.score import Scoring, own_words, score
from kedit.scoring.summary import BY_ALL, Key, shares
from kedit.stats import row_interval
from kedit.studies import many_edits as study
from kedit.studies.comparing import compare
from kedit.studies.many_edits import compare_many
from kedit.studies.prepare import one_sided, prepare
from tests.figure_checks import assert_fits, caption_of

CASES = one_sided(toy_module.cases()[:6], "entity")  # what is scored
EDITORS = ["memit", "joint"]
COUNTS = (1, 2, 6)


@pytest.fixture(scope="module")
def journal() -> Journal:
    return Journal()


@pytest.fixture(scope="module")
def found(toy: HookedTransformer, journal: Journal) -> ManyEdits:
    before = fingerprint(toy)
    result = compare_many(toy, CASES, EDITORS, counts=COUNTS, journal=journal)
    assert fingerprint(toy) == before
    return result


def point_of(found: ManyEdits, editor: str, order: str, edits: int) -> EditedModels:
    (point,) = (
        point
        for point in found.points
        if (point.editor, point.order, point.edits) == (editor, order, edits)
    )
    return point


def scored(model: HookedTransformer, cases: Sequence[EditCase]) -> list[EditScore]:
    return score(model, cases, Scoring((), say=False), own_words(model, cases))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["batch", "sequential"])
@pytest.mark.parametrize("size", [2, 6])
def test_each_model_has_the_edits_of_its_cases(
    toy: HookedTransformer, found: ManyEdits, order: str, size: int
) -> None:
    for arm in prepare(toy, EDITORS, ["entity"]):
        after: list[EditScore] = []
        perplexities, divergences = [], []
        text = baseline(toy, held_out(toy, "", 2, 0, 128))
        for start in range(0, len(CASES), size):
            group = CASES[start : start + size]
            requests = [case.entity for case in group]
            edit = arm.make(requests)
            if order == "sequential":
                edit = edit_in_turn(toy, requests, lambda request, arm=arm: arm.make([request]))
            with edit.applied(toy):
                after += scored(toy, group)
                drifted = drift(toy, text)
            perplexities.append(drifted.perplexity[1])
            divergences.append(float(drifted.kl.mean()))
        (expected,) = shares(scored(toy, CASES), after, [Key("entity", "Score", BY_ALL)])
        point = point_of(found, arm.name, order, size)
        assert (point.models, point.failed) == (len(CASES) // size, 0)
        for name, rows in (("gained", expected.generalisation), ("kept", expected.locality)):
            np.testing.assert_allclose(getattr(point, name), row_interval(rows), atol=1e-4)
        np.testing.assert_allclose(
            point.scores[BY_ALL].mean, row_interval(expected.score).mean, atol=1e-4
        )
        np.testing.assert_allclose(point.perplexity.mean, np.mean(perplexities), rtol=1e-4)
        np.testing.assert_allclose(point.kl.mean, np.mean(divergences), rtol=1e-3, atol=1e-6)


def test_one_edit_per_model_is_what_compare_measures(
    toy: HookedTransformer, found: ManyEdits
) -> None:
    compared = compare(toy, CASES, EDITORS, perspective="entity")
    for editor in compared.editors:
        point = point_of(found, editor.editor, "batch", 1)
        np.testing.assert_allclose(point.gained, editor.generalisation, atol=1e-4)
        np.testing.assert_allclose(point.kept, editor.locality, atol=1e-4)
        assert point.first == point.last == point.gained
        # its curve begins with the single edit in both orders
        assert found.curve(editor.editor, "sequential")[0] is point


def test_the_first_and_the_last_fifth_are_the_edits_of_the_ends(
    toy: HookedTransformer, found: ManyEdits, journal: Journal
) -> None:
    point = point_of(found, "joint", "sequential", 6)
    (record,) = (
        record
        for record in journal.records.values()
        if record.get("editor") == "joint" and record.get("order") == "sequential"
        if len(record["ids"]) == 6
    )
    after = [EditScore.from_record(one) for one in record["scores"]]
    for name, part in (("first", slice(0, 2)), ("last", slice(4, 6))):  # a fifth of 6, rounded up
        old = scored(toy, CASES[part])
        (expected,) = shares(old, after[part], [Key("entity", "Score", BY_ALL)])
        np.testing.assert_allclose(getattr(point, name).mean, expected.generalisation[0], atol=1e-4)


@pytest.mark.slow
def test_a_number_that_does_not_divide_the_cases_gives_models_of_almost_equal_size(
    toy: HookedTransformer,
) -> None:
    journal = Journal()
    # four of five means two models, too
    result = compare_many(toy, CASES[:5], ["joint"], counts=[3, 4], journal=journal)
    (point,) = result.curve("joint", "batch")
    assert (point.edits, point.models) == (3, 2)
    sizes = [len(one["ids"]) for one in journal.records.values() if one.get("order") == "batch"]
    assert sizes == [3, 2]
    # more edits than cases: all cases
    (point,) = compare_many(toy, CASES[:5], ["joint"], counts=[100]).curve("joint", "batch")
    assert (point.edits, point.models) == (5, 1)
    assert np.isnan(point.perplexity.low)  # a single model


@dataclass(frozen=True)
class Picky:
    """An editor that refuses one subject, and more requests than it has room for."""

    subject: str
    room: int = 100

    def on(self, model: HookedTransformer) -> PreparedEditor:
        joint, *_ = prepare(model, ["joint"], ["entity"])

        def make(requests: Sequence[EditRequest]) -> Edit:
            if any(request.fact.subject == self.subject for request in requests):
                raise InputError(f"{self.subject} is refused")
            if len(requests) > self.room:
                raise InputError(f"there is room for {self.room} only")
            return joint.make(requests)

        return make

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        return self.on(model)(requests)


@pytest.mark.parametrize("order", ["batch", "sequential"])
def test_a_case_without_an_edit_does_not_stop_the_others(
    toy: HookedTransformer, order: study.Order
) -> None:
    journal = Journal()
    refused = CASES[1]
    editor = Picky(refused.entity.fact.subject)
    result = compare_many(toy, CASES[:3], [editor], counts=[1, 3], orders=[order], journal=journal)
    assert [point.failed for point in result.points] == [1, 1]
    (record,) = (one for one in journal.records.values() if len(one.get("ids", ())) == 3)
    assert record["refused"] == {refused.id: f"{refused.entity.fact.subject} is refused"}
    old, new = scored(toy, CASES[:3]), [EditScore.from_record(one) for one in record["scores"]]
    assert new[1] != old[1]  # the others' edits reach its prompts, and are not counted as its own
    (expected,) = shares(old, [new[0], old[1], new[2]], [Key("entity", "Score", BY_ALL)])
    point = result.points[-1]
    np.testing.assert_allclose(point.gained.mean, expected.generalisation[0], atol=1e-4)
    np.testing.assert_allclose(point.kept.mean, expected.locality[0], atol=1e-4)
    assert "1" in str(result.table())


@pytest.mark.parametrize("subject", ["nobody", CASES[1].entity.fact.subject])
def test_facts_that_cannot_be_edited_together_are_left_out_with_the_reason(
    toy: HookedTransformer, subject: str
) -> None:
    editor, journal = Picky(subject, room=1), Journal()
    result = compare_many(
        toy, CASES[:3], [editor], counts=[1, 3], orders=["batch"], journal=journal
    )
    assert [point.failed for point in result.points] == [int(subject != "nobody"), 3]
    reasons = [record["skipped"] for record in journal.records.values() if "skipped" in record]
    assert "there is room for 1 only" in reasons


def test_a_model_that_is_no_longer_finite_enters_as_unedited(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> list[EditScore]:
        raise InputError("after the edits: logprob is nan")

    monkeypatch.setattr(study, "score", broken)
    result = compare_many(toy, CASES[:2], ["joint"], counts=[2], orders=["batch"])
    (point,) = result.points
    assert point.failed == 2
    assert float(point.gained.mean) == 0 and float(point.kept.mean) == 1
    assert np.isnan(point.kl.mean)
    assert ManyEdits.from_record(result.to_record()).to_record() == result.to_record()
    assert_fits(many_edits(result))


def test_a_second_call_edits_nothing_again(
    toy: HookedTransformer, found: ManyEdits, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "_edited", None)
    again = compare_many(toy, CASES, EDITORS, counts=COUNTS, journal=journal)
    assert again.to_record() == found.to_record()


def test_impossible_numbers_and_another_study_are_refused(
    toy: HookedTransformer, journal: Journal, found: ManyEdits
) -> None:
    for counts in ([], [0]):
        with pytest.raises(InputError, match="^counts: .*at least 1"):
            compare_many(toy, CASES, EDITORS, counts=counts)
    with pytest.raises(InputError, match="^editors: must be different, got joint, memit, joint$"):
        compare_many(toy, CASES, ["joint", "memit", "joint"])
    with pytest.raises(InputError, match="journal holds results of compare_many with seed=0"):
        compare_many(toy, CASES, EDITORS, seed=1, journal=journal)


def test_the_table_the_rows_and_the_figure(found: ManyEdits) -> None:
    table = found.table()
    assert {"Score by both", "first fifth", "last fifth", "kept"} <= set(table.columns)
    assert [row[:3] for row in table.rows][:3] == [
        ("memit", "", "1"), ("memit", "batch", "2"), ("memit", "batch", "6"),
    ]  # fmt: skip
    assert len(found.rows()) == len(found.points) == 2 * 5  # two editors, 1 + 2 + 2 points
    figure = many_edits(found)
    assert_fits(figure)
    assert "n = 6 cases" in caption_of(figure)
    assert all(len(ax.lines) >= 4 for ax in figure.axes)  # two editors in two orders


def test_the_command_saves_and_draws(tmp_path: Path) -> None:
    folder = run(Config(model="toy", editors="joint", counts=[1, 2], limit=2, out=str(tmp_path)))
    loaded = ManyEdits.load(folder)
    assert [(point.order, point.edits) for point in loaded.points] == [
        ("batch", 1), ("batch", 2), ("sequential", 2),
    ]  # fmt: skip
    assert (folder / "many_edits.png").stat().st_size > 10_000
    with torch.no_grad():
        assert "sequential" in (folder / "many_edits.csv").read_text(encoding="utf-8")
