"""CounterFact in its original schema (Meng et al. 2022), as facts with their true objects."""

from pathlib import Path

from kedit.data.read import Record, field, records
from kedit.errors import RecordError
from kedit.facts import Fact, Relation


def load(path: str | Path) -> list[Fact]:
    """Every record's requested_rewrite with its true object.

    Raises:
        RecordError: names file, record and field.
    """
    return [parse(place, record) for place, record in records(path)]


def parse(place: str, record: Record) -> Fact:
    rewrite = field(place, record, "requested_rewrite", dict)
    where = f"{place}: requested_rewrite"
    relation = field(where, rewrite, "relation_id")
    try:
        return Fact(
            field(where, rewrite, "subject"),
            Relation(relation, relation),
            field(where, rewrite, "target_true.str"),
            field(where, rewrite, "prompt"),
        )
    except RecordError as error:
        raise error if str(error).startswith(place) else RecordError(f"{where}: {error}") from None
