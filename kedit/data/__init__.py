"""Datasets, one a file; `load_facts` and `load_cases` find out which one they are given."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kedit.data import builtin, counterfact, easyedit, known, own, rake, zsre
from kedit.data.fields import Record, Skipped, skipped
from kedit.data.read import records, records_and_errors
from kedit.errors import RecordError
from kedit.facts import EditCase, Fact


class Form(NamedTuple):
    """A benchmark's file format.

    Args:
        marks: fields, dotted where they lie in another, that every record of it has and none of
            the forms further up has all of.
    """

    name: str
    marks: tuple[str, ...]
    parse: Callable[[str, Record], EditCase]


FORMS = (
    Form("RaKE", ("requested_rewrite.add_rel_prompt",), rake.parse),
    Form("CounterFact", ("requested_rewrite",), counterfact.parse),
    Form("zsRE as MEND has it", ("src", "alt"), zsre.parse),
    Form("EasyEdit's CounterFact", ("prompt", "target_new"), easyedit.parse),
    Form("edits alone", ("prompt_template", "target_new"), easyedit.parse_edit),
)


def load_facts(source: str | Path) -> Sequence[Fact]:
    """Facts of "builtin", "toy", or a file: known_1000.json, CounterFact, or one's own JSON Lines.

    Raises:
        RecordError: no such file, no records, or a record that breaks its schema.
    """
    if source == "builtin":
        return builtin.load()
    if source == "toy":
        from kedit import toy  # not above: it brings torch, which reading files does not need

        return toy.facts()
    first = next(iter(records(source)), None)
    if first is None:
        raise RecordError(f"{source}: it holds no records")
    if "requested_rewrite" in first[1]:
        return counterfact.load(source)
    if "attribute" in first[1]:
        return known.load(source)
    return own.load(source)


def load_cases(source: str | Path) -> list[EditCase]:
    """Edits of "builtin", "toy", or of a file in one of FORMS.

    Raises:
        RecordError: no such file, no records, a record that breaks its schema, or an id twice.
    """
    cases: list[EditCase] = []
    for case in read_cases(source):
        if isinstance(case, Skipped):
            raise RecordError(str(case))
        cases.append(case)
    return cases


def read_cases(source: str | Path) -> Iterator[EditCase | Skipped]:
    """As `load_cases`, one at a time; for a record that cannot be used, why.

    Raises:
        RecordError: no such file, none of its records is of a known form, or it breaks off.
    """
    if source == "builtin":
        yield from builtin.cases()
        return
    if source == "toy":
        from kedit import toy

        yield from toy.cases()
        return
    form, places = None, {}
    for place, record in records_and_errors(source):
        try:
            if isinstance(record, RecordError):
                raise record
            form = form or _form(place, record)
            case = form.parse(place, record)
            if case.id in places:
                raise RecordError(f"{place}: the id {case.id!r} is taken by {places[case.id]}")
        except RecordError as error:
            yield skipped(place, error)
        else:
            places[case.id] = place
            yield case
    if form is None:
        raise RecordError(f"{source}: it holds no records of a form that is known: {_names()}")


def _form(place: str, record: Record) -> Form:
    for form in FORMS:
        if all(_has(record, mark.split(".")) for mark in form.marks):
            return form
    fields = ", ".join(map(repr, record)) or "none"
    raise RecordError(f"{place}: fields {fields:.100} are of no form that is known: {_names()}")


def _has(record: object, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    return isinstance(record, dict) and keys[0] in record and _has(record[keys[0]], keys[1:])


def _names() -> str:
    return ", ".join(form.name for form in FORMS)
