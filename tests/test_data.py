"""Loaders: what they read, and how they refuse."""

import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.data import builtin, load_facts
from kedit.data.known import cut_out
from kedit.data.read import records
from kedit.errors import InputError, RecordError
from kedit.facts import Fact

KNOWN = {
    "known_id": 0,
    "subject": "Vinson Massif",
    "attribute": "Antarctica",
    "template": "{} is located in the continent",
    "prediction": " of Antarctica",
    "prompt": "Vinson Massif is located in the continent of",
    "relation_id": "P30",
}
REWRITE = {
    "prompt": "The mother tongue of {} is",
    "relation_id": "P103",
    "target_new": {"str": "English", "id": "Q1860"},
    "target_true": {"str": "French", "id": "Q150"},
    "subject": "Danielle Darrieux",
}
OWN = {"subject": "Arle", "relation": "mayor", "object": "Bo", "template": "The mayor of {} is"}


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_builtin_facts_are_many_and_of_every_kind() -> None:
    facts = builtin.load()
    pairs = {(fact.relation.id, fact.subject) for fact in facts}
    relations = {fact.relation for fact in facts}
    assert len(pairs) >= 240
    assert len(relations) >= 24
    assert {relation.kind for relation in relations} == {"symmetric", "hierarchical", "other"}
    for relation in relations:
        templates = {fact.template for fact in facts if fact.relation == relation}
        assert len(templates) >= 2, relation
        assert any(other.domain == relation.domain for other in relations - {relation}), relation


def test_builtin_facts_name_each_pair_once_a_template_and_never_give_the_answer_away() -> None:
    facts = builtin.load()
    assert len({(f.relation.id, f.template, f.subject) for f in facts}) == len(facts)
    for fact in facts:
        assert fact.object not in fact.prompt.replace(fact.subject, ""), fact
        assert fact.relation_words, fact


def test_builtin_facts_come_under_their_first_template_first() -> None:
    facts = builtin.load()
    pairs = len({(fact.relation.id, fact.subject) for fact in facts})
    assert len({(fact.relation.id, fact.subject) for fact in facts[:pairs]}) == pairs


def test_each_format_is_recognised(tmp_path: Path) -> None:
    known = load_facts(written(tmp_path / "known_1000.json", [KNOWN]))
    assert known[0].template == "{} is located in the continent of"
    assert known[0].object == "Antarctica"
    counterfact = load_facts(written(tmp_path / "cf.json", [{"requested_rewrite": REWRITE}]))
    assert (counterfact[0].prompt, counterfact[0].object) == (
        "The mother tongue of Danielle Darrieux is",
        "French",
    )
    lines = tmp_path / "mine.jsonl"
    prompt = {**OWN, "prompt": "Arle has the mayor", "relation_id": "P6"}
    del prompt["template"]
    lines.write_text(f"{json.dumps(OWN)}\n\n{json.dumps(prompt)}\n", encoding="utf-8")
    own = load_facts(lines)
    assert [fact.template for fact in own] == ["The mayor of {} is", "{} has the mayor"]
    assert own[1].relation.id == "P6"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{**KNOWN, "attribute": ""}],
            "f.json, record 0: field 'attribute'.*str is wanted, got ''",
        ),
        (
            [KNOWN, {**KNOWN, "prompt": "nobody is here"}],
            "record 1: field 'prompt'.*'Vinson Massif'",
        ),
        ([{"requested_rewrite": {**REWRITE, "prompt": "no blank"}}], "exactly one {} is wanted"),
        ([{"requested_rewrite": {**REWRITE, "prompt": "{} and {}"}}], "record 0.*exactly one {}"),
        (
            [{"requested_rewrite": {k: v for k, v in REWRITE.items() if k != "target_true"}}],
            "record 0: requested_rewrite: field 'target_true.str' is missing",
        ),
        ([{**OWN, "kind": "odd"}], "field 'kind'"),
        ([{**OWN, "relation_words": ["queen"]}], "record 0: relation_words: 'queen' is not in"),
        ([{**OWN, "objct": "x"}], "unknown field 'objct'; known: "),
        ([3], "record 0: an object is wanted, got int"),
        ({"a": 1}, "f.json: an array of records is wanted, got dict"),
        ([], "holds no records"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, records: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        load_facts(written(tmp_path / "f.json", records))


def test_broken_lines_and_torn_archives_are_named(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    lines.write_text(f"{json.dumps(OWN)}\n{{broken\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"f.jsonl, line 2: broken JSON"):
        load_facts(lines)
    archive = tmp_path / "f.jsonl.xz"
    text = "".join(f"{json.dumps({**OWN, 'object': f'Bo {n}'})}\n" for n in range(5000))
    archive.write_bytes(lzma.compress(text.encode())[:-200])
    with pytest.raises(RecordError, match=r"f.jsonl.xz: broken off after line \d+"):
        load_facts(archive)
    with pytest.raises(RecordError, match=r"nothing.json: cannot be read: No such file"):
        load_facts(tmp_path / "nothing.json")


def test_a_subject_inside_another_word_is_not_taken_for_the_subject() -> None:
    assert cut_out("The romance of Rom and the rom", "Rom") == "The romance of {} and the rom"
    assert cut_out("Manhattan, where the Man lives", "Man") == "Manhattan, where the {} lives"
    with pytest.raises(RecordError, match="not a word of its own"):
        cut_out("Manhattan", "Man")


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_an_input_error_or_read(tmp_path_factory, raw: bytes) -> None:
    for suffix in (".json", ".jsonl", ".jsonl.xz"):
        file = tmp_path_factory.mktemp("garbage") / f"f{suffix}"
        file.write_bytes(raw)
        try:
            facts = load_facts(file)
        except InputError as error:
            assert file.name in str(error)
        else:
            assert all(isinstance(fact, Fact) for fact in facts)


@given(
    st.dictionaries(
        st.sampled_from(["subject", "relation", "object", "template", "prompt", "relation_words"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=20), st.lists(st.text(max_size=5))),
    )
)
def test_any_record_becomes_a_fact_or_a_record_error(tmp_path_factory, record: dict) -> None:
    file = written(tmp_path_factory.mktemp("record") / "f.json", [record])
    try:
        (fact,) = load_facts(file)
    except RecordError as error:
        assert "f.json" in str(error)
    else:
        assert fact.prompt[slice(*fact.subject_span)] == fact.subject


def test_places_count_lines_from_one_and_records_from_zero(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    lines.write_text("\n".join(json.dumps(OWN) for _ in range(2)), encoding="utf-8")
    assert [place for place, _ in records(lines)] == ["f.jsonl, line 1", "f.jsonl, line 2"]
