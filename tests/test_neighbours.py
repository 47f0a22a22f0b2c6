"""Neighbours: other pairs in the request's words, none of them what an edit is tested with."""

import dataclasses
from typing import Any

import pytest

from kedit.data import builtin
from kedit.editing.neighbours import alike, neighbours
from kedit.facts import EditRequest, Fact, Relation
from kedit.models import toy as toy_module

CASES = {case.id: case for case in builtin.cases()}
FRANCE = CASES["P36 France"]  # its capital: from Paris to Tokyo


def test_an_entity_request_gets_its_prompt_with_other_subjects() -> None:
    request = FRANCE.entity
    found = neighbours(request, 8)
    assert len(found) == 8 and len({one.fact.subject for one in found}) == 8
    known = {fact.subject for fact in builtin.load() if fact.relation.id == "P36"}
    for one in found:
        assert one.fact.template == request.fact.template and not one.mentioned
        assert one.fact.subject in known - {"France", "Japan"}  # whose capitals are exchanged


def test_a_relation_request_gets_other_subjects_other_objects_and_both_in_both_prompts() -> None:
    request = FRANCE.request("relation")
    found = neighbours(request, 12)
    assert len({one.fact.prompt for one in found}) == 12
    capitals = {f.subject: f.object for f in builtin.load() if f.relation.id == "P36"}
    kinds = []
    for one in found:
        statement = f"The relation between {one.fact.subject} and {one.mentioned} is"
        assert one.fact.prompt == statement
        subject, mentioned = one.fact.subject, one.mentioned
        if subject == "France":
            assert mentioned in set(capitals.values()) - {"Paris", "Tokyo"}
            kinds.append("object")
        elif mentioned in ("Paris", "Tokyo"):
            assert subject in capitals and subject != "Japan"
            kinds.append(f"subject beside {mentioned}")
        else:
            assert capitals[subject] == mentioned
            kinds.append("both")
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"subject beside Tokyo": 3, "subject beside Paris": 3, "object": 3, "both": 3}


@pytest.mark.parametrize("side", ["entity", "relation"])
def test_none_is_the_request_or_a_probe_of_its_case(side: Any) -> None:
    met = 0
    for case in list(CASES.values())[::31]:
        request = case.request(side)
        found = {one.fact.prompt for one in neighbours(request, 40)}
        assert len(found) == 40
        assert not found & {demand.fact.prompt for demand in request.demands}
        assert not found & {probe.prompt for probe in case.probes}, case.id
        met += any(probe.group == "neighborhood" for probe in case.probes)
    assert met > 5  # there are such probes to be met


def test_they_are_drawn_by_seed() -> None:
    for request in (FRANCE.entity, FRANCE.request("relation")):
        assert neighbours(request, 6, seed=1) == neighbours(request, 6, seed=1)
        assert neighbours(request, 6, seed=1) != neighbours(request, 6, seed=2)
        assert neighbours(request, 3, seed=1) == neighbours(request, 6, seed=1)[:3]
    assert neighbours(FRANCE.entity, 0) == ()


@pytest.mark.parametrize(
    ("relation", "domains"),
    [
        (Relation("P1082", "population", domain="country"), {"country"}),
        (Relation("P9999", "no one knows"), None),
    ],
)
def test_without_facts_of_the_relation_those_of_its_domain_do_and_then_any(
    relation: Relation, domains: set[str] | None
) -> None:
    fact = dataclasses.replace(FRANCE.entity.fact, relation=relation)
    found = neighbours(dataclasses.replace(FRANCE.entity, fact=fact), 10)
    subjects = {one.fact.subject for one in found}
    assert len(subjects) == 10
    of_domain = {f.subject for f in builtin.load() if f.relation.domain == "country"}
    assert (subjects <= of_domain) is (domains is not None)


def test_where_one_of_few_objects_is_exchanged_others_of_the_domain_fill_in() -> None:
    left = next(case for case in CASES.values() if case.entity.fact.relation.id == "P1622")
    found = neighbours(left.entity, 8)  # cars drive at the left or at the right in every country
    assert len(found) == 8
    drivers = {f.subject for f in builtin.load() if f.relation.id == "P1622"}
    assert not drivers & {one.fact.subject for one in found}


def test_only_the_prompts_spelt_out_object_is_exchanged() -> None:
    request = toy_module.cases()[0].request("relation")
    template = f"{request.mentioned} and {{}}: the relation of {{}} to {request.mentioned} is"
    template = template.replace("{}", "this one", 1)
    fact = dataclasses.replace(request.fact, template=template, relation_words=())
    found = neighbours(dataclasses.replace(request, fact=fact, removal=None), 3)
    assert found[0].mentioned == request.mentioned
    assert found[1].mentioned != request.mentioned
    assert found[1].fact.prompt.startswith(f"{request.mentioned} and this one")
    assert found[1].fact.prompt.endswith(f"to {found[1].mentioned} is")


def asked(template: str, name: str = "", subject: str = "Marie Curie", target: str = "Lisbon"):
    return EditRequest(Fact(subject, Relation(name, name), "?", template), target)


@pytest.mark.parametrize(
    ("template", "name", "id"),
    [
        ("{} was born in the city of", "", "P19"),  # its template
        ("{} was born in the city of", "capital", "P19"),  # which says more than a name
        ("{} first saw the light of day in", "Place of birth", "P19"),
        ("{} first saw the light of day in", "p19", "P19"),
        ("{} first saw the light of day in", "birthplace", "P19"),  # an alias
        ("{} was born in", "", "P19"),  # all templates that open so are of one relation
        ("{} is", "", ""),  # those of many open so
        ("{} was bor", "", ""),  # no whole word
        ("{} first saw the light of day in", "where it began", ""),
    ],
)
def test_facts_alike_are_of_the_relation_that_template_or_name_tell(
    template: str, name: str, id: str
) -> None:
    found = alike(asked(template, name))
    assert {fact.relation.id for fact in found} == ({id} if id else set())


def test_facts_alike_have_other_subjects_and_objects_than_the_request_by_seed() -> None:
    every = {f.subject: f.object for f in builtin.load() if f.relation.id == "P19"}
    subject, target = "Marie Curie", next(o for s, o in every.items() if s != "Marie Curie")
    found = alike(asked("{} was born in", subject=subject, target=target.upper()))
    wanted = {s for s, o in every.items() if s != subject and o != target}
    assert {fact.subject for fact in found} == wanted and len(found) == len(wanted) > 6
    assert subject in every and len(wanted) < len(every) - 1  # something was there to leave out
    again, other = (alike(asked("{} was born in", target=target), seed) for seed in (0, 1))
    assert again == alike(asked("{} was born in", target=target)) != other
