"""The edits of a CounterFact file, and what the file says as a whole of their subjects."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kedit.data import counterfact
from kedit.data.fields import Record, Skipped, case_id, field, skipped
from kedit.data.read import records_and_errors
from kedit.errors import RecordError
from kedit.facts import EditRequest

# a longer template, absent from the file, was taken for a shorter one: "Klaxons, that"
TORN = re.compile(r"(,|'s|\b(is|was|that|which|who|whose))$")


@dataclass(frozen=True)
class EditRecord:
    """A record in CounterFact's schema, with its location in the file, its id and its edit."""

    location: str
    id: str
    record: Record
    request: EditRequest


@dataclass(frozen=True)
class Survey:
    """What a file says as a whole.

    Args:
        n_edits: its usable records.
        facts: by subject, its relations' ids with their true objects.
        subjects: by relation id and true object, the subjects.
        ranges: by relation id, its true objects.
        frames: by relation id, the words before and behind the subject in each template, the
            longest first.
    """

    n_edits: int
    facts: Mapping[str, Sequence[tuple[str, str]]]
    subjects: Mapping[tuple[str, str], Sequence[str]]
    ranges: Mapping[str, Sequence[str]]
    frames: Mapping[str, Sequence[tuple[str, str]]]

    def subject_of(self, prompt: str, relation_id: str) -> str:
        """Whom a prompt of this relation is about; "" if no template of the file fits it."""
        for before, behind in self.frames.get(relation_id, ()):
            end = len(prompt) - len(behind)
            if prompt.startswith(before) and prompt.endswith(behind) and len(before) < end:
                subject = prompt[len(before) : end]
                return "" if TORN.search(subject) else subject
        return ""

    def relations(self, subject: str, object: str) -> list[str]:
        """By which relations, their ids, the file knows that the subject has this object."""
        return [relation for relation, known in self.facts.get(subject, ()) if known == object]

    def objects(self, subject: str, relation_id: str) -> list[str]:
        """Which objects the file knows that the subject has by this relation."""
        return [known for relation, known in self.facts.get(subject, ()) if relation == relation_id]


def survey(path: Path) -> Survey:
    """Reads the whole file and keeps its facts, not its records.

    Raises:
        RecordError: the file cannot be read.
    """
    n_edits = 0
    # dicts for sets: they keep the order of the file, whatever the strings' hashes are
    facts: dict[str, dict[tuple[str, str], None]] = {}
    subjects: dict[tuple[str, str], dict[str, None]] = {}
    ranges: dict[str, dict[str, None]] = {}
    frames: dict[str, dict[tuple[str, str], None]] = {}
    for edit in edits(path):
        if isinstance(edit, Skipped):
            continue
        n_edits += 1
        fact = edit.request.fact
        before, behind = fact.template.split("{}")
        facts.setdefault(fact.subject, {})[fact.relation.id, fact.object] = None
        subjects.setdefault((fact.relation.id, fact.object), {})[fact.subject] = None
        ranges.setdefault(fact.relation.id, {})[fact.object] = None
        frames.setdefault(fact.relation.id, {})[before, behind] = None
    return Survey(
        n_edits,
        {subject: tuple(known) for subject, known in facts.items()},
        {pair: tuple(known) for pair, known in subjects.items()},
        {relation: tuple(known) for relation, known in ranges.items()},
        {relation: _longest_first(known) for relation, known in frames.items()},
    )


def edits(path: Path) -> Iterator[EditRecord | Skipped]:
    """Each record of a file in CounterFact's schema or of edits alone, or why it is of no use.

    Raises:
        RecordError: the file cannot be read.
    """
    locations: dict[str, str] = {}
    for location, record in records_and_errors(path):
        id = ""
        try:
            if isinstance(record, RecordError):
                raise record
            id = case_id(location, record)
            if id in locations:
                raise RecordError(f"{location}: the case_id {id!r} is taken by {locations[id]}")
            full = _full(location, record)
            edit = EditRecord(location, id, full, _request(location, full))
        except RecordError as error:
            yield skipped(location, error, id)
        else:
            locations[id] = location
            yield edit


def _full(location: str, record: Record) -> Record:
    """The record in CounterFact's schema, made up to it if it is an edit alone."""
    if "prompt_template" not in record:
        return record
    rewrite = {
        "prompt": field(location, record, "prompt_template"),
        "relation_id": field(location, record, "relation_id"),
        "target_new": {"str": field(location, record, "target_new")},
        "target_true": {"str": field(location, record, "ground_truth")},
        "subject": field(location, record, "subject"),
    }
    return {**record, "requested_rewrite": rewrite}


def _request(location: str, record: Record) -> EditRequest:
    """The edit, if upstream's editors could make it too: they fill templates with str.format and
    drop the blank before the subject.

    Raises:
        RecordError: it lacks a field, changes nothing, or its template cannot be filled.
    """
    fact = counterfact.parse_fact(location, record)
    target = field(location, record, "requested_rewrite.target_new.str")
    before, behind = fact.template.split("{}")
    if before and not before.endswith(" "):
        raise RecordError(f"{location}: a blank is wanted before {{}} in {fact.template!r}")
    for text in (before, behind, fact.object, target):
        if "{" in text or "}" in text:
            raise RecordError(f"{location}: a brace that is not the subject's {{}} in {text!r}")
    return EditRequest(fact, target)


def _longest_first(frames: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(frames, key=lambda frame: (-len("".join(frame)), frame)))
