"""Scores of benchmark cases under a model, kept as they are finished."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.records import key_of
from kedit.results.scores import EditScore
from kedit.scoring.score import Scoring, own_words, score

TOGETHER = 16  # cases scored at once: more saves no time, and less is lost when interrupted


def score_each(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    scoring: Scoring,
    *,
    n_texts: int = 0,
    journal: Journal | None = None,
) -> list[EditScore]:
    """Scores of `cases`, in order; one that cannot be scored is recorded with the reason.

    Args:
        n_texts: of so many cases, the first ones, texts are generated.
    """
    journal = Journal() if journal is None else journal
    with_texts = {key_of(case) for case in cases[:n_texts]}

    def work(ones: Sequence[EditCase]) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for texts in (True, False):
            own = [case for case in ones if (key_of(case) in with_texts) == texts]
            if own:
                how = replace(scoring, texts=texts)
                for case, one in zip(
                    own, score(model, own, how, own_words(model, own)), strict=True
                ):
                    found[key_of(case)] = one.to_record()
        return [found[key_of(case)] for case in ones]

    entries = journal.each_batch(
        cases, key_of, work, TOGETHER, unit="cases", doing="scoring",
        about=lambda case: {"id": case.id},
    )  # fmt: skip
    return [EditScore.from_record(one.record) for one in entries if not one.skipped]


def scores_before(
    model: HookedTransformer, cases: Sequence[EditCase], scoring: Scoring, journal: Journal
) -> dict[EditCase, EditScore]:
    """The cases that can be scored, with their scores before any edit.

    Raises:
        InputError: there are none.
    """
    scores = {one.id: one for one in score_each(model, cases, scoring, journal=journal)}
    usable = {case: scores[case.id] for case in cases if case.id in scores}
    if not usable:
        raise InputError(f"no case could be scored: {journal.where} says why")
    return usable
