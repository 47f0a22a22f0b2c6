"""Which facts an experiment takes, in which order, and what its folder calls them."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments._choose import in_turn
from experiments._folder import key_of

if TYPE_CHECKING:
    from kedit.facts import Fact


def of_relations(facts: "Sequence[Fact]", told: str) -> "list[Fact]":
    """Those of the relations that are told: see `Config.relations`.

    Raises:
        InputError: no fact has such a relation.
    """
    from kedit.errors import InputError

    if not told:
        return list(facts)
    subjects: dict[str, set[str]] = {}
    for fact in facts:
        subjects.setdefault(fact.relation.id, set()).add(fact.subject)
    if re.fullmatch("[0-9]{1,9}", told):
        most = sorted(subjects, key=lambda relation: -len(subjects[relation]))
        chosen = set(most[: int(told)])
        return [fact for fact in facts if fact.relation.id in chosen]
    wanted = {name.strip() for name in told.split(",")}
    found = [fact for fact in facts if wanted & {fact.relation.id, fact.relation.name}]
    lacking = wanted - {name for fact in found for name in (fact.relation.id, fact.relation.name)}
    if lacking:
        there = sorted({f"{fact.relation.id} ({fact.relation.name})" for fact in facts})
        raise InputError(
            f"no facts of the relation {sorted(lacking)[0]!r:.80}; there are {', '.join(there)}"
        )
    return found


def spread_out(facts: "Sequence[Fact]", seed: int) -> "list[list[Fact]]":
    """One (relation, subject) of every relation in turn, drawn by `seed`, each in all its wordings.

    Wordings in which something follows the relation's words come first, else in the given order:
    where they end the prompt, the last corrupted token and the last token are one.
    """
    by_relation: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation.id, {}).setdefault(fact.subject, []).append(fact)
    groups = [list(by_subject.values()) for by_subject in by_relation.values()]
    for worded in (worded for group in groups for worded in group):
        worded.sort(key=lambda fact: fact.relation_spans[-1][1] == len(fact.prompt))
    return in_turn(groups, seed)


def fact_key(fact: "Fact") -> str:
    """What a folder calls a fact, in this wording: another key if anything of it is another.

    But for its rival, which depends on the model and on the other facts.
    """
    return key_of(replace(fact, rival=""))


def drawn_for(fact: "Fact") -> random.Random:
    """Random numbers for a fact that depend on its question and answer alone."""
    told = f"{fact.relation.id}:{fact.prompt}:{fact.object}"
    return random.Random(hashlib.sha256(told.encode()).hexdigest()[:16])
