"""Parts of a benchmark: no subject in two of them, every relation in each, none seen before."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from experiments import build_rake, split_cases
from experiments.split_cases import Config
from kedit.data import load_cases
from kedit.data.choose import split_cases as split
from kedit.data.choose import spread_cases
from kedit.errors import InputError
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models import toy as toy_module
from kedit.studies import splits as room
from kedit.studies.splits import Splits, known_cases, split_known
from probes.known import answers_right
from tests.test_cases import written
from tests.test_rake import RECORDS

PARTS = ("tune", "validate", "test")
SIZES = {"tune": 8, "validate": 6, "test": 0}


def many(n_subjects: int, each: int = 1) -> list[EditCase]:
    """The toy's cases under other names, `each` of a subject's cases in one relation."""
    made = []
    for case in toy_module.cases():
        for number in range(n_subjects):
            fact = replace(case.entity.fact, subject=f"{case.entity.fact.subject} {number // each}")
            entity = replace(case.entity, fact=fact)
            made.append(replace(case, id=f"{case.id} {number}", entity=entity))
    return made


def subjects(cases: list[EditCase]) -> set[str]:
    return {case.entity.fact.subject for case in cases}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("each", [1, 3])
def test_no_subject_is_in_two_parts(seed: int, each: int) -> None:
    cases = many(6, each)
    parts = split(cases, {case.id for case in cases}, SIZES, 0, seed)
    assert tuple(parts) == PARTS and len(parts["tune"]) == 8 and len(parts["validate"]) == 6
    assert len(parts["test"]) > 20
    seen = [subjects(own) for own in parts.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    ids = [case.id for own in parts.values() for case in own]
    assert len(set(ids)) == len(ids)
    assert parts == split(cases, {case.id for case in cases}, SIZES, 0, seed)
    assert parts != split(cases, {case.id for case in cases}, SIZES, 0, seed + 7)


def test_relations_are_balanced_in_every_part() -> None:
    # a person a relation, or else a subject's first relation decides for all of its cases
    people = list(dict.fromkeys(case.entity.fact.subject for case in toy_module.cases()))
    relations = list(dict.fromkeys(case.entity.fact.relation.id for case in toy_module.cases()))
    cases = [
        case
        for case in many(9)
        if people.index(case.entity.fact.subject.rsplit(" ", 1)[0]) % 4
        == relations.index(case.entity.fact.relation.id)
    ]
    parts = split(cases, {case.id for case in cases}, {"tune": 40, "validate": 40, "test": 0}, 0, 0)
    for part, own in parts.items():
        counts = Counter(case.entity.fact.relation.id for case in own)
        assert set(counts) == set(relations)
        assert max(counts.values()) - min(counts.values()) <= 1, part


def test_what_the_model_does_not_prefer_is_in_no_part(toy: HookedTransformer) -> None:
    cases, journal = toy_module.cases(), Journal()
    known = known_cases(toy, cases, "preferred", journal)
    assert len(known) > 60  # it knows nearly all of its world
    for record in journal.records.values():
        if record["id"] == cases[0].id:
            (probe,) = record["probes"]
            told = {"logprob": probe["rival_logprob"], "rival_logprob": probe["logprob"]}
            record["probes"] = [probe | told]
    found = split_known(toy, cases, SIZES, journal=journal)  # nothing is scored again
    assert cases[0].id in known and found.n_known == len(known) - 1
    assert cases[0].id not in {id for own in found.parts.values() for id in own}
    assert Splits.from_record(json.loads(json.dumps(found.to_record()))) == found
    *relations, every = found.table().rows
    assert every == ("all", *(str(len(own)) for own in found.parts.values()))
    assert [row[0] for row in relations] == sorted(one.name for one in toy_module.WORLD)


@pytest.mark.slow
def test_answered_cases_are_those_that_tracing_counts_as_known(toy: HookedTransformer) -> None:
    cases = toy_module.cases()
    objects = {case.id: case.entity.fact.object for case in cases}
    for case in cases[:20]:  # the objects of other people: likelier than a word of no relation
        other = next(o for o in objects.values() if o != case.entity.fact.object)
        probes = tuple(replace(probe, answer="the", rival=other) for probe in case.probes)
        cases.append(replace(case, id=f"other {case.id}", probes=probes))
        objects[f"other {case.id}"] = other
    answered, preferred = (known_cases(toy, cases, known) for known in ("answered", "preferred"))
    facts = {case.id: replace(case.entity.fact, object=objects[case.id]) for case in cases}
    assert answered == {id for id, fact in facts.items() if answers_right(toy, fact)[0]}
    assert answered < preferred


def test_cases_that_were_tuned_on_are_never_tested_with() -> None:
    cases = many(3)
    drawn = spread_cases(cases, len(cases), 0)[:12]
    parts = split(cases, {case.id for case in cases}, SIZES, 12, 0)
    for part in ("validate", "test"):
        assert not subjects(parts[part]) & subjects(drawn)
    assert subjects(parts["tune"]) & subjects(drawn)


def test_the_files_hold_the_records_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, *RECORDS, name="made_up.jsonl")
    rake = build_rake.run(build_rake.Config(source=str(source), out=str(tmp_path / "rake")))
    cases = load_cases(rake / "rake.jsonl")
    monkeypatch.setattr(room, "known_cases", lambda *_: {case.id for case in cases})
    config = Config(
        model="toy", cases=str(rake / "rake.jsonl"), tune=2, validate=1, seen=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    folder = split_cases.run(config)
    told = Splits.load(folder)
    lines = (rake / "rake.jsonl").read_text().splitlines()
    for part in PARTS:
        kept = (folder / f"{part}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in kept] == [
            json.loads(line)
            for id in told.parts[part]
            for line in lines
            if str(json.loads(line)["case_id"]) == id
        ]
        assert [case.id for case in load_cases(folder / f"{part}.jsonl")] == list(told.parts[part])
        assert sum(told.by_relation[part].values()) == len(kept) > 0


def test_a_model_that_knows_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "known_cases", lambda *_: set())
    with pytest.raises(InputError, match="the model knows no case"):
        split_cases.run(Config(model="toy", cases="toy", out=str(tmp_path)))
