"""Scoring cases under a model, and where a model stands before any edit."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
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
    """Scores of `cases`, in order; what the journal holds is not done again.

    A case that cannot be scored is recorded with the reason (`unscored` has it) and left out.

    Args:
        n_texts: of so many cases, the first ones, texts are generated.
    """
    journal = Journal() if journal is None else journal
    keyed = {key_of(case): case for case in cases}
    with_texts = set(list(keyed)[:n_texts])

    def scored(items: Sequence[tuple[str, EditCase]]) -> list[dict[str, Any]]:
        found: dict[str, EditScore] = {}
        for texts in (True, False):
            part = {key: case for key, case in items if (key in with_texts) == texts}
            own = list(part.values())
            scores = score(model, own, replace(scoring, texts=texts), own_words(model, own))
            found |= zip(part, scores, strict=True)
        return [found[key].to_record() for key, _ in items]

    entries = journal.each_batch(
        list(keyed.items()), itemgetter(0), scored, TOGETHER,
        unit="cases", doing="scoring", about=lambda item: {"id": item[1].id},
    )  # fmt: skip
    return [EditScore.from_record(entry.record) for entry in entries if not entry.skipped]


def scores_before(
    model: HookedTransformer, cases: Sequence[EditCase], scoring: Scoring, journal: Journal
) -> dict[EditCase, EditScore]:
    """The cases that can be scored, with their scores before any edit.

    Raises:
        InputError: there are none.
    """
    scores = {score.id: score for score in score_each(model, cases, scoring, journal=journal)}
    usable = {case: scores[case.id] for case in cases if case.id in scores}
    if not usable:
        raise InputError(f"no case could be scored: {journal.where} says why")
    return usable


def unscored(cases: Sequence[EditCase], journal: Journal) -> dict[str, str]:
    """Why cases of a journal could not be scored, by their ids."""
    records = ((case.id, journal.records.get(key_of(case), {})) for case in cases)
    return {id: record["skipped"] for id, record in records if "skipped" in record}
