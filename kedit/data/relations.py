"""Names, kinds and prompts of CounterFact's 34 relations, in kedit's own words (relations.json)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from kedit.facts import Relation

FILE = Path(__file__).with_name("relations.json")


@dataclass(frozen=True)
class Wording:
    """A text with {s} for the subject and, unless the object completes it, {o} for the object.

    Args:
        relation_id: the relation that the text puts into words; "" for texts that fit any relation.
    """

    text: str
    relation_id: str

    def filled(self, subject: str, object: str = "") -> str:
        """Returns the text with subject and object filled in."""
        # {o} is replaced before the subject is inserted, since a subject may itself contain {o}
        before, after = self.text.split("{s}")
        pieces = (part.replace("{o}", object) for part in (before, after))
        return subject.join(pieces)


# fits any relation that has a name
STATEMENT = Wording("The relation between {s} and {o} is", "")


@dataclass(frozen=True)
class Described:
    """A relation with the texts that ask for it.

    Args:
        statement: "The relation between {s} and {o} is", which the relation's name completes.
        questions: other texts that the name of this relation completes, and no other name does.
        other_relations: prompts for the objects that the same subject has by other relations.
    """

    relation: Relation
    statement: Wording
    questions: tuple[Wording, ...]
    other_relations: tuple[Wording, ...]


@cache
def table() -> Mapping[str, Described]:
    """Returns every relation by its Wikidata id, in the order of the file."""
    return MappingProxyType({entry["id"]: _described(entry) for entry in _document()["relations"]})


@cache
def generic() -> tuple[Wording, ...]:
    """Returns the texts that the name of any relation completes."""
    return tuple(Wording(text, "") for text in _document()["generic"])


def labels() -> tuple[str, ...]:
    """Returns the names of the relations, in the order of the file."""
    return tuple(described.relation.name for described in table().values())


def find(relation_id: str) -> Relation:
    """Returns the relation with this Wikidata id; outside the table, its id is also its name."""
    if relation_id in table():
        return table()[relation_id].relation
    return Relation(relation_id, relation_id)


@cache
def _document() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def _described(entry: dict) -> Described:
    id = entry["id"]
    return Described(
        Relation(id, entry["label"], entry["kind"], aliases=tuple(entry["aliases"])),
        Wording(entry["add"][0], id),
        tuple(Wording(text, id) for text in entry["questions"]),
        tuple(Wording(other["template"], other["id"]) for other in entry["other_relations"]),
    )
