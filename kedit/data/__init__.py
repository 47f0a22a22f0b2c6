"""Datasets, one a file; `load_facts` and `load_cases` find out which one they are given."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kedit.data import builtin
from kedit.data.fields import Skipped
from kedit.data.forms import made_of
from kedit.errors import RecordError
from kedit.facts import EditCase, Fact


def load_facts(source: str | Path) -> Sequence[Fact]:
    """Facts of "builtin", "toy", or a file in one of `kedit.data.forms.FORMS`.

    Raises:
        RecordError: no such file, no records, or a record that breaks its schema.
    """
    if source == "builtin":
        return builtin.load()
    facts: list[Fact] = []
    for fact in read_facts(source):
        if isinstance(fact, Skipped):
            raise RecordError(str(fact))
        facts.append(fact)
    return facts


def load_cases(source: str | Path) -> list[EditCase]:
    """Edits of "builtin", "toy", or a file in one of `kedit.data.forms.FORMS`.

    Raises:
        RecordError: no such file, no records, a record that breaks its schema, or an id twice.
    """
    cases: list[EditCase] = []
    for case in read_cases(source):
        if isinstance(case, Skipped):
            raise RecordError(str(case))
        cases.append(case)
    return cases


def read_facts(source: str | Path) -> Iterator[Fact | Skipped]:
    """As `load_facts`, one at a time; for a record that cannot be used, why.

    Raises:
        RecordError: no such file, none of its records is of a known form, or it breaks off.
    """
    if source == "builtin":
        yield from builtin.load()
    elif source == "toy":
        from kedit.models import (
            toy,  # not above: it brings torch, which reading files does not need
        )

        yield from toy.facts()
    else:
        for _, fact in made_of(source, lambda form: form.facts):
            yield fact


def read_cases(source: str | Path) -> Iterator[EditCase | Skipped]:
    """As `load_cases`, one at a time; for a record that cannot be used, why.

    Raises:
        RecordError: no such file, none of its records is of a known form, or it breaks off.
    """
    if source == "builtin":
        yield from builtin.cases()
        return
    if source == "toy":
        from kedit.models import toy

        yield from toy.cases()
        return
    places: dict[str, str] = {}
    for place, case in made_of(source, lambda form: form.cases):
        if isinstance(case, EditCase) and case.id in places:
            taken = f"the id {case.id!r} is taken by {places[case.id]}"
            yield Skipped(place, taken, case.id)
            continue
        if isinstance(case, EditCase):
            places[case.id] = place
        yield case
