"""Parses the relation files of Hernandez et al. 2024 (evandez/relations).

Each file holds one relation with all its facts.
"""

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
SEED = 0  # with which targets are drawn


def parse_facts(location: str, record: Record) -> Iterator[Fact | Skipped]:
    """Yields every fact in every wording: first all facts in the first wording, then in the next.

    The zero-shot templates are wordings too and follow the others.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
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
        raise RecordError(f"{location}: field 'prompt_templates': needs at least one template")
    for rank, template in enumerate(templates):
        for where, sample in objects(location, record, "samples"):
            try:
                subject, object_ = field(where, sample, "subject"), field(where, sample, "object")
                yield Fact(subject, relation, object_, template)
            except RecordError as error:
                if not rank:  # report a broken sample once, not once per wording
                    yield skipped(where, error)


def parse(location: str, record: Record) -> Iterator[EditCase | Skipped]:
    """Yields an edit case, with both sides, for each fact of the relation.

    The target is another object of the relation, drawn with SEED. Other wordings are paraphrases,
    and subjects with the same object are neighbours.

    Raises:
        RecordError: a field is missing or unusable, and the message names location and field; or no
            fact can have a target, since the relation has a single object.
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
        # a subject may have several true objects, none of which can be the target
        true_objects = by_subject[subject]
        targets = [other for other in by_object if other not in true_objects]
        if not targets:
            continue
        target = random.Random(f"{SEED} {fact.relation.name} {subject}").choice(targets)
        entity = EditRequest(fact, target)
        neighbours = [other for other in by_object[object_] if other.subject != subject][
            :NEIGHBOURS
        ]
        probes = [target_probe(entity, "efficacy", fact.prompt)]
        probes += [target_probe(entity, "paraphrase", other.prompt) for other in others]
        probes += [neighbour_probe(entity, other.prompt) for other in neighbours]
        probes += relation_probes(entity, number, neighbours)
        id = f"{fact.relation.name}: {subject}" + (f", {object_}" if len(true_objects) > 1 else "")
        n_cases += 1
        yield edit_case(id, entity, probes, relation_side(entity), (fact.prompt,))
    if not n_cases:
        raise RecordError(
            f"{location}: a target is another object of the relation, but there is none "
            f"(objects in the samples: {len(by_object)})"
        )
