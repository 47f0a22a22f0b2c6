"""Edit benchmarks: what each form becomes, how a bad record is refused, and how a run goes on."""

import copy
import csv
import json
import lzma
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.data import load_cases, load_facts, rake, read_cases
from kedit.data.fields import Skipped
from kedit.data.forms import FORMS
from kedit.data.relations import STATEMENT
from kedit.data.written import record_of
from kedit.errors import InputError, RecordError
from kedit.facts import NO_RELATION, EditCase, Fact, Probe
from kedit.models import toy
from kedit.studies.splits import lines_of

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
KNOWEDIT = {
    "subject": "Ada Alder",
    "prompt": "Ada Alder spoke the language",
    "target_new": "Danish",
    "ground_truth": [["Greek", "Hellenic"]],
    "rephrase": ["Ada Alder, a native", "The tongue of Ada Alder is"],
    "portability": {
        "Reasoning": [{"prompt": "Her words come from", "ground_truth": [["Denmark", "DK"]]}],
        "Subject_Aliasing": [],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Ada Alder was born in", "ground_truth": [["Arle"]]}],
        "Forgetfulness": [{"prompt": "Bo spoke the language", "ground_truth": "Danish"}],
    },
}
MQUAKE = {
    "case_id": 7,
    "requested_rewrite": [
        {**COUNTERFACT["requested_rewrite"], "question": "Which language did Ada Alder speak?"},
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Brock"},
            "target_true": {"str": "Arle"},
            "subject": "Danish",
        },
    ],
    "questions": ["Of what are those citizens whose tongue Ada Alder speaks?"],
    "answer": "Arle",
    "new_answer": "Brock",
    "new_answer_alias": ["Brook"],
}
OWN = {
    "subject": "Ada Alder",
    "relation": "mother tongue",
    "relation_id": "P103",
    "object": "Greek",
    "target": "Danish",
    "template": "{} spoke the language",
    "paraphrases": ["Ada Alder, a native", "The tongue of {} is"],
    "neighbours": [
        "Cy Cedar",
        {"subject": "Bo Birch", "object": "Greek"},
        {"prompt": "Ada Alder was born in", "answer": "Arle"},
        {"prompt": "Bo was born in", "answer": "Danish"},
    ],
    "id": 3,
}
RELATION = {
    "name": "mother tongue",
    "prompt_templates": ["{} spoke the language"],
    "prompt_templates_zs": ["The tongue of {} is"],
    "properties": {"domain_name": "person", "symmetric": False},
    "samples": [
        {"subject": "Ada Alder", "object": "Greek"},
        {"subject": "Bo Birch", "object": "Danish"},
    ],
}
GOOD: dict[str, dict[str, Any]] = {
    "CounterFact": COUNTERFACT,
    "the authors' RaKE": AUTHORS,
    "our RaKE": OURS,
    "zsRE": ZSRE,
    "EasyEdit": EASYEDIT,
    "edits": EDIT,
    "KnowEdit": KNOWEDIT,
    "MQuAKE": MQUAKE,
    "own": OWN,
    "a relation": RELATION,
}
GOOD["kedit's own"] = record_of(rake.parse("a record", OURS))
SEVERAL = ("a relation",)  # one record makes several cases


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
    return load_cases(written(folder, record))[0]


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
    assert of(case, "entity", "efficacy")[0] == (entity.fact.prompt, "Danish", "Greek")
    assert case.probes[0] == Probe("entity", "efficacy", entity.fact.prompt, "Danish", "Greek")
    unnamed = form in ("zsRE", "EasyEdit", "KnowEdit")
    told = "mother tongue" if form == "a relation" else "P103"
    assert entity.fact.relation.id == ("" if unnamed else told)


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


def test_knowedits_probes_are_those_of_its_kinds(tmp_path: Path) -> None:
    case = the_case(tmp_path, KNOWEDIT)
    assert case.id == "line 1" and case.relation is None
    paraphrases = [prompt for prompt, _, _ in of(case, "entity", "paraphrase")]
    assert paraphrases == KNOWEDIT["rephrase"]
    assert of(case, "entity", "other relations") == [("Ada Alder was born in", "Arle", "Danish")]
    assert of(case, "entity", "neighborhood") == [("Bo spoke the language", "Danish", "")]
    (further,) = [probe for probe in case.probes if probe.group == "portability"]
    assert (further.prompt, further.answer) == ("Her words come from", "Denmark")
    assert further.aliases == ("DK",)
    named = the_case(tmp_path, {**KNOWEDIT, "relation": "mother tongue"})
    assert named.request("relation").target == "mother tongue"


