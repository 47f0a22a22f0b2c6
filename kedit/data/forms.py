"""The file formats of facts and edits, which are recognised by the fields of the records."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from kedit.data import counterfact, easyedit, known, lre, mquake, own, rake, written, zsre
from kedit.data.fields import MissingField, Record, Skipped, skipped
from kedit.data.read import records_and_errors
from kedit.errors import RecordError
from kedit.facts import EditCase, Fact, Relation

log = logging.getLogger("kedit")

Parsed = TypeVar("Parsed", Fact, EditCase)
# from location and record to the facts or cases in the record
Parse = Callable[[str, Record], Iterable[Parsed | Skipped]]


class Form(NamedTuple):
    """A file format.

    Args:
        name: name of the format, for messages.
        marks: fields by which the format is recognised: every record has all of them. A dot leads
            into a nested object. Formats are tried in the order of `FORMS`.
        needs: fields that a record needs, in words.
        cases, facts: parsers of a record.
        fields: all fields that kedit reads or ignores on purpose. Others are reported once per
            file. Empty for formats with many other fields: nothing is reported.
        note: remark that is logged once per file of cases.
    """

    name: str
    marks: tuple[str, ...]
    needs: str
    cases: Parse[EditCase]
    facts: Parse[Fact]
    fields: frozenset[str] = frozenset()
    note: str = ""


def _single(parse: Callable[[str, Record], Parsed]) -> Parse[Parsed]:
    """Turns a function for a single fact or case into a `Parse`."""
    return lambda location, record: [parse(location, record)]


def _wording(parse: Callable[[str, Record], Fact]) -> Parse[Fact]:
    """Wraps a parser of facts whose relation may have no name.

    A fact without a relation gets its template for the relation, so that facts with the same
    template share a relation.
    """

    def named(location: str, record: Record) -> list[Fact]:
        fact = parse(location, record)
        if fact.relation.id:
            return [fact]
        return [replace(fact, relation=Relation(fact.template, fact.template))]

    return named


def _no_cases(location: str, record: Record) -> Iterator[EditCase]:
    raise RecordError(f"{location}: these facts have no targets, so there is nothing to edit")
    yield  # makes this function a generator, as other parsers are


def _written_fact(location: str, record: Record) -> list[Fact]:
    return [written.parse(location, record).entity.fact]


def _edited_fact(location: str, record: Record) -> list[Fact]:
    return [easyedit.parse_edit(location, record).entity.fact]


OWN = Form(
    "your own facts", ("subject", "relation", "object"), own.NEEDS, _single(own.parse),
    _single(own.parse_fact), own.KNOWN,
)  # fmt: skip
FORMS = (
    Form("RaKE", ("requested_rewrite.add_rel_prompt",), counterfact.NEEDS, _single(rake.parse),
         _single(counterfact.parse_fact)),
    Form("MQuAKE", ("requested_rewrite", "new_answer"), mquake.NEEDS, _single(mquake.parse),
         mquake.parse_facts),
    Form("CounterFact", ("requested_rewrite",), counterfact.NEEDS, _single(counterfact.parse),
         _single(counterfact.parse_fact)),
    Form("MEND's zsRE", ("src", "alt"), zsre.NEEDS, _single(zsre.parse),
         _wording(zsre.parse_fact)),
    OWN,
    Form("KnowEdit or EasyEdit's CounterFact", ("prompt", "target_new"), easyedit.NEEDS,
         _single(easyedit.parse), _wording(easyedit.parse_fact)),
    Form("edits without test prompts", ("prompt_template", "target_new"),
         "case_id, subject, prompt_template (with {}), relation_id, ground_truth, target_new",
         _single(easyedit.parse_edit), _edited_fact),
    Form("known_1000", ("attribute", "prompt"), known.NEEDS, _no_cases, _single(known.parse_fact)),
    Form("kedit's own cases", ("entity", "probes"), written.NEEDS, _single(written.parse),
         _written_fact),
    Form("a relation file", ("prompt_templates", "samples"), lre.NEEDS, lre.parse, lre.parse_facts,
         note=f"targets are other objects of each relation, drawn with seed {lre.SEED}"),
    # last: a record with a subject that fits no format is reported with the fields it lacks
    OWN._replace(marks=("subject",)),
)  # fmt: skip


def parse_file(
    source: str | Path, parse_of: Callable[[Form], Parse[Parsed]]
) -> Iterator[tuple[str, Parsed | Skipped]]:
    """Parses all records of a file; yields location and fact or case, or why a record is unusable.

    The first record in a known format decides the format of the file. Fields that this format does
    not know are logged once.

    Args:
        parse_of: selects the parser of a format: `Form.facts` or `Form.cases`.

    Raises:
        RecordError: the file does not exist, is truncated, or has no record in a known format.
    """
    form, ignored, is_empty = None, {}, True
    for location, record in records_and_errors(source):
        is_empty = False
        try:
            if isinstance(record, RecordError):
                raise record
            form = form or _form(location, record)
        except RecordError as error:
            yield location, skipped(location, error)
            continue
        if form.fields:
            ignored |= dict.fromkeys(name for name in record if not _is_known(form, name))
        try:
            yield from ((location, parsed) for parsed in parse_of(form)(location, record))
        except RecordError as error:
            yield location, _unusable(form, location, error)
    if is_empty:
        raise RecordError(f"{source}: the file holds no records")
    if form is None:
        raise RecordError(f"{source}: no record has a known format: {_names()}")
    if ignored:
        log.info("%s: kedit ignores the fields %s", source, ", ".join(ignored))
    if form.note and parse_of(form) is form.cases:
        log.info("%s: %s", source, form.note)


def _is_known(form: Form, name: str) -> bool:
    """Whether a format knows a field, perhaps with a number at its end, as in paraphrase_1."""
    return name in form.fields or name.rstrip("0123456789").rstrip(" _.-") in form.fields


def _unusable(form: Form, location: str, error: RecordError) -> Skipped:
    """Says as which format a record was read and why it is unusable."""
    reason = str(error).removeprefix(location).removeprefix(": ")
    needs = f"; needed: {form.needs}" if isinstance(error, MissingField) else ""
    return Skipped(location, f"read as {form.name}: {reason}{needs}")


def _form(location: str, record: Record) -> Form:
    for form in FORMS:
        if all(_has(record, mark.split(".")) for mark in form.marks):
            return form
    fields = ", ".join(map(repr, record)) or "none"
    raise RecordError(f"{location}: fields {fields:.100} fit no known format: {_names()}")


def _has(record: object, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    return isinstance(record, dict) and keys[0] in record and _has(record[keys[0]], keys[1:])


def _names() -> str:
    return ", ".join(dict.fromkeys(form.name for form in FORMS))
