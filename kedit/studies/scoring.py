"""Scoring cases under a model, and where a model stands before any edit."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
from transformer_lens import HookedTransformer

from kedit.data.choose import labels_of
from kedit.data.corpus import corpus_of
from kedit.editing.provenance import current_fingerprint
from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.records import key_of
from kedit.results.measures import Scores
from kedit.results.scores import EditScore
from kedit.scoring.drift import held_out as chunks_of
from kedit.scoring.drift import surprise
from kedit.scoring.score import Scoring, own_words, score
from kedit.scoring.summary import by_relation, measures
from kedit.stats import Interval, bootstrap_ratio

TOGETHER = 16  # cases scored at once: more saves no time, and less is lost when interrupted


# eight parameters: what is scored, and what is measured beside the likelihoods
def score_cases(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    *,
    labels: Sequence[str] | None = None,
    say: bool = True,
    n_texts: int = 0,
    held_out: str = "",
    seed: int = 0,
    journal: Journal | None = None,
) -> Scores:
    """Where `model` stands before any edit: every metric of both sides, with intervals over cases.

    Args:
        labels: the relations' names among which a relation's rank is taken; None: those of `cases`.
        say: let the model speak after the prompts, and look whether it says the answer.
        n_texts: of so many cases, the first ones, texts are generated for their n-gram entropy.
        held_out: text for perplexity, as `kedit.scoring.drift.held_out` has it.
        seed: of texts and of the bootstrap.

    Raises:
        InputError: no case can be scored, the text cannot be read, or the journal holds scores
            under other settings or of a model with other weights.
    """
    journal = Journal() if journal is None else journal
    # not held_out: perplexity is no record of the journal, but is measured at each call
    journal.ask(
        "score_cases",
        model=current_fingerprint(model),
        labels=labels,
        say=say,
        n_texts=n_texts,
        seed=seed,
    )
    labels = labels_of(cases) if labels is None else tuple(labels)
    scoring = Scoring(labels, say, seed=seed)
    scores = score_each(model, cases, scoring, n_texts=n_texts, journal=journal)
    if not scores:
        raise InputError(f"no case could be scored: {journal.where} says why")
    nll = surprise(model, chunks_of(model, held_out, seed=seed)).mean(1).tolist()
    mean_nll = bootstrap_ratio(np.array(nll), np.ones(len(nll)), seed=seed)
    return Scores(
        model=name_of(model),
        seed=seed,
        overall=tuple(measures(scores, seed=seed)),
        by_relation={
            relation: tuple(measures(own, seed=seed))
            for relation, own in by_relation(scores).items()
        },
        kinds={score.relation: score.kind for score in scores},
        perplexity=Interval(*(np.exp(value) for value in mean_nll)),
        text=corpus_of(str(model.cfg.model_name), held_out, seed, held_out=True).name,
        n_chunks=len(nll),
        n_cases=len(scores),
        skipped=unscored(cases, journal),
    )


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

    Raises:
        InputError: the journal holds scores of a model with other weights.
    """
    journal = Journal() if journal is None else journal
    # the keys of records name cases, not models: a journal that several studies share would give
    # the scores of one model to another
    journal.ask("scoring", model=current_fingerprint(model))
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
