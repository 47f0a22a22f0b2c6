"""Facts of one's own: a subject, a relation, an object and a prompt; to be edited, a target too."""

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

NEEDS = "subject, relation, object, template (with {}) or prompt; and target, to be edited"
# lists; in a table " | " parts the texts of one cell, or columns are numbered: paraphrase_1
LISTS = ("paraphrases", "neighbours", "relation_words")
FIELDS = {
    "subject", "relation", "object", "target", "template", "prompt", "relation_id", "kind",
    "domain", *LISTS,
}  # fmt: skip
SPELT = {
    "target_new": "target", "paraphrase": "paraphrases", "neighbour": "neighbours",
    "neighbor": "neighbours", "neighbors": "neighbours",
}  # fmt: skip
# what records have beside their facts, of which nothing is made
NOTES = {
    "id", "case_id", "known_id", "index", "source", "url", "note", "notes", "comment", "comments",
    "aliases", "date", "",
}  # fmt: skip
KNOWN = frozenset(FIELDS | set(SPELT) | NOTES)
ANSWERS = ("subject", "object", "target")
PARTED = " | "
ALIKE = 0.8  # of difflib's ratio: "objct" is object, "author" is not


def parse_fact(location: str, record: Record) -> Fact:
    """The fact.

    Wanted: subject, relation (its name), object, and either template (with `{}`) or prompt (in
    which the subject is looked for). Optional: relation_id, relation_words (list), kind, domain.
    What is null counts as missing.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    return _fact(location, _named(location, record))


def parse(location: str, record: Record) -> EditCase:
    """An edit of the fact from both sides: its object is to become `target`.

    Optional: paraphrases, prompts with the subject or with {} for it; neighbours, each a subject,
    an object with `subject` and `object`, or one with `prompt` and `answer`. Where the answer is
    left out, it is what the unedited model says.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    told = _named(location, record)
    fact = _fact(location, told)
    try:
        entity = EditRequest(fact, field(location, told, "target"))
        alike = list(_facts_alike(location, told, fact))
        probes = [target_probe(entity, "efficacy", fact.prompt)]
        probes += [
            target_probe(entity, "paraphrase", text.replace("{}", fact.subject))
            for text in _texts(location, told, "paraphrases")
        ]
        probes += _staying(location, told, entity)
        probes += relation_probes(entity, zlib.crc32(fact.prompt.encode()), alike)
        return edit_case(
            id_of(location, record), entity, probes, relation_side(entity), (fact.prompt,)
        )
    except RecordError as error:
        raise with_location(location, error) from None


def _named(location: str, record: Record) -> Record:
    """The record's fields under the names of FIELDS, without what is null; those that are numbered,
    as columns of a table may be, as one list.

    Raises:
        RecordError: a field that is misspelt.
    """
    told: dict[str, Any] = {}
    for name, value in record.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        numbered = re.fullmatch(r"(.+?)[ _.-]?\d+", name)
        column = SPELT.get(numbered[1], numbered[1]) if numbered else ""
        if column in LISTS:
            told[column] = [*told.get(column, ()), value]
        else:
            name = SPELT.get(name, name)
            # a year is a number to JSON, and so is an object that pandas took for one
            is_number = name in ANSWERS and type(value) in (int, float)
            told[name] = f"{value:g}" if is_number else value
    for name in told:
        alike = [] if name in KNOWN else difflib.get_close_matches(name, FIELDS, 1, ALIKE)
        if alike and alike[0] not in told:
            raise RecordError(f"{location}: unknown field {name!r}: did you mean {alike[0]!r}?")
    return told


def _fact(location: str, told: Mapping[str, Any]) -> Fact:
    record = dict(told)
    subject, name = field(location, record, "subject"), field(location, record, "relation")
    kind = record.get("kind", "")
    if kind not in get_args(Kind):
        raise RecordError(f"{location}: field 'kind': one of {get_args(Kind)} is wanted, got {kind!r}")
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
        return Fact(subject, relation, object_, template, words)
    except RecordError as error:
        raise with_location(location, error) from None


def _texts(location: str, told: Record, name: str) -> tuple[str, ...]:
    """A list of texts; one that is parted by PARTED is several."""
    found = flattened(location, told, name)
    return tuple(
        without_end_blanks(part) for text in found for part in text.split(PARTED) if part.strip()
    )


def _neighbours(location: str, told: Record) -> Iterator[tuple[str, Record]]:
    """Each as an object, with its location."""
    listed = told.get("neighbours", [])
    listed = listed if isinstance(listed, list) else [listed]
    for number, one in enumerate(listed):
        where = f"{location}: neighbours.{number}"
        if isinstance(one, str):
            yield from ((where, {"subject": text}) for text in one.split(PARTED) if text.strip())
        elif isinstance(one, dict) and ("subject" in one or "prompt" in one):
            yield where, one
        else:
            raise RecordError(
                f"{where}: a subject is wanted, or an object with subject and object, or with "
                f"prompt and answer, got {one!r:.60}"
            )


def _staying(location: str, told: Record, entity: EditRequest) -> Iterator[Probe]:
    """Prompts whose answers are to stay: about other subjects, or else of other relations."""
    for where, one in _neighbours(location, told):
        name = "answer" if "answer" in one else "object"
        answer = optional(where, one, name).strip()
        rival = "" if answer == entity.target else entity.target
        if "prompt" in one:
            prompt = field(where, one, "prompt")
        else:
            prompt = entity.fact.template.replace("{}", field(where, one, "subject").strip())
        own = standing(entity.fact.subject, prompt)
        yield Probe("entity", "other relations" if own else "neighborhood", prompt, answer, rival)


def _facts_alike(location: str, told: Record, fact: Fact) -> Iterator[Fact]:
    """The neighbours that are facts of the same relation."""
    for where, one in _neighbours(location, told):
        if "prompt" not in one and one.get("object"):
            subject, answer = field(where, one, "subject"), field(where, one, "object")
            yield Fact(subject, fact.relation, answer, fact.template)
