"""Our own facts: well-known ones over many relations, several templates each (facts.json)."""

import json
from functools import cache
from pathlib import Path

from kedit.facts import Fact, Relation

FILE = Path(__file__).with_name("facts.json")


@cache
def load() -> tuple[Fact, ...]:
    """Every fact under every template of its relation; all under their first templates first."""
    relations = json.loads(FILE.read_text(encoding="utf-8"))["relations"]
    most = max(len(entry["templates"]) for entry in relations)
    return tuple(
        Fact(
            subject,
            Relation(entry["id"], entry["name"], entry["kind"], entry["domain"]),
            answer,
            entry["templates"][rank]["text"],
            tuple(entry["templates"][rank]["relation_words"]),
        )
        for rank in range(most)
        for entry in relations
        if rank < len(entry["templates"])
        for subject, answer in entry["facts"]
    )
