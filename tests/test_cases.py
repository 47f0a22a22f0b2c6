"""Edit benchmarks: what each form becomes, how a bad record is refused, and how a run goes on."""

import copy
import json
import lzma
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit import toy
from kedit.data import FORMS, load_cases, read_cases
from kedit.data.fields import Skipped
from kedit.errors import InputError, RecordError
from kedit.facts import NO_RELATION, EditCase, Probe

DATA = Path(os.environ.get("KEDIT_DATA", "../shared/data"))

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} spoke the language",
        "relation_id": "P103",
        "target_new": {"str": "Danish"},
        "target_true": {"str": "Greek"},
        "subject": "Ada Alder",
    },
    "paraphrase_prompts": ["Rain fell. Ada Alder, a native ", "Ada Alder, speaker of"],
    "neighborhood_prompts": ["Bo Birch spoke the language"],
    "attribute_prompts": ["Cy Cedar spoke the language"],
    "generation_prompts": ["Ada Alder was born in"],
}
# as the authors' code reads it: no removal paraphrases, no neighbours, no kinds
AUTHORS = {
    **COUNTERFACT,
    "requested_rewrite": {
        **COUNTERFACT["requested_rewrite"],
        "relation": {"strs": ["mother tongue", "native language"]},
        "add_rel_prompt": "The relation between {} and Danish is",
        "rm_rel_prompt": "The relation between {} and Greek is",
    },
    "rel_prompts": ["What links Ada Alder to Danish? It is the"],
}
OURS = {
    **AUTHORS,
    "requested_rewrite": {
        **AUTHORS["requested_rewrite"],
        "relation": {"id": "P103", "kind": "asymmetric", "strs": ["mother tongue", "first one"]},
    },
    "rm_rel_prompts": ["What links Ada Alder to Greek? It is the"],
    "rel_neighborhood": [{"subject": "Bo Birch", "prompt": "The relation between Bo and Greek is"}],
    "rel_other_objects": [
        {"object": "Norse", "prompt": "The relation between Ada Alder and Norse is"}
    ],
    "other_relations": [{"relation_id": "P19", "prompt": "Ada Alder was born in"}],
    "rel_other": [
        {
            "relation_id": "P19",
            "label": "birthplace",
            "object": "Arle",
            "prompt": "The relation between Ada Alder and Arle is",
        }
    ],
    "portability": {"prompt": "Ada Alder's words come from", "answer": "Denmark"},
    "lacks": ["a wish"],
    "notes": [],
}
ZSRE = {
    "subject": "Ada Alder",
    "src": "What did Ada Alder speak?",
    "pred": "Latin",
    "alt": "Danish",
    "answers": ["Greek"],
    "rephrase": "Which language was Ada Alder's?",
    "loc": "nq question: who sang the song",
    "loc_ans": "Bo Birch",
    "portability": {"New Question": "Whence come Ada Alder's words?", "New Answer": "Denmark"},
}
EASYEDIT = {
    "case_id": 7,
    "prompt": "Ada Alder spoke the language",
    "subject": "Ada Alder",
    "ground_truth": "Greek",
    "target_new": "Danish",
    "rephrase_prompt": "Ada Alder, a native",
    "locality_prompt": "Bo Birch spoke the language",
    "locality_ground_truth": "Greek",
}
EDIT = {
    "case_id": 7,
    "subject": "Ada Alder",
    "prompt_template": "{} spoke the language",
    "relation_id": "P103",
    "ground_truth": "Greek",
    "target_new": "Danish",
}
GOOD: dict[str, dict[str, Any]] = {
    "CounterFact": COUNTERFACT,
    "the authors' RaKE": AUTHORS,
    "our RaKE": OURS,
    "zsRE": ZSRE,
    "EasyEdit": EASYEDIT,
    "edits": EDIT,
}


