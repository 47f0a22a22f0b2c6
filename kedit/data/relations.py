"""CounterFact's 34 relations in our own words (relations.json): names, kinds, prompts."""

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
    """A text with {s} for the subject and, unless it asks for the object, {o} for the object."""

    text: str
    relation_id: str  # of the relation that it puts into words

    def filled(self, subject: str, object: str = "") -> str:
        # one piece at a time: a subject may itself hold {o}
        before, after = self.text.split("{s}")
        pieces = (part.replace("{o}", object) for part in (before, after))
        return subject.join(pieces)


# fits any relation whose name is known
STATEMENT = Wording("The relation between {s} and {o} is", "")


@dataclass(frozen=True)
class Described:
    """A relation and the ways to speak of it.

    Args:
        statement: "The relation between {s} and {o} is", completed by the relation's name.
        questions: other texts that its name completes and no other relation's does.
        other_relations: prompts for objects that the same subject has by other relations.
    """

    relation: Relation
    statement: Wording
    questions: tuple[Wording, ...]
    other_relations: tuple[Wording, ...]


@cache
def table() -> Mapping[str, Described]:
    """Every relation by its Wikidata id, in the order of the file."""
    return MappingProxyType({entry["id"]: _described(entry) for entry in _document()["relations"]})


@cache
def generic() -> tuple[Wording, ...]:
    """Texts that the name of any relation completes."""
    return tuple(Wording(text, "") for text in _document()["generic"])


def labels() -> tuple[str, ...]:
    """The relations' names, in the order of the file."""
    return tuple(described.relation.name for described in table().values())


def find(relation_id: str) -> Relation:
    """The relation of this Wikidata id; one that is not in the table has its id for a name."""
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
