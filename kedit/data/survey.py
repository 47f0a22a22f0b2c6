"""Reads the edits of a CounterFact file and collects all facts of the file."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kedit.data import counterfact
from kedit.data.fields import Record, Skipped, case_id, field, skipped
from kedit.data.read import records_and_errors
from kedit.errors import RecordError
from kedit.facts import EditRequest

# Ends of wrong subjects, such as "Klaxons, that": the prompt is in a longer template that the file
# does not have, and a shorter template fits its end.
TORN = re.compile(r"(,|'s|\b(is|was|that|which|who|whose))$")


@dataclass(frozen=True)
class EditRecord:
    """A record in CounterFact's schema with its location in the file, its id and its edit."""

    location: str
    id: str
    record: Record
    request: EditRequest


@dataclass(frozen=True)
class Survey:
    """The facts in all records of a file.

    Args:
        n_edits: number of usable records.
        facts: by subject, pairs of relation id and true object.
        subjects: by relation id and true object, the subjects.
        ranges: by relation id, the true objects.
        frames: by relation id, the words before and after the subject in each template, the longest
            first.
    """

    n_edits: int
    facts: Mapping[str, Sequence[tuple[str, str]]]
    subjects: Mapping[tuple[str, str], Sequence[str]]
    ranges: Mapping[str, Sequence[str]]
    frames: Mapping[str, Sequence[tuple[str, str]]]

    def subject_of(self, prompt: str, relation_id: str) -> str:
        """Returns the subject of a relation's prompt; "" if no template of the file fits it."""
        for before, after in self.frames.get(relation_id, ()):
            end = len(prompt) - len(after)
            if prompt.startswith(before) and prompt.endswith(after) and len(before) < end:
                subject = prompt[len(before) : end]
                return "" if TORN.search(subject) else subject
        return ""

    def relations(self, subject: str, object: str) -> list[str]:
        """Returns the ids of the relations by which, in the file, the subject has this object."""
        return [relation for relation, known in self.facts.get(subject, ()) if known == object]

    def objects(self, subject: str, relation_id: str) -> list[str]:
        """Returns the objects that, in the file, the subject has by this relation."""
        return [known for relation, known in self.facts.get(subject, ()) if relation == relation_id]


def survey(path: Path) -> Survey:
    """Collects the facts of a whole file, without holding its records in memory.

    Raises:
        RecordError: the file cannot be read.
    """
    n_edits = 0
    # dicts instead of sets, since they keep the order of the file in every process
    facts: dict[str, dict[tuple[str, str], None]] = {}
    subjects: dict[tuple[str, str], dict[str, None]] = {}
    ranges: dict[str, dict[str, None]] = {}
    frames: dict[str, dict[tuple[str, str], None]] = {}
    for edit in edits(path):
        if isinstance(edit, Skipped):
            continue
        n_edits += 1
        fact = edit.request.fact
        before, after = fact.template.split("{}")
        facts.setdefault(fact.subject, {})[fact.relation.id, fact.object] = None
        subjects.setdefault((fact.relation.id, fact.object), {})[fact.subject] = None
        ranges.setdefault(fact.relation.id, {})[fact.object] = None
        frames.setdefault(fact.relation.id, {})[before, after] = None
    return Survey(
        n_edits,
        {subject: tuple(known) for subject, known in facts.items()},
        {pair: tuple(known) for pair, known in subjects.items()},
        {relation: tuple(known) for relation, known in ranges.items()},
        {relation: _longest_first(known) for relation, known in frames.items()},
    )


def edits(path: Path) -> Iterator[EditRecord | Skipped]:
    """Yields each edit of a file in CounterFact's schema or of bare edits, or why it is unusable.

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
                raise RecordError(
                    f"{location}: the case_id {id!r} is already used by {locations[id]}"
                )
            full = _full(location, record)
            edit = EditRecord(location, id, full, _request(location, full))
        except RecordError as error:
            yield skipped(location, error, id)
        else:
            locations[id] = location
            yield edit


def _full(location: str, record: Record) -> Record:
    """Returns the record in CounterFact's schema; a bare edit is brought into this schema."""
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
    """Parses the edit, and refuses what ROME's code could not edit.

    That code fills templates with str.format and drops the blank before the subject.

    Raises:
        RecordError: a field is missing, the edit changes nothing, or its template cannot be filled.
    """
    fact = counterfact.parse_fact(location, record)
    target = field(location, record, "requested_rewrite.target_new.str")
    before, after = fact.template.split("{}")
    if before and not before.endswith(" "):
        raise RecordError(f"{location}: needs a blank before {{}} in {fact.template!r}")
    for text in (before, after, fact.object, target):
        if "{" in text or "}" in text:
            raise RecordError(f"{location}: a brace that is not the subject's {{}} in {text!r}")
    return EditRequest(fact, target)


def _longest_first(frames: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(frames, key=lambda frame: (-len("".join(frame)), frame)))
