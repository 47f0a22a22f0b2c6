"""Relation files of Hernandez et al. 2024 (evandez/relations): a relation with all its facts."""

import random
from collections.abc import Iterator

from kedit.data.cases import (
    NEIGHBOURS,
    edit_case,
    neighbour_probe,
    relation_probes,
    relation_side,
    target_probe,
)
from kedit.data.fields import Record, Skipped, field, objects, optional, skipped, texts
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Relation

NEEDS = "name, prompt_templates (each with {}), samples (each with subject and object)"
SEED = 0  # of the targets


def parse_facts(location: str, record: Record) -> Iterator[Fact | Skipped]:
    """Every fact in every wording; all in the first wording first.

    The zero-shot templates are wordings too, behind the others.

    Raises:
        RecordError: names location and field.
    """
    name = field(location, record, "name")
    properties = optional(location, record, "properties", dict)
    kind = "symmetric" if properties.get("symmetric") is True else ""
    relation = Relation(name, name, kind, optional(location, properties, "domain_name"))
    templates = [
        template
        for part in ("prompt_templates", "prompt_templates_zs")
        for template in texts(location, record, part)
    ]
    if not templates:
        raise RecordError(f"{location}: field 'prompt_templates': at least one is wanted")
    for rank, template in enumerate(templates):
        for where, sample in objects(location, record, "samples"):
            try:
                subject, object_ = field(where, sample, "subject"), field(where, sample, "object")
                yield Fact(subject, relation, object_, template)
            except RecordError as error:
                if not rank:  # in other wordings it is the same sample
                    yield skipped(where, error)


def parse(location: str, record: Record) -> Iterator[EditCase | Skipped]:
    """An edit of each fact from both sides, to another object of the relation, drawn by SEED.

    Other wordings are paraphrases; subjects with the same object are neighbours.

    Raises:
        RecordError: names location and field; or the relation has no two objects.
    """
    worded: dict[tuple[str, str], list[Fact]] = {}
    for fact in parse_facts(location, record):
        if isinstance(fact, Skipped):
            yield fact
        else:
            worded.setdefault((fact.subject, fact.object), []).append(fact)
    by_subject: dict[str, set[str]] = {}
    by_object: dict[str, list[Fact]] = {}
    for (subject, object_), (fact, *_) in worded.items():
        by_subject.setdefault(subject, set()).add(object_)
        by_object.setdefault(object_, []).append(fact)
    n_cases = 0
    for number, ((subject, object_), (fact, *others)) in enumerate(worded.items()):
        # a subject may have several objects by a relation
        barred = by_subject[subject]
        targets = [other for other in by_object if other not in barred]
        if not targets:
            continue
        target = random.Random(f"{SEED} {fact.relation.name} {subject}").choice(targets)
        entity = EditRequest(fact, target)
        alike = [other for other in by_object[object_] if other.subject != subject][:NEIGHBOURS]
        probes = [target_probe(entity, "efficacy", fact.prompt)]
        probes += [target_probe(entity, "paraphrase", other.prompt) for other in others]
        probes += [neighbour_probe(entity, other.prompt) for other in alike]
        probes += relation_probes(entity, number, alike)
        id = f"{fact.relation.name}: {subject}" + (f", {object_}" if len(barred) > 1 else "")
        n_cases += 1
        yield edit_case(id, entity, probes, relation_side(entity), (fact.prompt,))
    if not n_cases:
        raise RecordError(
            f"{location}: a target is another object of the relation, and {len(by_object)} is all "
            "that its samples have"
        )
