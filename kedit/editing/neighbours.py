"""Neighbour prompts: a request's templates about other pairs, which should not change.

They are made from kedit's own facts. Prompts with which benchmarks measure neighbourhood are left
out, so that editors don't train on the test: subjects that have one of the two exchanged objects,
and objects that the request's subject has already.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from kedit.data import builtin, relations
from kedit.facts import Demand, EditRequest, Fact


def neighbours(request: EditRequest, n: int, seed: int = 0) -> tuple[Demand, ...]:
    """Returns at most `n` of the request's demands with other subjects and objects filled in.

    For an entity request, the prompt gets other subjects. For a relation request, each other fact
    gives four prompts: its subject in both of the request's prompts, its object with the request's
    subject, and its own pair. Many of them share their first tokens, which the model then reads
    only once.

    The pairs come from the request's relation, identified by its Wikidata id. If kedit has too few
    of these, they also come from relations with subjects of the same domain, and then from any
    relation.

    Only the prompts of the returned demands are meaningful: the other fields are still the
    request's.
    """
    return tuple(islice(_drawn(request, random.Random(f"{seed} {request.fact.prompt}")), n))


def alike(request: EditRequest, seed: int = 0) -> tuple[Fact, ...]:
    """Returns kedit's facts with an entity request's relation and other subjects, in random order.

    The relation is identified by its template; otherwise by its name, an alias or its Wikidata id;
    otherwise by templates that begin like the request's, if all of those belong to one relation.
    Facts whose object is the target are left out, because an edit that leaks would not show in
    them. The result may be empty.
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


def other_relations(request: EditRequest, n: int, seed: int = 0) -> tuple[Demand, ...]:
    """Returns an entity request's demand with at most `n` other relations of its subject.

    They are relations of kedit's facts whose subjects are of the same kind, in random order; of any
    kind if there are none. Their template is still the request's: see
    `kedit.editing.wordings.in_other_words`. A relation request has none.
    """
    own, (demand, *_) = request.fact.relation, request.demands
    if request.perspective == "relation":
        return ()
    kind = _domain(own.id, own.domain)
    by_id = {fact.relation.id: fact.relation for fact in known_facts()}
    others = [relation for id, relation in by_id.items() if id != own.id]
    alike = [relation for relation in others if relation.domain == kind] or others
    random.Random(f"{seed} {request.fact.prompt}").shuffle(alike)
    return tuple(
        replace(demand, fact=replace(demand.fact, relation=relation)) for relation in alike[:n]
    )


def _known_relation(template: str, name: str) -> str:
    """Returns the Wikidata id for a template or name; "" if none or several match."""
    template, name = template.casefold(), name.casefold()
    by_template, by_name, by_alias, by_opening = (set[str]() for _ in range(4))
    for fact in builtin.load():
        id, fact_template = fact.relation.id, fact.template.casefold()
        known = relations.find(id)
        by_template |= {id} if fact_template == template else set()
        by_name |= {id} if name in {part.casefold() for part in (id, fact.relation.name)} else set()
        by_alias |= {id} if name in map(str.casefold, (known.name, *known.aliases)) else set()
        by_opening |= {id} if fact_template.startswith(f"{template} ") else set()
    return next(
        (ids.pop() for ids in (by_template, by_name, by_alias, by_opening) if len(ids) == 1), ""
    )


def _drawn(request: EditRequest, draw: random.Random) -> Iterator[Demand]:
    """Yields the demands filled with other pairs, each prompt once."""
    subject = request.fact.subject
    known = {fact.object for fact in known_facts() if fact.subject == subject}
    first, seen = request.demands[0], set[str]()
    for other in _others(request, draw):
        filled = [about(demand, other.subject, demand.mentioned) for demand in request.demands]
        if first.mentioned and other.object not in known and other.object != subject:
            filled.append(about(first, subject, other.object))
        if first.mentioned:
            filled.append(about(first, other.subject, other.object))
        for demand in filled:
            if demand.fact.prompt not in seen:
                seen.add(demand.fact.prompt)
                yield demand


def _others(request: EditRequest, draw: random.Random) -> list[Fact]:
    """Returns facts about other subjects and objects; within equal distance, in random order."""
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
    """Returns the demand with another subject, and another object named in its prompt."""
    template = demand.fact.template
    if demand.mentioned:  # its last occurrence, as in `located`
        template = mentioned.join(template.rsplit(demand.mentioned, 1))
    fact = replace(demand.fact, subject=subject, template=template, relation_words=())
    return replace(demand, fact=fact, mentioned=mentioned)


@cache
def known_facts() -> tuple[Fact, ...]:
    """Returns kedit's own facts, one per subject and relation."""
    return tuple({(f.relation.id, f.subject): f for f in reversed(builtin.load())}.values())


@cache
def _domain(id: str, default: str) -> str:
    """Returns the kind of the relation's subjects, or `default` if kedit has none of its facts."""
    return next((fact.relation.domain for fact in known_facts() if fact.relation.id == id), default)
