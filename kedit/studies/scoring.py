"""Scores benchmark cases under a model.

`score_cases` measures where a model stands before any edit. `score_each` gives the scores of single
cases, which studies of edits compare with the scores after an edit.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
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

# more cases at once save no time, and fewer are lost when the study is interrupted
CASES_PER_BATCH = 16


# eight parameters: what is scored, and what is measured in addition to the likelihoods
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
    """Scores the cases under `model` and summarises every metric of both sides.

    The model is measured as it is: load it without an edit to see where it stands before one.

    Args:
        labels: names of the relations among which a relation is ranked; None: those of `cases`.
        say: whether the model also continues the prompts, to check whether it says the answer.
        n_texts: number of cases, from the first on, for which texts are generated; their n-gram
            entropy measures fluency.
        held_out: text on which perplexity is measured; see `kedit.scoring.drift.held_out`.
        seed: seed of the generated texts and of the bootstrap.
        journal: keeps the scores of finished cases, so that a study that was interrupted continues.

    Raises:
        InputError: no case can be scored, the text cannot be read, or the journal holds scores
            under other settings, such as ranks among other relations, or of a model with other
            weights.
    """
    journal = Journal() if journal is None else journal
    labels = labels_of(cases) if labels is None else tuple(labels)
    scoring = Scoring(labels, say, seed=seed)
    scores = score_each(model, cases, scoring, n_texts=n_texts, journal=journal)
    if not scores:
        raise InputError(f"no case could be scored: see {journal.where} for the reasons")
    # not kept in the journal: perplexity is measured at each call
    nll = surprise(model, chunks_of(model, held_out, seed=seed)).mean(1).tolist()
    mean_nll = bootstrap_ratio(np.array(nll), np.ones(len(nll)), seed=seed)
    return Scores(
        model=name_of(model),
        seed=seed,
        overall=tuple(measures(scores, seed=seed)),
        by_relation={
            relation: tuple(measures(scores_of_relation, seed=seed))
            for relation, scores_of_relation in by_relation(scores).items()
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
    """Returns the scores of `cases`, in order; cases that the journal has are not scored again.

    A case that cannot be scored is left out. The journal records the reason, and `unscored` returns
    it.

    Args:
        n_texts: number of cases, from the first on, for which texts are generated.

    Raises:
        InputError: the journal holds scores of a model with other weights, or with other settings
            of scoring.
    """
    journal = Journal() if journal is None else journal
    # records are found by case alone: without this check a journal that several studies share would
    # return the scores of one model for another, or ranks among other relations
    journal.ask("scoring", model=current_fingerprint(model), n_texts=n_texts, **asdict(scoring))
    keyed = {key_of(case): case for case in cases}
    with_texts = set(list(keyed)[:n_texts])

    def scored(items: Sequence[tuple[str, EditCase]]) -> list[dict[str, Any]]:
        found: dict[str, EditScore] = {}
        for texts in (True, False):
            part = {key: case for key, case in items if (key in with_texts) == texts}
            batch = list(part.values())
            scores = score(model, batch, replace(scoring, texts=texts), own_words(model, batch))
            found |= zip(part, scores, strict=True)
        return [found[key].to_record() for key, _ in items]

    entries = journal.each_batch(
        list(keyed.items()), itemgetter(0), scored, CASES_PER_BATCH,
        unit="cases", doing="scoring", about=lambda item: {"id": item[1].id},
    )  # fmt: skip
    return [EditScore.from_record(entry.record) for entry in entries if not entry.skipped]


def scores_before(
    model: HookedTransformer, cases: Sequence[EditCase], scoring: Scoring, journal: Journal
) -> dict[EditCase, EditScore]:
    """Returns the cases that can be scored, each with its score before any edit.

    Raises:
        InputError: no case can be scored, or two different cases have the same id.
    """
    by_id: dict[str, EditCase] = {}
    for case in cases:
        if by_id.setdefault(case.id, case) != case:
            raise InputError(
                f"two different cases have the id {case.id!r}: give one of them another, as in "
                "dataclasses.replace(case, id=...)"
            )
    scores = {score.id: score for score in score_each(model, cases, scoring, journal=journal)}
    usable = {case: scores[case.id] for case in cases if case.id in scores}
    if not usable:
        raise InputError(f"no case could be scored: see {journal.where} for the reasons")
    return usable


def unscored(cases: Sequence[EditCase], journal: Journal) -> dict[str, str]:
    """Returns, by the ids of cases, why they could not be scored according to the journal."""
    records = ((case.id, journal.records.get(key_of(case), {})) for case in cases)
    return {id: record["skipped"] for id, record in records if "skipped" in record}
