"""Loaders: what they read, and how they refuse."""

import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedit.data import builtin, load_facts, read, read_facts
from kedit.data.fields import Skipped
from kedit.data.known import cut_out
from kedit.data.read import records, records_and_errors
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
    assert {relation.kind for relation in relations} == {"symmetric", "hierarchical", "asymmetric"}
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


def test_every_builtin_fact_makes_a_case_of_both_sides() -> None:
    facts = {(fact.relation.id, fact.subject): fact.object for fact in builtin.load()}
    cases = builtin.cases()
    assert len(cases) == len({case.id for case in cases}) == len(facts)
    of_relation: dict[str, set[str]] = {}
    for (relation, _), answer in facts.items():
        of_relation.setdefault(relation, set()).add(answer)
    for case in cases:
        entity, relation = case.entity, case.request("relation")
        old, new = entity.fact.object, entity.target
        assert {old, new} <= of_relation[entity.fact.relation.id]
        assert relation.mentioned == new and relation.fact.prompt.endswith(f"and {new} is")
        for probe in case.probes:
            assert (probe.label != "") == (probe.perspective == "relation")
            assert not probe.answer or not probe.prompt.endswith(probe.answer)
        changed = [probe for probe in case.probes if probe.perspective == "entity"]
        assert {probe.answer for probe in changed if probe.rival == old} == {new}
        adding = [p.prompt for p in case.probes if p.group == "paraphrase" and p.label]
        assert len(adding) == len(set(adding)) == 3
        assert all(new in prompt and entity.fact.subject in prompt for prompt in adding)


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
            "f.json, record 0: read as known_1000: .*'attribute': expected non-empty text, got ''",
        ),
        (
            [KNOWN, {**KNOWN, "prompt": "nobody is here"}],
            "record 1: read as known_1000: field 'prompt'.*'Vinson Massif'",
        ),
        ([{"requested_rewrite": {**REWRITE, "prompt": "no blank"}}], "exactly one {}"),
        ([{"requested_rewrite": {**REWRITE, "prompt": "{} and {}"}}], "record 0.*exactly one {}"),
        (
            [{"requested_rewrite": {k: v for k, v in REWRITE.items() if k != "target_true"}}],
            "record 0: read as CounterFact: requested_rewrite: field 'target_true.str' is missing",
        ),
        ([{**OWN, "kind": "odd"}], "field 'kind'"),
        ([{**OWN, "relation_words": ["queen"]}], "record 0: .*relation_words: 'queen' is not in"),
        ([{**OWN, "domian": "x"}], "unknown field 'domian': did you mean 'domain'"),
        ([{k: v for k, v in OWN.items() if k != "object"} | {"objct": 1}], "mean 'object'"),
        ([3], "record 0: expected an object, got int"),
        ({"a": 1}, "f.json, line 1: fields 'a' fit no known format"),
        (3, "f.json: neither JSON nor a table"),
        ({"subject": {"0": "Arle"}}, "the records are in columns, as pandas writes them"),
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
    with pytest.raises(RecordError, match=r"f.jsonl.xz: truncated or damaged after line \d+"):
        load_facts(archive)
    with pytest.raises(RecordError, match=r"cannot be read: embedded null byte"):
        load_facts("no\0thing.json")
    with pytest.raises(RecordError, match=r"cannot be read: File name too long"):
        load_facts("a" * 5000)
    with pytest.raises(RecordError, match=r"nothing.json: cannot be read: No such file"):
        load_facts(tmp_path / "nothing.json")


def test_a_subject_inside_another_word_is_not_taken_for_the_subject() -> None:
    assert cut_out("The romance of Rom and the rom", "Rom") == "The romance of {} and the rom"
    assert cut_out("Manhattan, where the Man lives", "Man") == "Manhattan, where the {} lives"
    with pytest.raises(RecordError, match="only inside a longer word of"):
        cut_out("Manhattan", "Man")


