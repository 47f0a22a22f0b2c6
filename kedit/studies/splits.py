"""Splits a benchmark into parts without common subjects.

Only cases that a model knows are used: in the others there is no knowledge to edit.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from transformer_lens import HookedTransformer

from kedit.data import choose
from kedit.data.fields import id_of
from kedit.data.named import RECORDS
from kedit.data.read import records_and_errors
from kedit.data.written import record_of
from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.results.base import Result
from kedit.scoring.score import Scoring
from kedit.studies.scoring import score_each
from kedit.tables import Table

# whether the model finds the true object likelier than the new one, or also answers with it
Known = Literal["preferred", "answered"]


@dataclass(frozen=True)
class Splits(Result):
    """The parts of a split benchmark.

    Args:
        model: name of the model that had to know the cases.
        known: what counted as known, see `split_known`.
        n_cases: number of all cases.
        n_known: number of cases that the model knows.
        parts: ids of the cases of each part.
        by_relation: for each part, the number of cases per relation, by the relation's name.
    """

    FILE: ClassVar[str] = "splits.json"

    model: str
    known: Known
    n_cases: int
    n_known: int
    parts: Mapping[str, tuple[str, ...]]
    by_relation: Mapping[str, Mapping[str, int]]

    def table(self) -> Table:
        """Returns the number of cases per relation and part."""
        numbers = [
            (row["relation"], *(str(row[part]) for part in self.parts)) for row in self.rows()
        ]
        total = ("all", *(str(len(ids)) for ids in self.parts.values()))
        return Table(
            f"{self.n_known} of {self.n_cases} cases, in which {self.model} "
            + ("prefers" if self.known == "preferred" else "answers with")
            + " the true object",
            ("relation", *self.parts),
            (*numbers, total),
            "No subject is in two parts.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per relation."""
        names = sorted({name for counts in self.by_relation.values() for name in counts})
        return [
            {"relation": name}
            | {part: self.by_relation[part].get(name, 0) for part in self.by_relation}
            for name in names
        ]


def split_known(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    sizes: Mapping[str, int],
    *,
    known: Known = "preferred",
    seen: int = 0,
    seed: int = 0,
    journal: Journal | None = None,
) -> Splits:
    """Splits the cases that `model` knows into parts without common subjects.

    Args:
        sizes: number of cases of each part, in the order in which the parts are filled; 0: all that
            are left.
        known: "preferred": the model finds the true object likelier than the new one; "answered":
            its greedy continuation of the prompt also begins with the true object.
        seen: number of cases, from the first of `kedit.data.choose.spread_cases` on, that somebody
            has seen already: their subjects are in the first part, or in none.
        seed: seed of the split.
        journal: keeps the scores of finished cases, so that a study that was interrupted continues.

    Raises:
        InputError: the model knows no case.
    """
    found = known_cases(model, cases, known, journal)
    if not found:
        raise InputError(f"the model knows no case (known={known!r})")
    parts = choose.split_cases(cases, found, sizes, seen, seed)
    return Splits(
        model=name_of(model),
        known=known,
        n_cases=len(cases),
        n_known=len(found),
        parts={part: tuple(case.id for case in chosen) for part, chosen in parts.items()},
        by_relation={
            part: Counter(case.entity.fact.relation.name for case in chosen)
            for part, chosen in parts.items()
        },
    )


def known_cases(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    known: Known,
    journal: Journal | None = None,
) -> set[str]:
    """Returns the ids of the cases that `model` knows; for `known` see `split_known`."""
    reduced = [own_prompt_only(case) for case in cases]
    answered = known == "answered"
    return {
        score.id
        for score in score_each(model, reduced, Scoring(say=answered), journal=journal)
        for probe in score.probes
        if probe.rival_logprob is not None
        and probe.logprob < probe.rival_logprob
        and (probe.says_rival or not answered)
    }


def own_prompt_only(case: EditCase) -> EditCase:
    """Returns the case with the prompt of its entity request as the only probe."""
    probes = [p for p in case.probes if (p.perspective, p.group) == ("entity", "efficacy")]
    return replace(case, probes=tuple(probes))


def lines_of(
    source: str, cases: Sequence[EditCase], parts: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Returns the records of each part as JSON Lines.

    The records of a file have the fields that they have there; "builtin" and "toy", which are not
    files, get kedit's own form of cases.

    Args:
        source: the file of the benchmark, or a name.
        cases: the cases of `source`.
        parts: ids of the cases of each part.

    Raises:
        InputError: the file cannot be read, or one of its records gives several cases.
    """
    if source in RECORDS:
        records = {case.id: record_of(case) for case in cases}
    else:
        records = {
            id_of(location, record): record
            for location, record in records_and_errors(source)
            if isinstance(record, dict)
        }
    if not all(id in records for ids in parts.values() for id in ids):
        raise InputError(
            f"{source}: cannot be split, because one of its records gives several cases"
        )
    return {
        part: "".join(json.dumps(records[id], ensure_ascii=False) + "\n" for id in ids)
        for part, ids in parts.items()
    }