def written(folder: Path, *records: object, name: str = "f.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return file


def changed(record: dict[str, Any], path: str, value: object = ...) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced, or without it."""
    record = copy.deepcopy(record)
    *outer, last = path.split(".")
    inner = record
    for key in outer:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return record


def the_case(folder: Path, record: object) -> EditCase:
    (case,) = load_cases(written(folder, record))
    return case


def of(case: EditCase, perspective: str, group: str) -> list[tuple[str, str, str]]:
    return [
        (probe.prompt, probe.answer, probe.rival)
        for probe in case.probes
        if (probe.perspective, probe.group) == (perspective, group)
    ]


@pytest.mark.parametrize("form", GOOD)
def test_every_form_gives_the_same_edit(tmp_path: Path, form: str) -> None:
    case = the_case(tmp_path, GOOD[form])
    entity = case.request("entity")
    assert (entity.fact.subject, entity.fact.object, entity.target) == (
        "Ada Alder", "Greek", "Danish",
    )  # fmt: skip
    assert of(case, "entity", "efficacy") == [(entity.fact.prompt, "Danish", "Greek")]
    assert case.probes[0] == Probe("entity", "efficacy", entity.fact.prompt, "Danish", "Greek")
    assert entity.fact.relation.id == ("" if form in ("zsRE", "EasyEdit") else "P103")


def test_counterfact_has_the_entity_side(tmp_path: Path) -> None:
    case = the_case(tmp_path, COUNTERFACT)
    assert case.id == "7"
    assert of(case, "entity", "paraphrase") == [
        ("Rain fell. Ada Alder, a native", "Danish", "Greek"),  # without the blank at its end
        ("Ada Alder, speaker of", "Danish", "Greek"),
    ]
    neighbours = [("Bo Birch spoke the language", "Greek", "Danish")]
    assert of(case, "entity", "neighborhood") == neighbours
    assert case.generation == ("Ada Alder was born in",)
    assert {probe.perspective for probe in case.probes} == {"entity"}
    assert not any("Cy Cedar" in probe.prompt for probe in case.probes)  # attribute_prompts
    assert case.lacks == (
        "other relations",
        "portability",
        "relation side (experiments.build_rake makes it)",
    )
    assert case.entity.fact.relation.kind == "asymmetric"
    with pytest.raises(RecordError, match="record 7 has no relation side"):
        case.request("relation")


def test_our_rake_has_both_sides(tmp_path: Path) -> None:
    case = the_case(tmp_path, OURS)
    request = case.request("relation")
    assert (request.perspective, request.mentioned, request.target) == (
        "relation", "Danish", "mother tongue",
    )  # fmt: skip
    assert request.fact.object == NO_RELATION
    assert request.fact.prompt == "The relation between Ada Alder and Danish is"
    assert request.removal is not None
    assert request.removal.object == "mother tongue"
    assert request.mentioned_by_removal == "Greek"
    assert request.removal.prompt == "The relation between Ada Alder and Greek is"
    assert request.fact.relation == case.entity.fact.relation
    assert request.fact.relation.aliases == ("first one",)
    name, none = "mother tongue", NO_RELATION
    assert of(case, "relation", "efficacy") == [(request.fact.prompt, name, none)]
    assert of(case, "relation", "paraphrase") == [(OURS["rel_prompts"][0], name, none)]
    assert of(case, "relation", "removal") == [(request.removal.prompt, none, name)]
    assert of(case, "relation", "removal paraphrase") == [(OURS["rm_rel_prompts"][0], none, name)]
    near = "The relation between Bo and Greek is"
    assert of(case, "relation", "neighborhood") == [(near, name, none)]
    third = "The relation between Ada Alder and Norse is"
    assert of(case, "relation", "other objects") == [(third, "", name)]
    other = "The relation between Ada Alder and Arle is"
    assert of(case, "relation", "other relations") == [(other, "birthplace", name)]
    assert of(case, "entity", "other relations") == [("Ada Alder was born in", "", "Danish")]
    assert of(case, "entity", "portability") == [("Ada Alder's words come from", "Denmark", "")]
    for probe in case.probes:
        if probe.perspective == "entity" or probe.group == "other objects":
            assert (probe.label, probe.aliases) == ("", ())
        elif probe.group == "other relations":
            assert probe.label == "birthplace"
            assert "place of birth" in probe.aliases  # our table knows it by this label
        else:
            assert probe.label == name
            assert probe.aliases == ("first one",)
    assert case.lacks == ("a wish",)


def test_the_authors_rake_is_read_as_it_is(tmp_path: Path) -> None:
    case = the_case(tmp_path, AUTHORS)
    assert len(of(case, "relation", "paraphrase")) == 1
    assert of(case, "relation", "removal") != []
    assert case.request("relation").fact.relation.kind == "asymmetric"  # from our table
    assert case.lacks == (
        "other relations",
        "portability",
        "removal paraphrases",
        "relation neighbours",
        "other objects",
        "other relations known to the data",
    )


def test_zsre_is_questions(tmp_path: Path) -> None:
    case = the_case(tmp_path, ZSRE)
    assert case.id == "line 1"
    assert case.entity.fact.template == "What did {} speak?"
    assert of(case, "entity", "paraphrase") == [(ZSRE["rephrase"], "Danish", "Greek")]
    assert of(case, "entity", "neighborhood") == [("who sang the song?", "Bo Birch", "")]
    asked = [("Whence come Ada Alder's words?", "Denmark", "")]
    assert of(case, "entity", "portability") == asked
    assert the_case(tmp_path, changed(ZSRE, "answers")).entity.fact.object == "Latin"
    lacks = the_case(tmp_path, changed(ZSRE, "portability")).lacks
    assert "portability" in lacks


def test_easyedits_tests_are_optional(tmp_path: Path) -> None:
    case = the_case(tmp_path, EASYEDIT)
    assert case.entity.fact.template == "{} spoke the language"
    assert of(case, "entity", "paraphrase") == [("Ada Alder, a native", "Danish", "Greek")]
    neighbours = [("Bo Birch spoke the language", "Greek", "Danish")]
    assert of(case, "entity", "neighborhood") == neighbours
    unknown = the_case(tmp_path, changed(EASYEDIT, "locality_ground_truth"))
    assert of(unknown, "entity", "neighborhood") == [(neighbours[0][0], "", "Danish")]
    bare = changed(changed(EASYEDIT, "locality_prompt"), "rephrase_prompt")
    assert {"paraphrases", "neighborhood prompts"} <= set(the_case(tmp_path, bare).lacks)


BAD = [
    ("CounterFact", "requested_rewrite.target_new", ..., "field 'requested_rewrite.target_new.str"),
    ("CounterFact", "requested_rewrite.target_new.str", "", "target_new.str': a str is wanted"),
    ("CounterFact", "requested_rewrite.target_new.str", "Greek", "'Greek' is what the fact says"),
    ("CounterFact", "requested_rewrite.prompt", "no gap", "requested_rewrite: .*exactly one {}"),
    ("CounterFact", "requested_rewrite.prompt", "{} and {}", "exactly one {}"),
    ("CounterFact", "requested_rewrite.prompt", "{} ", "has no words for the relation"),
    ("CounterFact", "requested_rewrite.subject", "\ud800", "field 'subject': a str is wanted"),
    ("CounterFact", "case_id", ..., "field 'case_id' is missing"),
    ("CounterFact", "case_id", True, "field 'case_id': a int is wanted, got True"),
    ("CounterFact", "paraphrase_prompts", "one", "'paraphrase_prompts': a list is wanted"),
    ("CounterFact", "neighborhood_prompts", [" "], "'neighborhood_prompts.0': a str is wanted"),
    (
        "our RaKE",
        "requested_rewrite.relation",
        "tongue",
        "requested_rewrite: field 'relation': a d",
    ),
    ("our RaKE", "requested_rewrite.relation.strs", [], "at least one name is wanted"),
    ("our RaKE", "requested_rewrite.relation.kind", "odd", "'relation.kind': one of .* got 'odd'"),
    ("our RaKE", "requested_rewrite.relation.kind", [], "'relation.kind': one of"),
    ("our RaKE", "requested_rewrite.rm_rel_prompt", ..., "field 'rm_rel_prompt' is missing"),
    ("our RaKE", "requested_rewrite.add_rel_prompt", "{} is", "'Danish' is not in '{} is'"),
    ("our RaKE", "requested_rewrite.add_rel_prompt", "Danish {} {} is", "exactly one {}"),
    (
        "our RaKE",
        "rel_neighborhood",
        [{"subject": "Bo"}],
        "rel_neighborhood.0: field 'prompt' is m",
    ),
    ("our RaKE", "rel_neighborhood", ["Bo"], "'rel_neighborhood.0': a dict is wanted"),
    ("our RaKE", "rel_other", [{"label": "x", "prompt": "y"}], "rel_other.0: field 'relation_id'"),
    ("our RaKE", "portability", {"prompt": "Who?"}, "portability: field 'answer' is missing"),
    ("zsRE", "subject", "Nobody", "field 'src': the subject 'Nobody' is not in"),
    ("zsRE", "loc_ans", ..., "field 'loc_ans' is missing"),
    ("zsRE", "answers", [3], "field 'answers.0': a str is wanted"),
    ("zsRE", "alt", "", "field 'alt': a str is wanted, got ''"),
    ("EasyEdit", "subject", "Nobody", "field 'prompt': the subject 'Nobody' is not in"),
    ("EasyEdit", "ground_truth", ["Greek"], "field 'ground_truth': a str is wanted"),
    ("edits", "prompt_template", "no gap", "exactly one {}"),
    ("edits", "relation_id", ..., "field 'relation_id' is missing"),
]


@pytest.mark.parametrize(("form", "path", "value", "message"), BAD)
def test_a_bad_record_is_named_or_skipped(
    tmp_path: Path, form: str, path: str, value: object, message: str
) -> None:
    good, bad = GOOD[form], changed(GOOD[form], path, value)
    file = written(tmp_path, good, bad, changed(good, "case_id", 8), "no record")
    with pytest.raises(RecordError, match=rf"f.jsonl, line 2: .*{message}"):
        load_cases(file)
    kept = [one for one in read_cases(file) if isinstance(one, EditCase)]
    first, last = [one for one in read_cases(file) if isinstance(one, Skipped)]
    assert len(kept) == 2
    assert first.place == "f.jsonl, line 2"
    assert not first.reason.startswith("f.jsonl")
    assert last == Skipped("f.jsonl, line 4", "an object is wanted, got str")


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    file = written(tmp_path, EDIT, changed(EDIT, "case_id", "7"))
    with pytest.raises(RecordError, match=r"line 2: the id '7' is taken by f.jsonl, line 1"):
        load_cases(file)
    assert [type(one) for one in read_cases(file)] == [EditCase, Skipped]


def test_the_form_is_that_of_the_first_record_that_has_one(tmp_path: Path) -> None:
    file = written(tmp_path, {"what": 1}, COUNTERFACT, changed(OURS, "case_id", 8), ZSRE)
    unknown, first, second, other = read_cases(file)
    assert isinstance(unknown, Skipped)
    assert "fields 'what' are of no form that is known: RaKE, CounterFact" in unknown.reason
    assert isinstance(first, EditCase) and isinstance(second, EditCase)
    assert second.relation is None  # RaKE read as CounterFact
    assert isinstance(other, Skipped)
    assert "'requested_rewrite' is missing" in other.reason


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no records of a form that is known: RaKE, CounterFact, zsRE"),
        (["x"], "line 1: broken JSON|line 1: an object"),
        ([{}], "line 1: fields none are of no form that is known"),
    ],
)
def test_a_file_of_no_known_form_is_refused(tmp_path: Path, lines: list, message: str) -> None:
    file = written(tmp_path, *lines)
    with pytest.raises(RecordError, match=message):
        load_cases(file)
    with pytest.raises(RecordError, match="holds no records of a form that is known"):
        list(read_cases(file))
    with pytest.raises(RecordError, match=r"nothing.json: cannot be read"):
        load_cases(tmp_path / "nothing.json")


def test_what_was_read_before_a_file_breaks_off_is_not_lost(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({**EDIT, "case_id": n, "x": n * n * 7919}) for n in range(3000))
    torn = tmp_path / "f.jsonl.xz"
    torn.write_bytes(lzma.compress(text.encode())[:-1000])
    got = []
    with pytest.raises(RecordError, match="broken off after line"):
        for one in read_cases(torn):
            got.append(one)
    assert len(got) > 100
    assert all(isinstance(one, EditCase) for one in got)


def test_the_toys_cases_are_the_toys() -> None:
    assert load_cases("toy") == toy.cases()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
TEXTS = st.sampled_from(
    ["", " ", "{}", "{", "Greek", "Danish", "Ada Alder", "\ud800", "None", "x "]
)


def paths(value: object, before: str = "") -> list[str]:
    if not isinstance(value, dict):
        return []
    return [
        path
        for key, inner in value.items()
        if "." not in key
        for path in (f"{before}{key}", *paths(inner, f"{before}{key}."))
    ]


@st.composite
def mutated(draw: st.DrawFn, forms: tuple[str, ...] = tuple(GOOD)) -> dict[str, Any]:
    """A good record with one to three of its values removed or replaced by any others."""
    record = GOOD[draw(st.sampled_from(forms))]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(record)))
        record = changed(record, path, draw(st.just(...) | TEXTS | st.lists(TEXTS) | JSON))
        if not record:
            break
    return record


@given(st.one_of(mutated(), st.dictionaries(st.text(max_size=5), JSON)))
def test_any_record_becomes_a_case_or_a_record_error_in_every_form(record: dict) -> None:
    for form in FORMS:
        try:
            case = form.parse("f.jsonl, line 1", record)
        except RecordError as error:
            assert str(error).startswith("f.jsonl, line 1: ")
        else:
            assert isinstance(case, EditCase)
            hash(case)  # nothing of another type came in


@given(st.one_of(st.binary(max_size=200), st.lists(mutated() | JSON, max_size=3)))
def test_garbage_is_refused_with_an_input_error_or_read(tmp_path_factory, content) -> None:
    for suffix in (".json", ".jsonl", ".jsonl.gz"):
        file = tmp_path_factory.mktemp("garbage") / f"f{suffix}"
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        file.write_bytes(raw)
        try:
            got = list(read_cases(file))
        except InputError as error:
            assert file.name in str(error)
        else:
            assert all(isinstance(one, EditCase | Skipped) for one in got)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not here: set KEDIT_DATA")
@pytest.mark.parametrize(
    ("name", "n_cases", "reasons"),
    [
        ("counterfact_1100.jsonl.xz", 1100, {}),
        ("zsre_mend_eval_1037.json", 1008, {"is what the fact says already": 29}),
        (
            "zsre_mend_train_1000.json",
            981,
            {"is what the fact says already": 17, "a str is wanted, got ''": 2},
        ),
    ],
)
def test_real_files_are_read(name: str, n_cases: int, reasons: dict[str, int]) -> None:
    read = list(read_cases(DATA / name))
    skipped = [one for one in read if isinstance(one, Skipped)]
    assert len(read) - len(skipped) == n_cases
    counted = Counter(
        reason for one in skipped for reason in reasons if one.reason.endswith(reason)
    )
    assert counted == reasons
    assert len(skipped) == sum(reasons.values())
