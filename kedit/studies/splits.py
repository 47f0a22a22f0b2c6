"""Parts of a benchmark that share no subject, of cases whose true object a model prefers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from transformer_lens import HookedTransformer

from kedit.data import choose
from kedit.data.fields import id_of
from kedit.data.read import records_and_errors
from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.results.base import Result
from kedit.scoring.score import Scoring
from kedit.studies.scoring import score_each
from kedit.tables import Table


@dataclass(frozen=True)
class Splits(Result):
    """Which cases are in which part.

    Args:
        model: whose preferences decided.
        n_cases, n_preferred: of how many cases, and in how many it prefers the true object.
        parts: ids of the cases of each part.
        by_relation: for each part, how many cases are of each relation, by its name.
    """

    FILE: ClassVar[str] = "splits.json"

    model: str
    n_cases: int
    n_preferred: int
    parts: Mapping[str, tuple[str, ...]]
    by_relation: Mapping[str, Mapping[str, int]]

    def table(self) -> Table:
        """Cases of each relation in each part."""
        numbers = [
            (row["relation"], *(str(row[part]) for part in self.parts)) for row in self.rows()
        ]
        every = ("all", *(str(len(ids)) for ids in self.parts.values()))
        return Table(
            f"{self.n_preferred} of {self.n_cases} cases, in which {self.model} prefers the true "
            "object",
            ("relation", *self.parts),
            (*numbers, every),
            "No subject is in two parts.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each relation."""
        names = sorted({name for own in self.by_relation.values() for name in own})
        return [
            {"relation": name}
            | {part: self.by_relation[part].get(name, 0) for part in self.by_relation}
            for name in names
        ]


def split_by_preference(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    sizes: Mapping[str, int],
    *,
    seen: int = 0,
    seed: int = 0,
    journal: Journal | None = None,
) -> Splits:
    """Cases whose true object `model` prefers, in parts (`kedit.data.choose.split_cases`).

    Raises:
        InputError: it prefers the true object in no case.
    """
    known = preferred(model, cases, journal)
    if not known:
        raise InputError("the model prefers the true object in no case")
    parts = choose.split_cases(cases, known, sizes, seen, seed)
    return Splits(
        model=name_of(model),
        n_cases=len(cases),
        n_preferred=len(known),
        parts={part: tuple(case.id for case in own) for part, own in parts.items()},
        by_relation={
            part: Counter(case.entity.fact.relation.name for case in own)
            for part, own in parts.items()
        },
    )


def preferred(
    model: HookedTransformer, cases: Sequence[EditCase], journal: Journal | None = None
) -> set[str]:
    """Ids of cases whose true object `model` finds likelier than the new one, before any edit."""
    own = [own_prompt_only(case) for case in cases]
    return {
        score.id
        for score in score_each(model, own, Scoring(say=False), journal=journal)
        for probe in score.probes
        if probe.rival_logprob is not None and probe.logprob < probe.rival_logprob
    }


def own_prompt_only(case: EditCase) -> EditCase:
    """The case with its edit's own prompt as the only probe."""
    own = [p for p in case.probes if (p.perspective, p.group) == ("entity", "efficacy")]
    return replace(case, probes=tuple(own))


def lines_of(source: str, parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The records of each part as JSON Lines, as they are in `source`.

    Args:
        parts: ids of cases.

    Raises:
        InputError: the file cannot be read, or one record of it makes several cases.
    """
    records = {
        id_of(place, record): record
        for place, record in records_and_errors(source)
        if isinstance(record, dict)
    }
    if not all(id in records for ids in parts.values() for id in ids):
        raise InputError(f"{source}: one record makes several cases, it cannot be split")
    return {
        part: "".join(json.dumps(records[id], ensure_ascii=False) + "\n" for id in ids)
        for part, ids in parts.items()
    }