def test_the_edits_of_a_record_of_mquake_are_made_together(tmp_path: Path) -> None:
    case = the_case(tmp_path, MQUAKE)
    assert [one.target for one in case.requests("entity")] == ["Danish", "Brock"]
    assert [one.mentioned for one in case.requests("relation")] == ["Danish", "Brock"]
    assert case.request("relation") == case.requests("relation")[0]
    asked = [probe for probe in case.probes if probe.group == "portability"]
    assert [(one.answer, one.rival, one.aliases) for one in asked] == [
        ("Brock", "Arle", ("Brook",))
    ]
    assert len(of(case, "entity", "efficacy")) == len(of(case, "relation", "removal")) == 2
    first, second = MQUAKE["requested_rewrite"]
    rewrites = [{**first, "relation_id": "P99999"}, second]
    unnamed = the_case(tmp_path, {**MQUAKE, "requested_rewrite": rewrites})
    assert unnamed.relation is None and len(unnamed.requests("entity")) == 2
    facts = load_facts(written(tmp_path, MQUAKE))
    assert [(fact.subject, fact.object) for fact in facts] == [
        ("Ada Alder", "Greek"), ("Danish", "Arle"),
    ]  # fmt: skip


def test_a_fact_of_ones_own_is_edited_from_both_sides(tmp_path: Path) -> None:
    case = the_case(tmp_path, OWN)
    assert case.id == "3"
    assert of(case, "entity", "paraphrase") == [
        ("Ada Alder, a native", "Danish", "Greek"),
        ("The tongue of Ada Alder is", "Danish", "Greek"),
    ]
    assert of(case, "entity", "neighborhood") == [
        ("Cy Cedar spoke the language", "", "Danish"),  # what the unedited model says
        ("Bo Birch spoke the language", "Greek", "Danish"),
        ("Bo was born in", "Danish", ""),  # nothing is weighed against itself
    ]
    assert of(case, "entity", "other relations") == [("Ada Alder was born in", "Arle", "Danish")]
    request = case.request("relation")
    assert request.fact.prompt == STATEMENT.filled("Ada Alder", "Danish")
    assert request.removal and request.removal.prompt == STATEMENT.filled("Ada Alder", "Greek")
    near = STATEMENT.filled("Bo Birch", "Greek")
    assert of(case, "relation", "neighborhood") == [(near, "mother tongue", NO_RELATION)]
    assert case.entity.fact == load_facts(written(tmp_path, OWN))[0]
    bare = {name: OWN[name] for name in ("subject", "relation", "object", "template")}
    alone = the_case(tmp_path, {**bare, "target_new": "Danish", "kind": None, "domain": None})
    assert alone.id == "line 1" and alone.request("relation").target == "mother tongue"
    assert {probe.group for probe in alone.probes if probe.perspective == "entity"} == {"efficacy"}
    year = the_case(tmp_path, {**bare, "object": 1969, "target": 1945.0})
    assert (year.entity.fact.object, year.entity.target) == ("1969", "1945")


def test_a_table_makes_what_the_records_make(tmp_path: Path) -> None:
    lists = {"paraphrases": OWN["paraphrases"], "neighbours": ["Cy Cedar", "Bo Birch"]}
    wanted = the_case(tmp_path, {**OWN, **lists})
    plain = {name: OWN[name] for name in OWN if name not in lists} | {"comment": 'a, "b"\nc'}
    for delimiter in ",;\t":
        for columns in (
            {name: " | ".join(texts) for name, texts in lists.items()},
            {f"{name[:-1]}_{n}": text for name, own in lists.items() for n, text in enumerate(own)},
        ):
            file = tmp_path / "f.txt"
            with file.open("w", encoding="utf-8-sig", newline="") as text:
                row = plain | columns | {"domain": ""}
                writer = csv.DictWriter(text, list(row), delimiter=delimiter)
                writer.writeheader()
                writer.writerows([row, {**row, "id": 4}])
            first, second = load_cases(file)
            assert first == wanted and second.id == "4"
            assert load_facts(file) == [wanted.entity.fact] * 2


def test_a_row_of_too_many_cells_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    rows = ["Subject, relation,object,target,template", "A,r,o,t,{} is", "A,r,o,t,{} is, so", ""]
    file.write_text("\n".join([*rows, "B,r,o,t,{} is"]), encoding="utf-8")
    first, bad, last = read_cases(file)
    assert isinstance(first, EditCase) and isinstance(last, EditCase)
    assert (first.id, last.id) == ("line 2", "line 5")
    assert isinstance(bad, Skipped) and bad.location == "f.csv, line 3"
    assert "6 cells, but the first line names 5 columns" in bad.reason


