"""The built-in facts and cases (facts.json): many relations, with several templates each."""

import json
from functools import cache
from pathlib import Path

from kedit.data.cases import (
    NEIGHBOURS,
    edit_case,
    neighbour_probe,
    relation_probes,
    relation_side,
    target_probe,
)
from kedit.facts import EditCase, EditRequest, Fact, Probe, Relation

FILE = Path(__file__).with_name("facts.json")


@cache
def load() -> tuple[Fact, ...]:
    """Loads every fact once per template of its relation.

    First come all facts in the first template of their relation, then all in the second, and so on.
    """
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
    """Builds an edit case, with both sides, for each fact whose relation has at least two objects.

    The target is the relation's next object, in the order of the file. The prompts of the relation
    side use the wordings that fit any relation. Neighbours are other subjects with the same object.
    """
    worded: dict[tuple[str, str], list[Fact]] = {}  # wordings of each relation and subject
    for fact in load():
        worded.setdefault((fact.relation.id, fact.subject), []).append(fact)
    by_relation: dict[str, list[Fact]] = {}
    by_subject: dict[str, list[Fact]] = {}
    for fact, *_ in worded.values():
        by_relation.setdefault(fact.relation.id, []).append(fact)
        by_subject.setdefault(fact.subject, []).append(fact)
    found = []
    for number, (fact, *others) in enumerate(worded.values()):
        same_relation = by_relation[fact.relation.id]
        objects = list(dict.fromkeys(other.object for other in same_relation))
        if len(objects) > 1:
            target = objects[(objects.index(fact.object) + 1) % len(objects)]
            neighbours = [
                other
                for other in same_relation
                if other.object == fact.object and other.subject != fact.subject
            ]
            known = [other for other in by_subject[fact.subject] if other is not fact]
            found.append(_case(number, EditRequest(fact, target), others, neighbours, known))
    return tuple(found)


def _case(
    number: int,
    entity: EditRequest,
    paraphrases: list[Fact],
    neighbours: list[Fact],
    known: list[Fact],
) -> EditCase:
    fact = entity.fact
    probes = [target_probe(entity, "efficacy", fact.prompt)]
    probes += [target_probe(entity, "paraphrase", other.prompt) for other in paraphrases]
    probes += [neighbour_probe(entity, other.prompt) for other in neighbours[:NEIGHBOURS]]
    probes += [
        Probe("entity", "other relations", other.prompt, other.object, entity.target)
        for other in known
        if other.object != entity.target
    ]
    probes += relation_probes(entity, number, neighbours, known)
    id, relation = f"{fact.relation.id} {fact.subject}", relation_side(entity)
    return edit_case(id, entity, probes, relation, (fact.prompt,))
