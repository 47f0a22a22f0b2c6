"""Which facts an experiment takes, in which order, and what its folder calls them."""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments._choose import in_turn
from experiments._folder import key_of
from experiments._run import console

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.facts import Fact


LISTED = 5  # records that cannot be used, on the screen


def usable_facts(source: str) -> "tuple[Sequence[Fact], dict[str, str]]":
    """Every fact that can be used, and why others cannot be, by their places in the file.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    from kedit.data import builtin, read_facts
    from kedit.data.fields import Skipped

    if source == "builtin":
        return builtin.load(), {}  # the same tuple: what is drawn from it knows it by that
    facts, skipped = [], {}
    for one in read_facts(source):
        if isinstance(one, Skipped):
            skipped[one.place] = one.reason
        else:
            facts.append(one)
    require_some(source, facts, skipped)
    return facts, skipped


def require_some(source: str, usable: Sequence[object], skipped: Mapping[str, str]) -> None:
    """Raises RecordError, with the first reason, where nothing of a file can be used."""
    from kedit.errors import RecordError

    if not usable:
        place, reason = next(iter(skipped.items()), (source, "it is empty"))
        raise RecordError(f"none of the records of {source} can be used; {place}: {reason}")


def say_skipped(source: str, skipped: Mapping[str, str]) -> None:
    """Prints which records of a file cannot be used, and why; nothing where all can be."""
    for place, reason in list(skipped.items())[:LISTED]:
        console().print(f"skipped: {place}: {reason}", highlight=False, soft_wrap=True)
    if len(skipped) > LISTED:
        more = f"skipped: {len(skipped) - LISTED} more records of {source}"
        console().print(more, highlight=False, soft_wrap=True)


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


def readable(model: "HookedTransformer", facts: "Iterable[Fact]") -> "Iterator[Fact]":
    """Those that the model can read: within its context, of tokens that its embedding has."""
    from kedit.errors import InputError
    from kedit.models.prompts import encode

    for fact in facts:
        try:
            encode(model, fact)
        except InputError:
            continue
        yield fact


def fact_key(fact: "Fact") -> str:
    """What a folder calls a fact, in this wording: another key if anything of it is another.

    But for its rival, which depends on the model and on the other facts.
    """
    return key_of(replace(fact, rival=""))


def drawn_for(fact: "Fact") -> random.Random:
    """Random numbers for a fact that depend on its question and answer alone."""
    told = f"{fact.relation.id}:{fact.prompt}:{fact.object}"
    return random.Random(hashlib.sha256(told.encode()).hexdigest()[:16])
