"""Prompts that an edit which leaks would change too: the request's own, about other pairs.

They are made of kedit's own facts. What benchmarks test neighbourhood with is kept out: subjects
with one of the two objects that the request exchanges, and objects that its subject has already.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from kedit.data import builtin, relations
from kedit.facts import Demand, EditRequest, Fact


def neighbours(request: EditRequest, n: int, seed: int = 0) -> tuple[Demand, ...]:
    """At most `n` of the request's demands with other subjects and objects put in, by seed.

    An entity request's prompt gets other subjects. Of a relation request every other fact makes
    four: its subject in both prompts, its object beside the request's subject, and its own pair.
    So many of them open alike, and what texts open with is read once.

    Subjects and objects are those of the request's relation, found by its Wikidata id; then, where
    kedit has too few of these or none, of relations with subjects of the same domain; then any.

    Only the prompts are meant: what else the demands hold is the request's, and true of it alone.
    """
    return tuple(islice(_drawn(request, random.Random(f"{seed} {request.fact.prompt}")), n))


def alike(request: EditRequest, seed: int = 0) -> tuple[Fact, ...]:
    """kedit's own facts of an entity request's relation, about other subjects, in a drawn order.

    The relation is known by its template, or else by its name, an alias or its Wikidata id, or else
    by templates that open like the request's, if those are one relation's. Facts whose object is
    the target are left out: an edit that leaks would not show in them. There may be none at all.
    """
    id = _known_relation(request.fact.template, request.fact.relation.name)
    barred = {request.fact.subject.casefold(), request.target.casefold()}
    found = [
        fact
        for fact in known_facts()
        if fact.relation.id == id and not barred & {fact.subject.casefold(), fact.object.casefold()}
    ]
    random.Random(f"{seed} {request.fact.prompt}").shuffle(found)
    return tuple(found)


def _known_relation(template: str, name: str) -> str:
    """The Wikidata id of the relation that both tell; "" where they tell none, or several."""
    template, name = template.casefold(), name.casefold()
    exact, named, aliased, opened = (set[str]() for _ in range(4))
    for fact in builtin.load():
        id, own = fact.relation.id, fact.template.casefold()
        known = relations.find(id)
        exact |= {id} if own == template else set()
        named |= {id} if name in {part.casefold() for part in (id, fact.relation.name)} else set()
        aliased |= {id} if name in map(str.casefold, (known.name, *known.aliases)) else set()
        opened |= {id} if own.startswith(f"{template} ") else set()
    return next((ids.pop() for ids in (exact, named, aliased, opened) if len(ids) == 1), "")


def _drawn(request: EditRequest, draw: random.Random) -> Iterator[Demand]:
    subject = request.fact.subject
    known = {fact.object for fact in known_facts() if fact.subject == subject}
    first, seen = request.demands[0], set[str]()
    for other in _others(request, draw):
        made = [about(one, other.subject, one.mentioned) for one in request.demands]
        if first.mentioned and other.object not in known and other.object != subject:
            made.append(about(first, subject, other.object))
        if first.mentioned:
            made.append(about(first, other.subject, other.object))
        for one in made:
            if one.fact.prompt not in seen:
                seen.add(one.fact.prompt)
                yield one


def _others(request: EditRequest, draw: random.Random) -> list[Fact]:
    """Facts of other subjects and objects, the closest first, in an order that is drawn."""
    relation = request.fact.relation
    exchanged = {
        request.fact.object, request.target, request.mentioned, request.mentioned_by_removal
    }  # fmt: skip
    barred = {request.fact.subject, *exchanged}
    barred |= {
        fact.subject
        for fact in known_facts()
        if fact.relation.id == relation.id and fact.object in exchanged
    }
    others = [
        fact
        for fact in known_facts()
        if fact.subject not in barred and fact.object not in exchanged
    ]
    draw.shuffle(others)

    def distance(fact: Fact) -> int:
        if fact.relation.id == relation.id:
            return 0
        return 1 if fact.relation.domain == _domain(relation.id, relation.domain) else 2

    return sorted(others, key=distance)


def about(demand: Demand, subject: str, mentioned: str) -> Demand:
    """The demand's prompt with another subject and another object spelt out."""
    template = demand.fact.template
    if demand.mentioned:  # the last one, as `located` takes it
        template = mentioned.join(template.rsplit(demand.mentioned, 1))
    fact = replace(demand.fact, subject=subject, template=template, relation_words=())
    return replace(demand, fact=fact, mentioned=mentioned)


@cache
def known_facts() -> tuple[Fact, ...]:
    """kedit's own facts, one for each subject and relation."""
    return tuple({(f.relation.id, f.subject): f for f in reversed(builtin.load())}.values())


@cache
def _domain(id: str, told: str) -> str:
    """What the relation's subjects are: as kedit has it, or as its record tells."""
    return next((fact.relation.domain for fact in known_facts() if fact.relation.id == id), told)