def test_a_relation_file_gives_another_object_as_target_by_seed(tmp_path: Path) -> None:
    file = written(tmp_path, RELATION)
    cases = load_cases(file)
    assert [(case.entity.fact.object, case.entity.target) for case in cases] == [
        ("Greek", "Danish"), ("Danish", "Greek"),
    ]  # fmt: skip
    assert of(cases[0], "entity", "paraphrase") == [
        ("The tongue of Ada Alder is", "Danish", "Greek")
    ]
    assert cases[0].request("relation").target == "mother tongue" and cases == load_cases(file)
    facts = load_facts(file)
    assert len(facts) == 4 and facts[0].relation.domain == "person"
    many = [{"subject": f"S{n}", "object": f"O{n % 3}"} for n in range(9)] + [{"subject": "x"}]
    got = list(read_cases(written(tmp_path, changed(RELATION, "samples", many))))
    assert [str(one) for one in got if isinstance(one, Skipped)] == [
        "f.jsonl, line 1: samples.9: field 'object' is missing"
    ]
    for case in (one for one in got if isinstance(one, EditCase)):
        assert case.entity.target != case.entity.fact.object
        assert len(of(case, "entity", "neighborhood")) == 2
    assert len({case.entity.target for case in got if isinstance(case, EditCase)}) == 3
    with pytest.raises(
        RecordError, match="another object of the relation, but there is none .*samples: 1"
    ):
        load_cases(written(tmp_path, changed(RELATION, "samples", many[:1])))


def test_fields_that_nothing_is_made_of_are_said_once_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kedit")
    notes = {"note": "x", "source": None, "comment": 3, "colour": "red", "objects": [], "id": [1]}
    file = written(tmp_path, {**OWN, **notes}, {**OWN, **notes, "colour": "blue", "case_id": 1})
    assert [case.id for case in load_cases(file)] == ["line 1", "1"]
    (record,) = caplog.records
    assert record.getMessage() == f"{file}: kedit ignores the fields colour, objects"


