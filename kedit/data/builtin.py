"""Our own facts: well-known ones over many relations, several templates each (facts.json)."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from kedit.data import relations
from kedit.data.cases import edit_case, kept, wanted
from kedit.facts import (
    NO_RELATION,
    EditCase,
    EditRequest,
    Fact,
    Group,
    Probe,
    Relation,
    seen_from_relation,
)

FILE = Path(__file__).with_name("facts.json")
STATEMENT = relations.Wording("The relation between {s} and {o} is", "")
NEIGHBOURS = 10  # at most, as CounterFact has


@cache
def load() -> tuple[Fact, ...]:
    """Every fact under every template of its relation; all under their first templates first."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))["relations"]
    most = max(len(entry["templates"]) for entry in entries)
    return tuple(
        Fact(
            subject,
            Relation(entry["id"], entry["name"], entry["kind"], entry["domain"]),
            answer,
            entry["templates"][rank]["text"],
            tuple(entry["templates"][rank]["relation_words"]),
        )
        for rank in range(most)
        for entry in entries
        if rank < len(entry["templates"])
        for subject, answer in entry["facts"]
    )


@cache
def cases() -> tuple[EditCase, ...]:
    """An edit of every fact, from both sides: its object is to become the next of its relation.

    Relation prompts are in the words that fit any relation; a neighbour has the same object.
    """
    worded: dict[tuple[str, str], list[Fact]] = {}  # by relation and subject, its wordings
    for fact in load():
        worded.setdefault((fact.relation.id, fact.subject), []).append(fact)
    by_relation: dict[str, list[Fact]] = {}
    by_subject: dict[str, list[Fact]] = {}
    for fact, *_ in worded.values():
        by_relation.setdefault(fact.relation.id, []).append(fact)
        by_subject.setdefault(fact.subject, []).append(fact)
    made = []
    for number, (fact, *others) in enumerate(worded.values()):
        alike = by_relation[fact.relation.id]
        objects = list(dict.fromkeys(other.object for other in alike))
        if len(objects) > 1:
            target = objects[(objects.index(fact.object) + 1) % len(objects)]
            neighbours = [
                other
                for other in alike
                if other.object == fact.object and other.subject != fact.subject
            ]
            known = [other for other in by_subject[fact.subject] if other is not fact]
            made.append(_case(number, EditRequest(fact, target), others, neighbours, known))
    return tuple(made)


def _case(
    number: int,
    entity: EditRequest,
    paraphrases: list[Fact],
    neighbours: list[Fact],
    known: list[Fact],
) -> EditCase:
    fact = entity.fact
    stated = (STATEMENT.filled("{}", text) for text in (entity.target, fact.object))
    relation = seen_from_relation(entity, *stated)
    wordings = relations.generic()
    chosen = [wordings[(number + step) % len(wordings)] for step in (0, 3, 6)]
    probes = [wanted(entity, "efficacy", fact.prompt)]
    probes += [wanted(entity, "paraphrase", other.prompt) for other in paraphrases]
    probes += [kept(entity, other.prompt) for other in neighbours[:NEIGHBOURS]]
    probes += [
        Probe("entity", "other relations", other.prompt, other.object, entity.target)
        for other in known
        if other.object != entity.target
    ]
    probes += _relation_probes(entity, chosen, neighbours, known)
    return edit_case(f"{fact.relation.id} {fact.subject}", entity, probes, relation, (fact.prompt,))


def _relation_probes(
    entity: EditRequest,
    wordings: list[relations.Wording],
    neighbours: list[Fact],
    known: list[Fact],
) -> Iterator[Probe]:
    fact, label = entity.fact, entity.fact.relation.name
    groups: tuple[tuple[Group, Group, list[relations.Wording]], ...] = (
        ("efficacy", "removal", [STATEMENT]),
        ("paraphrase", "removal paraphrase", wordings),
    )
    for adding, removing, texts in groups:
        for text in texts:
            new, old = (
                text.filled(fact.subject, entity.target),
                text.filled(fact.subject, fact.object),
            )
            yield Probe("relation", adding, new, label, NO_RELATION, label=label)
            yield Probe("relation", removing, old, NO_RELATION, label, label=label)
    for other in islice(neighbours, NEIGHBOURS):
        prompt = STATEMENT.filled(other.subject, fact.object)
        yield Probe("relation", "neighborhood", prompt, label, NO_RELATION, label=label)
    for other in known:
        if other.object not in (fact.object, entity.target):
            prompt, name = STATEMENT.filled(fact.subject, other.object), other.relation.name
            yield Probe("relation", "other relations", prompt, name, label, label=name)
