"""Facts of one's own: JSON Lines with subject, relation, object and a template or a prompt."""

from pathlib import Path
from typing import get_args

from kedit.data.fields import Record, field, optional, placed
from kedit.data.known import cut_out
from kedit.data.read import records
from kedit.errors import RecordError
from kedit.facts import Fact, Kind, Relation

FIELDS = {
    "subject", "relation", "object", "template", "prompt",
    "relation_id", "relation_words", "kind", "domain",
}  # fmt: skip


def load(path: str | Path) -> list[Fact]:
    """Every record as a fact.

    Wanted: subject, relation (its name), object, and either template (with `{}`) or prompt (in
    which the subject is looked for). Optional: relation_id, relation_words (list), kind, domain.

    Raises:
        RecordError: names file, record and field.
    """
    return [parse(place, record) for place, record in records(path)]


def parse(place: str, record: Record) -> Fact:
    unknown = sorted(set(record) - FIELDS)
    if unknown:
        raise RecordError(
            f"{place}: unknown field {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}"
        )
    subject, name = field(place, record, "subject"), field(place, record, "relation")
    kind = record.get("kind", "")
    if kind not in get_args(Kind):
        raise RecordError(f"{place}: field 'kind': one of {get_args(Kind)} is wanted, got {kind!r}")
    words = record.get("relation_words", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RecordError(
            f"{place}: field 'relation_words': a list of texts is wanted, got {words!r}"
        )
    try:
        if "template" in record:
            template = field(place, record, "template")
        else:
            template = cut_out(field(place, record, "prompt"), subject)
        domain = optional(place, record, "domain")
        relation = Relation(str(record.get("relation_id", name)), name, kind, domain)
        return Fact(subject, relation, field(place, record, "object"), template, tuple(words))
    except RecordError as error:
        raise placed(place, error) from None
