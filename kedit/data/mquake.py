"""Parses MQuAKE (Zhong et al. 2023): several edits per record, with multi-hop questions."""

import zlib
from collections.abc import Iterator

from kedit.data import counterfact, relations
from kedit.data.cases import edit_case, relation_probes, relation_side, target_probe
from kedit.data.fields import (
    MissingField,
    Record,
    field,
    id_of,
    objects,
    optional,
    texts,
    with_location,
)
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Probe

NEEDS = (
    "requested_rewrite (a list of edits, each with subject, prompt, relation_id, target_true.str "
    "and target_new.str), questions, answer, new_answer"
)


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case with all edits of a record, which an editor makes together.

    The question of each edit is a paraphrase. The multi-hop questions are portability probes with
    new_answer as the answer and answer as the rival; in generated text, the aliases of new_answer
    count too. The case has a relation side if kedit has a name for the relations of all edits.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    entities, probes = [], []
    try:
        for where, rewrite in _rewrites(location, record):
            fact = counterfact.rewritten(where, rewrite)
            entity = EditRequest(fact, field(where, rewrite, "target_new.str"))
            entities.append(entity)
            probes.append(target_probe(entity, "efficacy", fact.prompt))
            if question := optional(where, rewrite, "question"):
                probes.append(target_probe(entity, "paraphrase", question))
        new, old = field(location, record, "new_answer"), optional(location, record, "answer")
        aliases = texts(location, record, "new_answer_alias")
        probes += [
            Probe("entity", "portability", question, new, "" if old == new else old, aliases)
            for question in texts(location, record, "questions")
        ]
        sides = []
        if all(entity.fact.relation.id in relations.table() for entity in entities):
            sides = [relation_side(entity) for entity in entities]
            for entity in entities:
                number = zlib.crc32(entity.fact.prompt.encode())
                probes += relation_probes(entity, number)
        relation = sides[0] if sides else None
        others = (*entities[1:], *sides[1:])
        return edit_case(id_of(location, record), entities[0], probes, relation, others=others)
    except RecordError as error:
        raise with_location(location, error) from None


def parse_facts(location: str, record: Record) -> Iterator[Fact]:
    """Yields the facts that a record edits."""
    for where, rewrite in _rewrites(location, record):
        yield counterfact.rewritten(where, rewrite)


def _rewrites(location: str, record: Record) -> list[tuple[str, Record]]:
    found = list(objects(location, record, "requested_rewrite"))
    if not found:
        raise MissingField(f"{location}: field 'requested_rewrite': needs at least one edit")
    return found
