"""Parses RaKE, which is CounterFact with a relation side: build_rake's files and the authors'."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from kedit.data import counterfact, relations
from kedit.data.cases import edit_case
from kedit.data.fields import Record, field, objects, optional, texts, with_location
from kedit.errors import RecordError
from kedit.facts import (
    NO_RELATION,
    EditCase,
    EditRequest,
    Kind,
    Probe,
    Relation,
    seen_from_relation,
)


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case with both sides.

    Prompts that the schema of RaKE's authors does not have may be missing: removal paraphrases,
    relation neighbours, other objects, other relations and portability. The case then lists them as
    lacking.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    case = counterfact.parse(location, record)
    where, rewrite = f"{location}: requested_rewrite", record["requested_rewrite"]
    try:
        relation = _relation(where, rewrite)
        entity = replace(case.entity, fact=replace(case.entity.fact, relation=relation))
        request = _request(where, rewrite, entity)
        probes = (
            *case.probes,
            *_entity_probes(location, record, entity),
            *_relation_probes(location, record, request),
        )
        stated = texts(location, record, "lacks")
        return edit_case(case.id, entity, probes, request, case.generation, stated)
    except RecordError as error:
        raise with_location(location, error) from None


def _relation(where: str, rewrite: Record) -> Relation:
    """Parses the relation: the first name is what the edit makes the model say, others are aliases.

    RaKE's authors give no kinds: a relation without one gets the kind in relations.json.
    """
    described = field(where, rewrite, "relation", dict)
    names = texts(f"{where}: relation", described, "strs")
    if not names:
        raise RecordError(f"{where}: field 'relation.strs': needs at least one name")
    known = relations.find(field(where, rewrite, "relation_id"))
    kind = described.get("kind", known.kind)
    if kind not in get_args(Kind):
        raise RecordError(
            f"{where}: field 'relation.kind': expected one of {get_args(Kind)}, got {kind!r:.60}"
        )
    return Relation(known.id, names[0], kind, aliases=names[1:])


def _request(where: str, rewrite: Record, entity: EditRequest) -> EditRequest:
    adding = _template(where, rewrite, "add_rel_prompt", entity.target)
    removing = _template(where, rewrite, "rm_rel_prompt", entity.fact.object)
    return seen_from_relation(entity, adding, removing)


def _template(where: str, rewrite: Record, name: str, mentioned: str) -> str:
    template = field(where, rewrite, name)
    if mentioned not in template:
        raise RecordError(f"{where}: field {name!r}: {mentioned!r} is not in {template!r}")
    return template


def _entity_probes(location: str, record: Record, entity: EditRequest) -> Iterator[Probe]:
    """Builds the probes of other relations, which should stay, and of portability."""
    for where, other in objects(location, record, "other_relations"):
        prompt = field(where, other, "prompt")
        yield Probe("entity", "other relations", prompt, answer="", rival=entity.target)
    if further := optional(location, record, "portability", dict):
        where = f"{location}: portability"
        prompt, answer = field(where, further, "prompt"), field(where, further, "answer")
        yield Probe("entity", "portability", prompt, answer)


def _relation_probes(location: str, record: Record, request: EditRequest) -> Iterator[Probe]:
    relation = request.fact.relation
    holds = Probe(
        "relation", "efficacy", request.fact.prompt, answer=relation.name, rival=NO_RELATION,
        aliases=relation.aliases, label=relation.name,
    )  # fmt: skip
    yield holds
    for prompt in texts(location, record, "rel_prompts"):
        yield replace(holds, group="paraphrase", prompt=prompt)
    for where, other in objects(location, record, "rel_neighborhood"):
        prompt = field(where, other, "prompt")
        yield replace(holds, group="neighborhood", prompt=prompt)
    if request.removal:
        ended = Probe(
            "relation", "removal", request.removal.prompt, answer=NO_RELATION,
            rival=relation.name, aliases=relation.aliases, label=relation.name,
        )  # fmt: skip
        yield ended
        for prompt in texts(location, record, "rm_rel_prompts"):
            yield replace(ended, group="removal paraphrase", prompt=prompt)
    for where, other in objects(location, record, "rel_other_objects"):
        prompt = field(where, other, "prompt")
        yield Probe("relation", "other objects", prompt, answer="", rival=relation.name)
    for where, other in objects(location, record, "rel_other"):
        label = field(where, other, "label")
        known = relations.find(field(where, other, "relation_id"))
        yield Probe(
            "relation", "other relations", field(where, other, "prompt"), answer=label,
            rival=relation.name, aliases=known.aliases if known.name == label else (), label=label,
        )  # fmt: skip
