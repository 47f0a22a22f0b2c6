"""Builds RaKE from CounterFact: adds the relation side to each edit, deterministically.

The two statements are those of the RaKE paper (arXiv 2311.09053). All other wordings are kedit's.
The paper has no kinds, removal paraphrases, relation neighbours, other objects or other relations;
kedit adds them.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import chain, combinations, islice
from pathlib import Path

from kedit.data import rake, relations
from kedit.data.fields import Record, Skipped, case_id, field, optional, skipped, texts
from kedit.data.read import records_and_errors
from kedit.data.relations import Described, Wording
from kedit.data.survey import EditRecord, Survey, edits
from kedit.errors import RecordError
from kedit.facts import EditRequest

NEIGHBOURS = 10  # at most, per kind of prompt: CounterFact has this many neighborhood prompts
OTHER_OBJECTS = 3
COPIED = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
PortabilityQuestion = tuple[str, str]  # question and answer


def build(
    path: Path, seen: Survey, questions: Mapping[str, PortabilityQuestion] | None = None
) -> Iterator[Record | Skipped]:
    """Yields each record of a file with its relation side, or why it cannot have one.

    Args:
        seen: survey of the same file.
        questions: by case_id, a question whose answer follows from the edit and another fact.

    Raises:
        RecordError: the file cannot be read.
    """
    for edit in edits(path):
        if isinstance(edit, Skipped):
            yield edit
            continue
        try:
            record = _built(edit, seen, (questions or {}).get(edit.id))
            case = rake.parse(edit.location, record)
        except RecordError as error:
            yield skipped(edit.location, error, edit.id)
        else:
            notes = list(_notes(edit.request, record["paraphrase_prompts"], seen))
            yield {**record, "lacks": list(case.lacks), "notes": notes}


def portability(path: Path) -> tuple[dict[str, PortabilityQuestion], list[Skipped]]:
    """Reads EasyEdit's portability questions for CounterFact, by case_id, and the broken records.

    Raises:
        RecordError: the file cannot be read.
    """
    found: dict[str, PortabilityQuestion] = {}
    broken: list[Skipped] = []
    for location, record in records_and_errors(path):
        try:
            if isinstance(record, RecordError):
                raise record
            if entry := optional(location, record, "portability", dict):
                answer = field(location, entry, "New Answer")
                found[case_id(location, record)] = (
                    field(location, entry, "New Question"),
                    answer,
                )
        except RecordError as error:
            broken.append(skipped(location, error))
    return found, broken


def _built(edit: EditRecord, seen: Survey, question: PortabilityQuestion | None) -> Record:
    location, record, fact, target = (
        edit.location,
        edit.record,
        edit.request.fact,
        edit.request.target,
    )
    if fact.relation.id not in relations.table():
        raise RecordError(
            f"{location}: relation_id {fact.relation.id!r} is not one of CounterFact's 34"
        )
    described = relations.table()[fact.relation.id]
    # The seed is the id, not the location, so that a case has the same prompts in every file. It is
    # hashed by SHA-256, since Python's hash differs between processes.
    draw = int.from_bytes(hashlib.sha256(edit.id.encode()).digest()[:8], "big")
    wordings = _drawn(described, draw)
    copied = {name: list(texts(location, record, name)) for name in COPIED}
    built: Record = {"case_id": record["case_id"]}
    if "pararel_idx" in record:
        built["pararel_idx"] = field(location, record, "pararel_idx", int)
    built |= {
        "requested_rewrite": {
            "prompt": fact.template,
            "relation_id": fact.relation.id,
            "target_new": _named(location, record, "target_new"),
            "target_true": _named(location, record, "target_true"),
            "subject": fact.subject,
            "relation": {
                "id": fact.relation.id,
                "kind": fact.relation.kind,
                "strs": [fact.relation.name, *fact.relation.aliases],
            },
            "add_rel_prompt": described.statement.filled("{}", target),
            "rm_rel_prompt": described.statement.filled("{}", fact.object),
        },
        **copied,
        "rel_prompts": [wording.filled(fact.subject, target) for wording in wordings],
        "rm_rel_prompts": [wording.filled(fact.subject, fact.object) for wording in wordings],
        "rel_neighborhood": [
            {"subject": other, "prompt": described.statement.filled(other, fact.object)}
            for other in _neighbours(edit.request, copied["neighborhood_prompts"], seen, draw)
        ],
        "rel_other_objects": [
            {"object": other, "prompt": described.statement.filled(fact.subject, other)}
            for other in islice(_other_objects(edit.request, seen, draw), OTHER_OBJECTS)
        ],
        "other_relations": [
            {"relation_id": wording.relation_id, "prompt": wording.filled(fact.subject)}
            for wording in described.other_relations
            if wording.relation_id not in seen.relations(fact.subject, target)
        ],
        "rel_other": list(islice(_other_pairs(edit.request, seen), NEIGHBOURS)),
    }
    if question:
        built["portability"] = {"prompt": question[0], "answer": question[1]}
    return built


def _named(location: str, record: Record, name: str) -> Record:
    """An object's name and, if the file has it, its Wikidata id."""
    object = field(location, record, f"requested_rewrite.{name}", dict)
    id = optional(f"{location}: {name}", object, "id")
    return {"str": object["str"], **({"id": id} if id else {})}