BAD = [
    ("CounterFact", "requested_rewrite.target_new", ..., "field 'requested_rewrite.target_new.str"),
    (
        "CounterFact",
        "requested_rewrite.target_new.str",
        "",
        "target_new.str': expected non-empty text",
    ),
    ("CounterFact", "requested_rewrite.target_new.str", "Greek", "'Greek' is what the fact says"),
    ("CounterFact", "requested_rewrite.prompt", "no gap", "requested_rewrite: .*exactly one {}"),
    ("CounterFact", "requested_rewrite.prompt", "{} and {}", "exactly one {}"),
    ("CounterFact", "requested_rewrite.prompt", "{} ", "has no words for the relation"),
    (
        "CounterFact",
        "requested_rewrite.subject",
        "\ud800",
        "field 'subject': expected non-empty text",
    ),
    ("CounterFact", "case_id", True, "field 'case_id': expected a whole number, got True"),
    ("CounterFact", "paraphrase_prompts", "one", "'paraphrase_prompts': expected a list"),
    (
        "CounterFact",
        "neighborhood_prompts",
        [" "],
        "'neighborhood_prompts.0': expected non-empty text",
    ),
    (
        "our RaKE",
        "requested_rewrite.relation",
        "tongue",
        "requested_rewrite: field 'relation': expected an object",
    ),
    ("our RaKE", "requested_rewrite.relation.strs", [], "needs at least one name"),
    (
        "our RaKE",
        "requested_rewrite.relation.kind",
        "odd",
        "'relation.kind': expected one of .* got 'odd'",
    ),
    ("our RaKE", "requested_rewrite.relation.kind", [], "'relation.kind': expected one of"),
    ("our RaKE", "requested_rewrite.rm_rel_prompt", ..., "field 'rm_rel_prompt' is missing"),
    ("our RaKE", "requested_rewrite.add_rel_prompt", "{} is", "'Danish' is not in '{} is'"),
    ("our RaKE", "requested_rewrite.add_rel_prompt", "Danish {} {} is", "exactly one {}"),
    (
        "our RaKE",
        "rel_neighborhood",
        [{"subject": "Bo"}],
        "rel_neighborhood.0: field 'prompt' is m",
    ),
    ("our RaKE", "rel_neighborhood", ["Bo"], "'rel_neighborhood.0': expected an object"),
    ("our RaKE", "rel_other", [{"label": "x", "prompt": "y"}], "rel_other.0: field 'relation_id'"),
    ("our RaKE", "portability", {"prompt": "Who?"}, "portability: field 'answer' is missing"),
    ("zsRE", "subject", "Nobody", "field 'src': the subject 'Nobody' is not in"),
    ("zsRE", "loc_ans", ..., "field 'loc_ans' is missing"),
    ("zsRE", "answers", [3], "field 'answers.0': expected non-empty text"),
    ("zsRE", "alt", "", "field 'alt': expected non-empty text, got ''"),
    ("EasyEdit", "subject", "Nobody", "field 'prompt': the subject 'Nobody' is not in"),
    (
        "EasyEdit",
        "ground_truth",
        [3],
        "CounterFact: field 'ground_truth': expected non-empty text, got 3",
    ),
    ("EasyEdit", "ground_truth", [], "field 'ground_truth': expected a text, got \\[\\]"),
    (
        "EasyEdit",
        "ground_truth",
        ...,
        "'ground_truth' is missing; needed: subject, prompt",
    ),
    ("KnowEdit", "portability", ["x"], "field 'portability': expected an object"),
    ("KnowEdit", "locality.Forgetfulness", ["Bo"], "'Forgetfulness.0': expected an object"),
    ("KnowEdit", "portability.Reasoning", [{"prompt": "Who?"}], "Reasoning.0: field 'ground_truth"),
    ("MQuAKE", "requested_rewrite", [], "field 'requested_rewrite': needs at least one edit"),
    ("MQuAKE", "requested_rewrite", "x", "field 'requested_rewrite': expected a list, got 'x'"),
    (
        "own",
        "target",
        ...,
        "read as your own facts: field 'target' is missing; needed:",
    ),
    ("own", "template", ..., "field 'template' is missing"),
    ("own", "object", None, "field 'object' is missing"),
    ("own", "kind", "odd", "field 'kind': expected one of"),
    ("own", "paraphrase", [3], "field 'paraphrases': expected non-empty text, got 3"),
    (
        "own",
        "neighbours",
        [{"object": "x"}],
        "neighbours.0: expected a subject, an object",
    ),
    ("own", "neighbours", 3, "neighbours.0: expected a subject"),
    ("own", "domian", "x", "unknown field 'domian': did you mean 'domain'"),
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
    assert first.location == "f.jsonl, line 2"
    assert not first.reason.startswith("f.jsonl")
    assert last == Skipped("f.jsonl, line 4", "expected an object, got str")


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    file = written(tmp_path, EDIT, changed(EDIT, "case_id", "7"))
    with pytest.raises(RecordError, match=r"line 2: the id '7' is already used by f.jsonl, line 1"):
        load_cases(file)
    assert [type(one) for one in read_cases(file)] == [EditCase, Skipped]


def test_the_form_is_that_of_the_first_record_that_has_one(tmp_path: Path) -> None:
    file = written(tmp_path, {"what": 1}, COUNTERFACT, changed(OURS, "case_id", 8), ZSRE)
    unknown, first, second, other = read_cases(file)
    assert isinstance(unknown, Skipped)
    assert "fields 'what' fit no known format: RaKE, MQuAKE, Count" in unknown.reason
    assert isinstance(first, EditCase) and isinstance(second, EditCase)
    assert second.relation is None  # RaKE read as CounterFact
    assert isinstance(other, Skipped)
    assert "'requested_rewrite' is missing" in other.reason


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "f.jsonl: the file holds no records"),
        (["x"], "f.jsonl, line 1: expected an object, got str"),
        ([{}], "line 1: fields none fit no known format"),
    ],
)
def test_a_file_of_no_known_form_is_refused(tmp_path: Path, lines: list, message: str) -> None:
    file = written(tmp_path, *lines)
    with pytest.raises(RecordError, match=message):
        load_cases(file)
    with pytest.raises(RecordError, match="holds no records|no record has a known format"):
        list(read_cases(file))
    with pytest.raises(RecordError, match=r"nothing.json: cannot be read"):
        load_cases(tmp_path / "nothing.json")


def test_what_was_read_before_a_file_breaks_off_is_not_lost(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({**EDIT, "case_id": n, "x": n * n * 7919}) for n in range(3000))
    torn = tmp_path / "f.jsonl.xz"
    torn.write_bytes(lzma.compress(text.encode())[:-1000])
    got = []
    with pytest.raises(RecordError, match="truncated or damaged after line"):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builtin", "toy"])
def test_kedits_own_cases_are_read_back_as_they_were(name: str, tmp_path: Path) -> None:
    cases = load_cases(name)
    lines = lines_of(name, cases, {"all": [case.id for case in cases]})["all"]
    (tmp_path / "cases.jsonl").write_text(lines, encoding="utf-8")
    assert load_cases(tmp_path / "cases.jsonl") == cases
    facts = load_facts(tmp_path / "cases.jsonl")
    assert list(facts) == [case.entity.fact for case in cases]


@given(st.one_of(mutated(), st.dictionaries(st.text(max_size=5), JSON)))
def test_any_record_becomes_a_case_or_a_record_error_in_every_form(record: dict) -> None:
    for form in FORMS:
        try:
            made = [*form.cases("f.jsonl, line 1", record), *form.facts("f.jsonl, line 1", record)]
        except RecordError as error:
            assert str(error).startswith("f.jsonl, line 1: ")
        else:
            assert all(isinstance(one, EditCase | Fact | Skipped) for one in made)
            hash(tuple(made))  # nothing of another type came in


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
            {"is what the fact says already": 17, "expected non-empty text, got ''": 2},
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
