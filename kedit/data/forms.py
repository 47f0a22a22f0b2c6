"""The forms that records of facts and of edits have, note by their fields."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from kedit.data import counterfact, easyedit, known, lre, mquake, own, rake, zsre
from kedit.data.fields import MissingField, Record, Skipped, skipped
from kedit.data.read import records_and_errors
from kedit.errors import RecordError
from kedit.facts import EditCase, Fact, Relation

log = logging.getLogger("kedit")

Parsed = TypeVar("Parsed", Fact, EditCase)
Parse = Callable[[str, Record], Iterable[Parsed | Skipped]]


class Form(NamedTuple):
    """A file format.

    Args:
        marks: fields, dotted where they lie in another, that every record of it has and none of
            the forms further up has all of.
        needs: the fields of a record, in words.
        cases, facts: what a record makes.
        fields: all that are known; of a form that has many others, none.
        note: what is said once of a file of cases, in words.
    """

    name: str
    marks: tuple[str, ...]
    needs: str
    cases: Parse[EditCase]
    facts: Parse[Fact]
    fields: frozenset[str] = frozenset()
    note: str = ""


def _single(parse: Callable[[str, Record], Parsed]) -> Parse[Parsed]:
    """A record makes one."""
    return lambda location, record: [parse(location, record)]


def _wording(parse: Callable[[str, Record], Fact]) -> Parse[Fact]:
    """A fact whose relation may have no name: facts in the same words are of one relation then."""

    def named(location: str, record: Record) -> list[Fact]:
        fact = parse(location, record)
        if fact.relation.id:
            return [fact]
        return [replace(fact, relation=Relation(fact.template, fact.template))]

    return named


def _no_cases(location: str, record: Record) -> Iterator[EditCase]:
    raise RecordError(f"{location}: these facts have no targets, so that there is nothing to edit")
    yield


def _edited(location: str, record: Record) -> list[Fact]:
    return [easyedit.parse_edit(location, record).entity.fact]


OWN = Form(
    "facts of one's own", ("subject", "relation", "object"), own.NEEDS, _single(own.parse),
    _single(own.parse_fact), own.KNOWN,
)  # fmt: skip
FORMS = (
    Form("RaKE", ("requested_rewrite.add_rel_prompt",), counterfact.NEEDS, _single(rake.parse),
         _single(counterfact.parse_fact)),
    Form("MQuAKE", ("requested_rewrite", "new_answer"), mquake.NEEDS, _single(mquake.parse),
         mquake.parse_facts),
    Form("CounterFact", ("requested_rewrite",), counterfact.NEEDS, _single(counterfact.parse),
         _single(counterfact.parse_fact)),
    Form("zsRE as MEND has it", ("src", "alt"), zsre.NEEDS, _single(zsre.parse),
         _wording(zsre.parse_fact)),
    OWN,
    Form("KnowEdit or EasyEdit's CounterFact", ("prompt", "target_new"), easyedit.NEEDS,
         _single(easyedit.parse), _wording(easyedit.parse_fact)),
    Form("edits alone", ("prompt_template", "target_new"),
         "case_id, subject, prompt_template (with {}), relation_id, ground_truth, target_new",
         _single(easyedit.parse_edit), _edited),
    Form("known_1000", ("attribute", "prompt"), known.NEEDS, _no_cases, _single(known.parse_fact)),
    Form("a relation file", ("prompt_templates", "samples"), lre.NEEDS, lre.parse, lre.parse_facts,
         note=f"targets are other objects of each relation, drawn by seed {lre.SEED}"),
    OWN._replace(marks=("subject",)),
)  # fmt: skip


def parse_file(
    source: str | Path, parse_of: Callable[[Form], Parse[Parsed]]
) -> Iterator[tuple[str, Parsed | Skipped]]:
    """What the records of a file make, each with its location, or why one cannot be used.

    The file's form is that of the first record that has one. Fields that a form does not know are
    named once, in the log.

    Raises:
        RecordError: no such file, none of its records is of a known form, or it breaks off.
    """
    form, unread, held = None, {}, False
    for location, record in records_and_errors(source):
        held = True
        try:
            if isinstance(record, RecordError):
                raise record
            form = form or _form(location, record)
        except RecordError as error:
            yield location, skipped(location, error)
            continue
        if form.fields:
            unread |= dict.fromkeys(name for name in record if not _is_known(form, name))
        try:
            yield from ((location, made) for made in parse_of(form)(location, record))
        except RecordError as error:
            yield location, _refused(form, location, error)
    if not held:
        raise RecordError(f"{source}: it holds no records")
    if form is None:
        raise RecordError(f"{source}: it holds no records of a form that is known: {_names()}")
    if unread:
        log.info("%s: fields that kedit makes nothing of: %s", source, ", ".join(unread))
    if form.note and parse_of(form) is form.cases:
        log.info("%s: %s", source, form.note)


def _is_known(form: Form, name: str) -> bool:
    """Numbered ones are known by their names."""
    return name in form.fields or name.rstrip("0123456789").rstrip(" _.-") in form.fields


def _refused(form: Form, location: str, error: RecordError) -> Skipped:
    """Why a record is of no use, and what it was taken for."""
    reason = str(error).removeprefix(location).removeprefix(": ")
    needs = f"; wanted are {form.needs}" if isinstance(error, MissingField) else ""
    return Skipped(location, f"read as {form.name}: {reason}{needs}")


def _form(location: str, record: Record) -> Form:
    for form in FORMS:
        if all(_has(record, mark.split(".")) for mark in form.marks):
            return form
    fields = ", ".join(map(repr, record)) or "none"
    raise RecordError(f"{location}: fields {fields:.100} are of no form that is known: {_names()}")


def _has(record: object, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    return isinstance(record, dict) and keys[0] in record and _has(record[keys[0]], keys[1:])


def _names() -> str:
    return ", ".join(dict.fromkeys(form.name for form in FORMS))