def _drawn(described: Described, draw: int) -> tuple[Wording, ...]:
    """Draws two of the questions for this relation and one that fits all relations."""
    pairs, generic = list(combinations(described.questions, 2)), relations.generic()
    return (*pairs[draw % len(pairs)], generic[draw // len(pairs) % len(generic)])


def _neighbours(request: EditRequest, prompts: list[str], seen: Survey, draw: int) -> list[str]:
    """Finds other subjects with the same true object, first in `prompts`, then in the file."""
    fact = request.fact
    known = seen.subjects.get((fact.relation.id, fact.object), ())
    start = draw % max(
        1, len(known)
    )  # else all cases with this object would get the same neighbours
    named = (seen.subject_of(prompt, fact.relation.id) for prompt in prompts)
    found: dict[str, None] = {}
    for subject in chain(named, known[start:], known[:start]):
        if len(found) == NEIGHBOURS:
            break
        only = set(seen.objects(subject, fact.relation.id)) <= {fact.object}
        if only and subject not in ("", fact.subject, fact.object):
            found[subject] = None
    return list(found)


def _other_objects(request: EditRequest, seen: Survey, draw: int) -> Iterator[str]:
    """Yields objects of the edited relation that the subject does not have by any relation.

    The file decides what the subject has. After an edit, the model should not say that the relation
    holds between the subject and one of these objects.
    """
    fact = request.fact
    known = seen.ranges[fact.relation.id]
    start = draw % len(known)
    for other in (*known[start:], *known[:start]):
        named = other in (fact.subject, fact.object, request.target)
        if not named and not seen.relations(fact.subject, other):
            yield other


def _other_pairs(request: EditRequest, seen: Survey) -> Iterator[Record]:
    """Yields the subject's other facts in the file, if only one relation leads to the object."""
    fact = request.fact
    for relation_id, object in seen.facts.get(fact.subject, ()):
        known, only = relations.table().get(relation_id), seen.relations(fact.subject, object)
        edited = relation_id == fact.relation.id or object in (fact.object, request.target)
        if known and not edited and only == [relation_id] and object != fact.subject:
            yield {
                "relation_id": relation_id,
                "label": known.relation.name,
                "object": object,
                "prompt": known.statement.filled(fact.subject, object),
            }


def _notes(request: EditRequest, paraphrases: list[str], seen: Survey) -> Iterator[str]:
    """Yields remarks for readers of the scores; the phrases are fixed, since they are counted."""
    fact, target = request.fact, request.target
    name = re.compile(rf"\b{re.escape(fact.relation.name)}\b", re.IGNORECASE)
    where = {"subject": fact.subject, "true object": fact.object, "new object": target}
    for words, text in where.items():
        if name.search(text):
            yield f"the relation's name stands in the {words}"
    if fact.subject in (fact.object, target):
        yield "subject and object have the same name"
    if any(fact.subject not in prompt for prompt in paraphrases):
        yield "a paraphrase does not name the subject"
    if fact.relation.id in seen.relations(fact.subject, target):
        yield "the file knows the new object as true too"
    if set(seen.relations(fact.subject, fact.object)) - {fact.relation.id}:
        yield "the file knows another relation to the true object"
    if set(seen.relations(fact.subject, target)) - {fact.relation.id}:
        yield "the file knows another relation to the new object"
