"""Scoring cases in a journal: resumed, in the same order, and bad cases cost only themselves."""

from dataclasses import replace

import pytest
from transformer_lens import HookedTransformer

from kedit.editors.ft import FT
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.records import to_record
from kedit.scoring.score import Scoring, score
from kedit.studies import scoring as room
from kedit.studies.scoring import score_cases, score_each, scores_before, unscored

FAST = Scoring(say=False)


def test_a_case_is_scored_once_and_anew_when_it_is_another(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, journal = toy_module.cases()[:2], Journal()
    scores = score_each(toy, cases, FAST, journal=journal)
    assert scores == score(toy, cases, FAST) and len(journal.records) == 2
    changed = replace(cases[0], probes=cases[0].probes[:1])
    again = score_each(toy, [changed, cases[1]], FAST, journal=journal)
    assert [len(one.probes) for one in again] == [1, len(cases[1].probes)]
    assert len(journal.records) == 3
    monkeypatch.setattr(room, "score", None)  # what is there is not scored again
    assert score_each(toy, cases, FAST, journal=journal) == scores
    assert scores_before(toy, cases, FAST, journal) == dict(zip(cases, scores, strict=True))


def test_a_case_that_cannot_be_scored_costs_only_itself(toy: HookedTransformer) -> None:
    good, other = toy_module.cases()[:2]
    long = replace(other.probes[0], prompt="Ada Alder " * 60)
    bad, journal = replace(other, probes=(*other.probes, long)), Journal()
    assert list(scores_before(toy, [good, bad], FAST, journal)) == [good]
    assert list(unscored([good, bad], journal)) == [bad.id]
    assert "the model reads 64" in unscored([good, bad], journal)[bad.id]
    with pytest.raises(InputError, match="no case could be scored: see the journal's records"):
        scores_before(toy, [bad], FAST, journal)


def test_a_journal_gives_no_scores_of_the_unedited_model_to_an_edited_one(
    toy: HookedTransformer,
) -> None:
    cases, journal = toy_module.cases()[:2], Journal()
    edit = FT(2)(toy, [cases[0].entity])
    score_cases(toy, cases[:1], say=False, journal=journal)
    before = score_cases(toy, cases, say=False, journal=journal)  # more cases: the same question
    with edit.applied(toy):
        with pytest.raises(InputError, match="scoring with model=.*use another journal"):
            score_cases(toy, cases, say=False, journal=journal)
        with pytest.raises(InputError, match="scoring with model="):
            score_each(toy, cases, FAST, journal=journal)  # as other studies do
        after = score_cases(toy, cases, say=False, journal=Journal())
    assert to_record(after) != to_record(before)
    # the edit is taken back: the journal is this model's again
    again = score_cases(toy, cases, say=False, journal=journal)
    assert to_record(again) == to_record(before)
    for other in ({"say": True}, {"labels": ["birthplace"]}, {"n_texts": 1}, {"seed": 1}):
        (name,) = other
        with pytest.raises(InputError, match=f"scoring with {name}="):
            score_cases(toy, cases, journal=journal, **{"say": False, **other})


def test_ranks_among_other_relations_are_not_mixed(toy: HookedTransformer) -> None:
    cases, journal = toy_module.cases()[:2], Journal()
    relabelled = replace(
        cases[1], probes=tuple(replace(probe, label="seat") for probe in cases[1].probes)
    )
    score_cases(toy, cases[:1], say=False, journal=journal)
    with pytest.raises(InputError, match="scoring with labels="):
        score_cases(toy, [cases[0], relabelled], say=False, journal=journal)


def test_two_cases_of_one_id_are_told_apart_by_the_user(toy: HookedTransformer) -> None:
    first, second = toy_module.cases()[:2]
    assert list(scores_before(toy, [first, first], FAST, Journal())) == [first]
    with pytest.raises(InputError, match=f"two different cases have the id '{first.id}'"):
        scores_before(toy, [first, replace(second, id=first.id)], FAST, Journal())


def test_the_first_cases_have_texts(toy: HookedTransformer) -> None:
    cases = toy_module.cases()[:2]
    scores = score_each(toy, cases, FAST, n_texts=1)
    assert [one.fluency is None for one in scores] == [False, True]
