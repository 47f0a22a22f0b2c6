"""Reads facts and edit cases, from kedit's own data or from a file in any supported format.

Most modules here parse one data set or file format. `load_facts` and `load_cases` recognise the
format by the fields of the records.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kedit.data import builtin
from kedit.data.fields import Skipped
from kedit.data.forms import parse_file
from kedit.errors import RecordError
from kedit.facts import EditCase, Fact


def load_facts(source: str | Path) -> Sequence[Fact]:
    """Loads all facts of "builtin", "toy", or a file in one of `kedit.data.forms.FORMS`.

    Raises:
        RecordError: the file does not exist, holds no records, or a record breaks its schema.
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
    """Loads all edit cases of "builtin", "toy", or a file in one of `kedit.data.forms.FORMS`.

    Raises:
        RecordError: the file does not exist, holds no records, a record breaks its schema, or two
            records have the same id.
    """
    cases: list[EditCase] = []
    for case in read_cases(source):
        if isinstance(case, Skipped):
            raise RecordError(str(case))
        cases.append(case)
    return cases


def read_facts(source: str | Path) -> Iterator[Fact | Skipped]:
    """Yields the facts that `load_facts` loads, and a `Skipped` for each record it cannot use.

    Raises:
        RecordError: the file does not exist, is truncated, or has no record in a known format.
    """
    if source == "builtin":
        yield from builtin.load()
    elif source == "toy":
        from kedit.models import (
            toy,  # imported here because it imports torch, which reading files does not need
        )

        yield from toy.facts()
    else:
        for _, fact in parse_file(source, lambda form: form.facts):
            yield fact


def read_cases(source: str | Path) -> Iterator[EditCase | Skipped]:
    """Yields the cases that `load_cases` loads, and a `Skipped` for each record it cannot use.

    Raises:
        RecordError: the file does not exist, is truncated, or has no record in a known format.
    """
    if source == "builtin":
        yield from builtin.cases()
        return
    if source == "toy":
        from kedit.models import toy

        yield from toy.cases()
        return
    locations: dict[str, str] = {}  # by id of the case
    for location, case in parse_file(source, lambda form: form.cases):
        if isinstance(case, EditCase) and case.id in locations:
            reason = f"the id {case.id!r} is already used by {locations[case.id]}"
            yield Skipped(location, reason, case.id)
            continue
        if isinstance(case, EditCase):
            locations[case.id] = location
        yield case