@pytest.mark.parametrize(
    ("prompt", "subject", "told"),
    [
        ("巴黎所在的国家是", "巴黎", "{}所在的国家是"),
        ("フランスの首都は", "フランス", "{}の首都は"),
        ("프랑스의 수도는", "프랑스", "{}의 수도는"),
        ("เมืองหลวงของประเทศไทยคือ", "ประเทศไทย", "เมืองหลวงของ{}คือ"),
        ("파리는", "리", "the subject '리' is only inside a longer word of '파리는'"),
        ("巴黎的首都是", "东京", "the subject '东京' is not in '巴黎的首都是'"),
        ("东京和京都在", "京", "the subject '京' is in '东京和京都在' 2 times"),
        ("한국어는 한국의", "한국", "2 times: without spaces between words, kedit cannot tell"),
    ],
)
def test_a_subject_in_a_script_where_words_touch(prompt: str, subject: str, told: str) -> None:
    if "{}" in told:
        assert cut_out(prompt, subject) == told
    else:
        with pytest.raises(RecordError, match=told):
            cut_out(prompt, subject)


def test_what_a_file_is_its_content_tells(tmp_path: Path) -> None:
    two, wanted = [OWN, {**OWN, "subject": "Lyon"}], ["Arle", "Lyon"]
    texts = {
        "an array": json.dumps(two, indent=1),
        "lines": "\n\n".join(map(json.dumps, two)),
        "by ids": json.dumps({"a": two[0], "b": two[1]}, indent=1),
        "by ids, on a line": json.dumps({"0": two[0], "1": two[1]}),
        "a table": "subject,relation,object,template\n"
        + "\n".join(",".join(one.values()) for one in two),
    }
    file = tmp_path / "f.json"
    file.write_text(json.dumps(OWN, indent=1), encoding="utf-8")  # a single one, over lines
    assert load_facts(file)[0].subject == "Arle"
    for text in texts.values():
        for suffix in (".json", ".jsonl", ".JSON", ".csv", ".txt.xz", ""):
            for pack in (bytes, lzma.compress, gzip.compress):
                file = tmp_path / f"f{suffix}"
                file.write_bytes(pack(b"\xef\xbb\xbf \n" + text.encode()))
                assert [fact.subject for fact in load_facts(file)] == wanted


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"PK\x03\x04 and more", "f.json is a zip archive .as .xlsx is.: unpack it, or save the s"),
        ("[]".encode("utf-16"), "f.json is in UTF-16: save it as UTF-8"),
        ("[1, 2, 3]".encode("utf-16-le"), "f.json is in UTF-16: save it as UTF-8"),
        (b"PAR1 and more", "f.json is a Parquet file: save it as JSON Lines"),
        (b"BZh9 and more", "is compressed by bzip2: unpack it"),
    ],
)
def test_what_is_no_text_is_refused_with_what_to_do(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(raw)
    with pytest.raises(RecordError, match=message):
        load_facts(file)


def test_a_bad_record_costs_itself(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    bad = json.dumps({**OWN, "template": "no place here"})
    lines.write_text("\n".join([json.dumps(OWN), bad, "{", json.dumps(OWN)]), encoding="utf-8")
    first, second, third, last = read_facts(lines)
    assert first == last
    assert isinstance(second, Skipped) and "exactly one {}" in second.reason
    assert str(third) == (
        "f.jsonl, line 3: broken JSON: Expecting property name enclosed in double quotes at "
        "character 2"
    )


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
    array = written(tmp_path / "f.json", [OWN, OWN])
    assert [place for place, _ in records(array)] == ["f.json, record 0", "f.json, record 1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
ANY_CHUNK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY_CHUNK
@given(st.lists(JSON), st.sampled_from([None, 1, "\t"]), st.booleans(), st.integers(1, 40))
def test_an_array_is_streamed_as_json_reads_it(
    tmp_path: Path, monkeypatch, values: list, indent: int | str | None, ascii: bool, chunk: int
) -> None:
    monkeypatch.setattr(read, "CHUNK", chunk)
    file = tmp_path / "f.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    file.write_bytes(text.encode("utf-8", "replace") + b" \n")
    wanted = json.loads(file.read_bytes())
    got = [record for _, record in records_and_errors(file)]
    assert len(got) == len(wanted)
    for streamed, value in zip(got, wanted, strict=True):
        assert streamed == value if isinstance(value, dict) else isinstance(streamed, RecordError)


@ANY_CHUNK
@given(st.text('[]{},:"1e-. \nntrue', max_size=30), st.integers(1, 8))
def test_what_json_refuses_is_refused_as_an_array(
    tmp_path: Path, monkeypatch, text: str, chunk: int
) -> None:
    monkeypatch.setattr(read, "CHUNK", chunk)
    file, text = tmp_path / "f.json", f" [{text}"
    file.write_text(text, encoding="utf-8")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, list):
        assert len(list(records_and_errors(file))) == len(whole)
    else:
        with pytest.raises(RecordError, match=r"f\.json.*broken JSON"):
            list(records_and_errors(file))


def test_an_array_never_lies_in_memory_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(read, "CHUNK", 1000)
    file = written(tmp_path / "f.json", [{**OWN, "object": f"{n:0200}"} for n in range(5000)])
    tracemalloc.start()
    try:
        assert sum(1 for _ in records(file)) == 5000
        assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 5
        tracemalloc.reset_peak()
        assert len(json.loads(file.read_bytes())) == 5000  # the control: this does hold it
        assert tracemalloc.get_traced_memory()[1] > file.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"a": 1}, {"a": 2}',
            r"f.json, record 1: broken JSON: expected ',' or '\]' after the value",
        ),
        ('[{"a": 1}, {"a": 2 "b": 3}]', "f.json, record 1: broken JSON: Expecting ',' delimiter"),
        ('[{"a": 1},]', "f.json, record 1: broken JSON"),
        ('[{"a": 1}] [', "f.json: broken JSON: there is text after the array"),
        ("[" + "9" * 5000 + "]", "f.json, record 0: broken JSON"),
        ("[" * 100_000, "f.json, record 0: broken JSON"),
    ],
)
def test_a_broken_array_is_named_and_ends_the_reading(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "f.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=message):
        list(records_and_errors(file))


def test_a_broken_line_does_not_end_the_reading(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    lines.write_text(f"{json.dumps(OWN)}\n{{broken\n3\n{'9' * 5000}\n{{}}\n", encoding="utf-8")
    got = [record for _, record in records_and_errors(lines)]
    assert got[0] == OWN
    assert [str(error)[:28] for error in got[1:4]] == [
        "f.jsonl, line 2: broken JSON",
        "f.jsonl, line 3: expected an",
        "f.jsonl, line 4: broken JSON",
    ]
    assert got[4] == {}
    with pytest.raises(RecordError, match="line 2: broken JSON"):
        list(records(lines))


@pytest.mark.parametrize("form", ["f.jsonl", "f.json"])
@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_torn_archive_is_named_behind_what_it_held(
    tmp_path: Path, monkeypatch, form: str, suffix: str, compress
) -> None:
    monkeypatch.setattr(read, "CHUNK", 1000)
    file = tmp_path / f"{form}{suffix}"
    many = [{**OWN, "object": f"{n * n * 7919}"} for n in range(6000)]
    text = json.dumps(many) if form == "f.json" else "\n".join(map(json.dumps, many))
    whole = compress(text.encode())
    file.write_bytes(whole)
    assert sum(1 for _ in records(file)) == len(many)
    file.write_bytes(whole[:-2000])
    with pytest.raises(
        RecordError, match=rf"{file.name}: truncated or damaged after (line|record) \d+"
    ):
        list(records_and_errors(file))
    file.write_bytes(whole[:20] + b"\xff" * 40 + whole[60:])
    with pytest.raises(RecordError, match=file.name):
        list(records(file))


def test_text_that_is_not_utf8_is_named_and_a_byte_order_mark_is_not_minded(tmp_path: Path) -> None:
    lines = tmp_path / "f.jsonl"
    lines.write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(RecordError, match=r"f.jsonl: not UTF-8 after the start"):
        list(records(lines))
    for file, text in ((lines, '{"a": 1}'), (tmp_path / "f.json", '[{"a": 1}]')):
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [record for _, record in records(file)] == [{"a": 1}]
