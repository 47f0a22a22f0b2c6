"""Parses the user's own facts: subject, relation, object and prompt, and a target for edits."""

import difflib
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from kedit.data.cases import edit_case, relation_probes, relation_side, target_probe
from kedit.data.fields import Record, field, flattened, id_of, optional, with_location
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Kind, Probe, Relation
from kedit.spacing import standing, without_end_blanks

NEEDS = "subject, relation, object, template (with {}) or prompt; and target, for edits"
# lists; in a table, " | " separates the texts of a cell, or the columns are numbered: paraphrase_1
LISTS = ("paraphrases", "neighbours", "relation_words")
FIELDS = {
    "subject", "relation", "object", "target", "template", "prompt", "relation_id", "kind",
    "domain", "ending", *LISTS,
}  # fmt: skip
# other spellings of field names that are understood
SPELT = {
    "target_new": "target", "paraphrase": "paraphrases", "neighbour": "neighbours",
    "neighbor": "neighbours", "neighbors": "neighbours",
}  # fmt: skip
# fields that are ignored without a remark
NOTES = {
    "id", "case_id", "known_id", "index", "source", "url", "note", "notes", "comment", "comments",
    "aliases", "date", "",
}  # fmt: skip
KNOWN = frozenset(FIELDS | set(SPELT) | NOTES)
ANSWERS = ("subject", "object", "target")
SEPARATOR = " | "
# difflib's ratio from which a name counts as misspelt: "objct" for "object", but not "author"
ALIKE = 0.8


def parse_fact(location: str, record: Record) -> Fact:
    """Parses a fact.

    Required fields are subject, relation (its name), object, and either template (with `{}`) or
    prompt (which contains the subject). Optional fields are relation_id, relation_words (a list),
    kind, domain, and ending, which masked models read after the object. A field that is null
    counts as missing.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    return _fact(location, _named(location, record))


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case, with both sides, that changes the fact's object to `target`.

    Optional fields are paraphrases (prompts with the subject or with {} for it) and neighbours.
    Each neighbour is a subject, a JSON object with `subject` and `object`, or a JSON object with
    `prompt` and `answer`. A neighbour without an answer gets the word that the unedited model says.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    fields = _named(location, record)
    fact = _fact(location, fields)
    try:
        entity = EditRequest(fact, field(location, fields, "target"))
        neighbours = list(_neighbour_facts(location, fields, fact))
        probes = [target_probe(entity, "efficacy", fact.prompt)]
        probes += [
            target_probe(entity, "paraphrase", text.replace("{}", fact.subject))
            for text in _texts(location, fields, "paraphrases")
        ]
        probes += _unchanged_probes(location, fields, entity)
        probes += relation_probes(entity, zlib.crc32(fact.prompt.encode()), neighbours)
        return edit_case(
            id_of(location, record), entity, probes, relation_side(entity), (fact.prompt,)
        )
    except RecordError as error:
        raise with_location(location, error) from None


def _named(location: str, record: Record) -> Record:
    """Returns the record's fields under the names of FIELDS, without those that are null.

    Numbered fields, such as the columns paraphrase_1 and paraphrase_2 of a table, become one list.

    Raises:
        RecordError: the name of a field is misspelt.
    """
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        numbered = re.fullmatch(r"(.+?)[ _.-]?\d+", name)
        column = SPELT.get(numbered[1], numbered[1]) if numbered else ""
        if column in LISTS:
            fields[column] = [*fields.get(column, ()), value]
        else:
            name = SPELT.get(name, name)
            # a year is a number in JSON, and so is an object that pandas has parsed as a number
            is_number = name in ANSWERS and type(value) in (int, float)
            fields[name] = f"{value:g}" if is_number else value
    for name in fields:
        similar = [] if name in KNOWN else difflib.get_close_matches(name, FIELDS, 1, ALIKE)
        if similar and similar[0] not in fields:
            raise RecordError(f"{location}: unknown field {name!r}: did you mean {similar[0]!r}?")
    return fields


def _fact(location: str, fields: Mapping[str, Any]) -> Fact:
    record = dict(fields)
    subject, name = field(location, record, "subject"), field(location, record, "relation")
    kind = record.get("kind", "")
    if kind not in get_args(Kind):
        raise RecordError(
            f"{location}: field 'kind': expected one of {get_args(Kind)}, got {kind!r}"
        )
    try:
        object_ = field(location, record, "object")
        if "template" in record or "prompt" not in record:
            template = field(location, record, "template")
        else:
            template = field(location, record, "prompt")
            template = template if "{}" in template else cut_out(template, subject)
        domain = optional(location, record, "domain")
        relation = Relation(str(record.get("relation_id", name)), name, kind, domain)
        words = _texts(location, record, "relation_words")
        ending = optional(location, record, "ending") or "."
        return Fact(subject, relation, object_, template, words, ending=ending)
    except RecordError as error:
        raise with_location(location, error) from None


def _texts(location: str, fields: Record, name: str) -> tuple[str, ...]:
    """Returns the texts of a list; a text that contains SEPARATOR is split there."""
    found = flattened(location, fields, name)
    return tuple(
        without_end_blanks(part) for text in found for part in text.split(SEPARATOR) if part.strip()
    )


def _neighbours(location: str, fields: Record) -> Iterator[tuple[str, Record]]:
    """Yields location and record of each neighbour; a text becomes a record with a subject."""
    listed = fields.get("neighbours", [])
    listed = listed if isinstance(listed, list) else [listed]
    for number, item in enumerate(listed):
        where = f"{location}: neighbours.{number}"
        if isinstance(item, str):
            subjects = (text for text in item.split(SEPARATOR) if text.strip())
            yield from ((where, {"subject": subject}) for subject in subjects)
        elif isinstance(item, dict) and ("subject" in item or "prompt" in item):
            yield where, item
        else:
            raise RecordError(
                f"{where}: expected a subject, an object with subject and object, or an object "
                f"with prompt and answer, got {item!r:.60}"
            )


def _unchanged_probes(location: str, fields: Record, entity: EditRequest) -> Iterator[Probe]:
    """Builds the probes whose answers should stay: about other subjects or other relations."""
    for where, neighbour in _neighbours(location, fields):
        name = "answer" if "answer" in neighbour else "object"
        answer = optional(where, neighbour, name).strip()
        rival = "" if answer == entity.target else entity.target
        if "prompt" in neighbour:
            prompt = field(where, neighbour, "prompt")
        else:
            subject = field(where, neighbour, "subject").strip()
            prompt = entity.fact.template.replace("{}", subject)
        same_subject = standing(entity.fact.subject, prompt)
        group = "other relations" if same_subject else "neighborhood"
        yield Probe("entity", group, prompt, answer, rival)


def _neighbour_facts(location: str, fields: Record, fact: Fact) -> Iterator[Fact]:
    """Yields the neighbours with an object as facts of the same relation."""
    for where, neighbour in _neighbours(location, fields):
        if "prompt" not in neighbour and neighbour.get("object"):
            subject = field(where, neighbour, "subject")
            yield Fact(subject, fact.relation, field(where, neighbour, "object"), fact.template)
