"""The builder of RaKE: what it makes of made-up records, what it refuses, and that it repeats."""

import json
import os
import re
import string
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.data import rake, relations
from kedit.data.fields import Record, Skipped
from kedit.data.rake_build import NEIGHBOURS, OTHER_OBJECTS, build, portability
from kedit.data.relations import Wording
from kedit.data.survey import edits, survey
from kedit.errors import RecordError
from kedit.facts import NO_RELATION, EditCase
from tests.test_cases import DATA, JSON, TEXTS, changed, mutated, written

ROOT = Path(__file__).parent.parent
LANGUAGE, BORN, TWIN = "P103", "P19", "P190"
SPOKE, NATIVE, BIRTH = "{} spoke the language", "{}, a native", "{} was born in"


def record(
    case_id: int, subject: str, relation: str, prompt: str, old: str, new: str, near: tuple = ()
) -> dict[str, Any]:
    """A record in CounterFact's schema."""
    return {
        "case_id": case_id,
        "pararel_idx": 100 + case_id,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "target_new": {"str": new, "id": f"Q{len(new)}"},
            "target_true": {"str": old, "id": f"Q{len(old)}"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"Rain fell. {subject}, who", f"Of {subject} we know that"],
        "neighborhood_prompts": list(near),
        "attribute_prompts": ["Ilse Ivy, a native"],
        "generation_prompts": [f"{subject} likes"],
    }


RECORDS = [
    record(
        1, "Ada Alder", LANGUAGE, SPOKE, "Greek", "Danish",
        # the last two are cut from a longer template and known to be otherwise
        ("Bo Birch spoke the language", "Cy Cedar, a native", "Hugo Holly, that spoke the language",
         "Dora Dill, a native"),
    ),
    record(2, "Bo Birch", LANGUAGE, NATIVE, "Greek", "Finnish"),
    record(3, "Dora Dill", LANGUAGE, SPOKE, "Danish", "Greek"),
    record(4, "Elif Elm", LANGUAGE, SPOKE, "Greek", "Danish"),
    record(5, "Ada Alder", BORN, BIRTH, "Arle", "Brock"),
    record(6, "Bo Birch", BORN, BIRTH, "Brock", "Greek"),
    record(7, "Twin City Square", TWIN, "The twin city of {} is", "Corum", "Delft"),
    record(8, "Elif Elm", LANGUAGE, SPOKE, "Latin", "Finnish"),
]  # fmt: skip


def made(folder: Path, *sources: object, asked: dict | None = None) -> list[Record | Skipped]:
    file = written(folder, *(sources or RECORDS))
    return list(build(file, survey(file), asked))


def built(folder: Path, *sources: object, asked: dict | None = None) -> dict[int, Record]:
    return {
        one["case_id"]: one
        for one in made(folder, *sources, asked=asked)
        if not isinstance(one, Skipped)
    }


def output(code: str, file: Path, **environment: str) -> str:
    """What `code` writes in another process."""
    return subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True,
        check=True, env={**os.environ, **environment},
    ).stdout  # fmt: skip


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def alike(one: str, other: str) -> float:
    """The share of words that two texts have in common."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


def test_the_table_has_counterfacts_relations_with_names_that_cannot_be_confused() -> None:
    names = relations.labels()
    assert len(names) == len(set(names)) == len(relations.table()) == 34
    assert not any(one in other for one in names for other in names if one != other)
    every = Counter(
        alias for one in relations.table().values() for alias in one.relation.aliases
    ) + Counter(names)
    assert set(every.values()) == {1}
    kinds = Counter(one.relation.kind for one in relations.table().values())
    assert set(kinds) == {"symmetric", "asymmetric", "hierarchical"}
    assert relations.find(TWIN).kind == "symmetric"
    assert relations.find("P0").name == "P0"
    with pytest.raises(TypeError):
        relations.table()["P0"] = relations.table()[TWIN]  # pyright: ignore


@pytest.mark.parametrize("described", relations.table().values(), ids=relations.labels())
def test_wordings_are_far_apart_and_do_not_give_the_name_away(
    described: relations.Described,
) -> None:
    said = [described.statement, *described.questions, *relations.generic()]
    texts = [wording.filled("Ada", "Arle") for wording in said]
    assert len(described.questions) >= 4
    for text in texts:
        assert not re.search(rf"\b{described.relation.name}\b", text, re.IGNORECASE), text
        assert text[-1] in string.ascii_letters + ":"
        assert {"Ada", "Arle"} <= set(re.findall(r"\w+", text))
    for one, other in combinations(texts, 2):
        assert alike(one, other) < 0.6, (one, other)
    for other in described.other_relations:
        assert other.relation_id in relations.table()
        assert other.relation_id != described.relation.id
        assert "Ada" in other.filled("Ada")


def test_a_subject_that_looks_like_a_gap_is_not_filled() -> None:
    assert Wording("{s} with {o}", "").filled("{o}", "x") == "{o} with x"
    assert Wording("{o} of {s}", "").filled("{}", "x") == "x of {}"


def test_a_built_record_is_read_as_both_sides(tmp_path: Path) -> None:
    for source in RECORDS:
        one = built(tmp_path)[source["case_id"]]
        case = rake.parse("here", one)
        assert isinstance(case, EditCase)
        fact, request = case.entity.fact, case.request("relation")
        rewrite = source["requested_rewrite"]
        assert fact.template == rewrite["prompt"]
        old, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        name = relations.find(rewrite["relation_id"]).name
        assert (fact.subject, fact.object) == (rewrite["subject"], old)
        assert (case.entity.target, request.mentioned) == (new, new)
        assert (request.target, request.fact.object) == (name, NO_RELATION)
        assert request.fact.prompt == f"The relation between {fact.subject} and {new} is"
        assert request.removal is not None
        assert request.removal.prompt == f"The relation between {fact.subject} and {old} is"
        assert request.fact.relation == relations.find(rewrite["relation_id"])
        assert list(case.lacks) == one["lacks"]
        # what CounterFact has is there as it was
        assert {key: one[key] for key in source} == {
            **source,
            "requested_rewrite": one["requested_rewrite"],
        }
        assert rewrite.items() <= one["requested_rewrite"].items()


def test_paraphrases_differ_in_more_than_a_prefix_and_name_both_ends(tmp_path: Path) -> None:
    for one in built(tmp_path).values():
        rewrite = one["requested_rewrite"]
        subject, name = rewrite["subject"], rewrite["relation"]["strs"][0]
        statement = rewrite["add_rel_prompt"].replace("{}", subject)
        prompts = [statement, *one["rel_prompts"]]
        assert len(set(prompts)) == len(prompts) == 4
        for first, second in combinations(prompts, 2):
            assert alike(first, second) < 0.6
            assert first.split()[-4:] != second.split()[-4:]
        for prompt, removal in zip(one["rel_prompts"], one["rm_rel_prompts"], strict=True):
            new, old = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
            assert subject in prompt and new in prompt
            assert removal == prompt.replace(new, old)
            assert name not in prompt.replace(subject, "").lower()


def test_every_wording_is_used_and_none_much_more_than_others(tmp_path: Path) -> None:
    many = [record(n, "Ada", LANGUAGE, SPOKE, "Greek", "Danish") for n in range(300)]
    used = Counter(
        prompt for one in built(tmp_path, *many).values() for prompt in one["rel_prompts"]
    )
    own = [wording.filled("Ada", "Danish") for wording in relations.table()[LANGUAGE].questions]
    others = [wording.filled("Ada", "Danish") for wording in relations.generic()]
    assert set(used) == {*own, *others}
    for texts in (own, others):
        assert max(used[text] for text in texts) < 2.5 * min(used[text] for text in texts)


def test_relation_neighbours_are_the_records_own_then_the_files(tmp_path: Path) -> None:
    one = built(tmp_path)[1]
    # not Dora Dill, who spoke Danish; not Elif Elm, who is known for Latin too; not "Hugo, that"
    assert [other["subject"] for other in one["rel_neighborhood"]] == ["Bo Birch", "Cy Cedar"]
    assert one["rel_neighborhood"][0]["prompt"] == "The relation between Bo Birch and Greek is"
    bare = {key: value for key, value in RECORDS[0].items() if key != "neighborhood_prompts"}
    near = built(tmp_path, bare, *RECORDS[1:])[1]["rel_neighborhood"]
    assert [other["subject"] for other in near] == ["Bo Birch"]
    assert built(tmp_path)[7]["rel_neighborhood"] == []
    assert "relation neighbours" in built(tmp_path)[7]["lacks"]
    many = [record(n, f"P{n}", LANGUAGE, SPOKE, "Greek", "Danish") for n in range(40)]
    found = built(tmp_path, *many).values()
    sets = {tuple(other["subject"] for other in one["rel_neighborhood"]) for one in found}
    assert {len(set(near)) for near in sets} == {NEIGHBOURS}
    assert len(sets) > 20  # they are not everyone's first ten


def test_other_objects_are_the_relations_and_none_of_the_subjects(tmp_path: Path) -> None:
    of = {id: [other["object"] for other in one["rel_other_objects"]]
          for id, one in built(tmp_path).items()}  # fmt: skip
    # of Greek, Danish and Latin: not what Ada spoke, nor what she is to speak
    assert of[1] == ["Latin"] and set(of[2]) == {"Danish", "Latin"}
    assert of[8] == ["Danish"]  # Elif spoke Greek too
    assert of[7] == []  # the only town with a twin
    (one,) = built(tmp_path)[1]["rel_other_objects"]
    assert one["prompt"] == "The relation between Ada Alder and Latin is"
    many = [record(n, f"P{n}", LANGUAGE, SPOKE, f"L{n}", "Danish") for n in range(40)]
    found = [one["rel_other_objects"] for one in built(tmp_path, *many).values()]
    assert {len(others) for others in found} == {OTHER_OBJECTS}
    assert len({others[0]["object"] for others in found}) > 20  # not everyone's first


def test_the_longest_template_says_whom_a_prompt_is_about(tmp_path: Path) -> None:
    templates = ["{} is", "The tongue of {} is", "{}, a native", "The old tongue of {} is"]
    file = written(
        tmp_path,
        *(record(n, "Ada", LANGUAGE, text, "x", "y") for n, text in enumerate(templates)),
    )
    seen = survey(file)
    assert seen.subject_of("The old tongue of Bo Birch is", LANGUAGE) == "Bo Birch"
    assert seen.subject_of("Bo Birch is", LANGUAGE) == "Bo Birch"
    assert seen.subject_of("Bo Birch, who, a native", LANGUAGE) == ""
    assert seen.subject_of("Bo Birch speaks", LANGUAGE) == ""
    assert seen.subject_of("Bo Birch is", BORN) == ""
    assert seen.subject_of(" is", LANGUAGE) == " is".removesuffix(" is")


def test_other_relations_are_those_that_the_edit_does_not_touch(tmp_path: Path) -> None:
    one = built(tmp_path)[1]
    assert one["rel_other"] == [
        {
            "relation_id": BORN,
            "label": "birthplace",
            "object": "Arle",
            "prompt": "The relation between Ada Alder and Arle is",
        }
    ]
    table = relations.table()[LANGUAGE].other_relations
    assert [other["relation_id"] for other in one["other_relations"]] == [
        wording.relation_id for wording in table
    ]
    # Ada Alder was born in what is now to be her language: that prompt's answer is the new object
    twisted = [changed(RECORDS[0], "requested_rewrite.target_new.str", "Arle"), *RECORDS[4:5]]
    other = built(tmp_path, *twisted)[1]
    assert BORN in {wording.relation_id for wording in table}
    assert BORN not in {other["relation_id"] for other in other["other_relations"]}
    assert other["rel_other"] == []
    # two relations to one object: the pair has no one name
    died = record(9, "Ada Alder", "P20", "{} died in", "Arle", "Delft")
    assert built(tmp_path, *RECORDS, died)[1]["rel_other"] == []


def test_notes_say_what_a_reader_should_know(tmp_path: Path) -> None:
    notes = {id: one["notes"] for id, one in built(tmp_path).items()}
    assert notes[7] == ["the relation's name stands in the subject"]
    assert notes[2] == []
    known = "the file knows another relation to the true object"
    died = record(9, "Ada Alder", "P20", "{} died in", "Arle", "Delft")
    again = record(10, "Ada Alder", BORN, BIRTH, "Brock", "Delft")
    self = record(11, "Arle", "P138", "{} is named after", "Arle", "Brock")
    self["paraphrase_prompts"] = ["The city"]
    more = built(tmp_path, *RECORDS, died, again, self)
    assert more[5]["notes"] == ["the file knows the new object as true too", known]
    assert more[10]["notes"] == []
    assert more[11]["notes"] == [
        "subject and object have the same name",
        "a paraphrase does not name the subject",
    ]
    assert "the file knows another relation to the new object" in built(
        tmp_path, died, record(12, "Ada Alder", BORN, BIRTH, "Corum", "Arle")
    )[12]["notes"]  # fmt: skip


def test_edits_alone_are_built_and_say_what_they_lack(tmp_path: Path) -> None:
    rewrite = RECORDS[0]["requested_rewrite"]
    edit = {
        "case_id": 1,
        "subject": rewrite["subject"],
        "prompt_template": rewrite["prompt"],
        "relation_id": LANGUAGE,
        "ground_truth": "Greek",
        "target_new": "Danish",
        "relation_id_source": "official",
    }
    one, full = built(tmp_path, edit)[1], built(tmp_path)[1]
    assert one["rel_prompts"] == full["rel_prompts"]  # a case has its wordings in every file
    assert one["requested_rewrite"]["target_new"] == {"str": "Danish"}
    assert {"paraphrases", "neighborhood prompts", "generation prompts"} <= set(one["lacks"])
    assert one["paraphrase_prompts"] == []
    assert not {"paraphrases", "neighborhood prompts", "generation prompts"} & set(full["lacks"])


def test_portability_questions_come_by_case_id(tmp_path: Path) -> None:
    extras = written(
        tmp_path,
        {"case_id": 1, "portability": {"New Question": "Whence?", "New Answer": "Attica"}},
        {"case_id": 2, "portability": None},
        {"case_id": 3, "portability": {"New Question": "Whence?"}},
        {"portability": {"New Question": "Whence?", "New Answer": "Attica"}},
        name="extras.jsonl",
    )
    asked, broken = portability(extras)
    assert asked == {"1": ("Whence?", "Attica")}
    assert [one.location for one in broken] == ["extras.jsonl, line 3", "extras.jsonl, line 4"]
    made = built(tmp_path, asked=asked)
    assert made[1]["portability"] == {"prompt": "Whence?", "answer": "Attica"}
    assert "portability" not in made[1]["lacks"]
    assert "portability" in made[2]["lacks"] and "portability" not in made[2]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("requested_rewrite.prompt", "no gap", "exactly one {}"),
        ("requested_rewrite.prompt", "{} and {}", "exactly one {}"),
        ("requested_rewrite.prompt", "{} {x} is", "a brace that is not the subject's {}"),
        ("requested_rewrite.prompt", "the '{}' is", "needs a blank before {}"),
        ("requested_rewrite.prompt", "{} ", "has no words for the relation"),
        ("requested_rewrite.target_new.str", "", "expected non-empty text"),
        ("requested_rewrite.target_new.str", "Greek", "is what the fact says already"),
        ("requested_rewrite.target_new.str", "{}", "a brace that is not the subject's {}"),
        ("requested_rewrite.target_true", ..., "field 'target_true.str' is missing"),
        ("requested_rewrite.target_new.id", 7, "target_new: field 'id': expected non-empty text"),
        ("requested_rewrite.relation_id", "P0", "relation_id 'P0' is not one of CounterFact's"),
        ("requested_rewrite", ..., "field 'requested_rewrite' is missing"),
        ("paraphrase_prompts", [3], "'paraphrase_prompts.0': expected non-empty text"),
        ("attribute_prompts", ["\ud800"], "'attribute_prompts.0': expected non-empty text"),
        ("pararel_idx", "x", "'pararel_idx': expected a whole number"),
        ("case_id", ..., "field 'case_id' is missing"),
        ("case_id", 2, "the case_id '2' is already used by f.jsonl, line 1"),
    ],
)
def test_what_cannot_be_built_is_skipped_with_its_reason(
    tmp_path: Path, path: str, value: object, reason: str
) -> None:
    got = made(tmp_path, RECORDS[1], changed(RECORDS[0], path, value), "no record", RECORDS[2])
    skips = [one for one in got if isinstance(one, Skipped)]
    assert len(got) - len(skips) == 2
    first, last = skips
    assert reason in first.reason
    assert first.location == "f.jsonl, line 2"
    assert first.id == ("" if (path, value) == ("case_id", ...) else "2" if value == 2 else "1")
    assert last == Skipped("f.jsonl, line 3", "expected an object, got str")


def test_a_missing_list_is_no_reason_to_skip(tmp_path: Path) -> None:
    for name in ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "pararel_idx"):
        assert 1 in built(tmp_path, changed(RECORDS[0], name))


@given(st.lists(mutated(("CounterFact", "our RaKE", "edits")) | JSON, min_size=1, max_size=3))
def test_any_record_is_built_and_can_be_written_or_is_skipped(tmp_path_factory, any: list) -> None:
    got = made(tmp_path_factory.mktemp("any"), *any, RECORDS[1])
    assert len(got) == len(any) + 1
    for one in got:
        if not isinstance(one, Skipped):
            line = json.dumps(one, ensure_ascii=False).encode()
            case = rake.parse("here", json.loads(line))
            assert {probe.perspective for probe in case.probes} == {"entity", "relation"}


@given(TEXTS | st.text(), TEXTS | st.text())
def test_any_subject_and_object_are_built_or_skipped(tmp_path_factory, subject, new) -> None:
    source = record(1, subject, LANGUAGE, SPOKE, "Greek", new)
    (one,) = made(tmp_path_factory.mktemp("any"), source)
    if not isinstance(one, Skipped):
        assert rake.parse("here", one).request("relation").mentioned == new.strip()


def test_the_same_bytes_under_any_hash_seed(tmp_path: Path) -> None:
    file = written(tmp_path, *RECORDS)
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from kedit.data.rake_build import build\n"
        "from kedit.data.survey import survey\n"
        "file = Path(sys.argv[1])\n"
        "sys.stdout.write(str(hash('a')) + '\\n')\n"
        "sys.stdout.write(json.dumps(list(build(file, survey(file)))))\n"
    )
    hashes, texts = set(), set()
    for seed in ("1", "2"):
        own, _, text = output(code, file, PYTHONHASHSEED=seed).partition("\n")
        hashes.add(own)
        texts.add(text)
    assert len(hashes) == 2  # the seeds do change something
    assert texts == {json.dumps(made(tmp_path))}


def test_a_survey_is_of_the_usable_records(tmp_path: Path) -> None:
    file = written(tmp_path, *RECORDS, "no record", changed(RECORDS[0], "case_id", 99), RECORDS[0])
    seen = survey(file)
    assert seen.n_edits == len(RECORDS) + 1
    assert [type(one) for one in edits(file)].count(Skipped) == 2
    assert seen.objects("Elif Elm", LANGUAGE) == ["Greek", "Latin"]
    assert seen.relations("Bo Birch", "Brock") == [BORN]
    assert replace(seen, facts={}).objects("Elif Elm", LANGUAGE) == []
    with pytest.raises(RecordError, match="cannot be read"):
        survey(tmp_path / "nothing.jsonl")


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not here: set KEDIT_DATA")
def test_the_edits_of_counterfact_are_as_many_as_they_are_known_to_be() -> None:
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from kedit.data.survey import edits\n"
        "asked = [one.request for one in edits(Path(sys.argv[1]))]\n"
        "of_each = zip(*((a.fact.subject, a.target, a.fact.relation.id) for a in asked))\n"
        "sys.stdout.write(json.dumps([len(asked), *(len(set(every)) for every in of_each)]))\n"
    )
    file = DATA / "counterfact_edits_21919.jsonl.xz"
    # in a process of its own, where the test run's type checks do not slow it down
    assert json.loads(output(code, file.resolve())) == [21_919, 20_391, 749, 34]


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not here: set KEDIT_DATA")
def test_real_records_have_neighbours_of_their_own() -> None:
    file = DATA / "counterfact_1100.jsonl.xz"
    records = [
        one for one in islice(build(file, survey(file)), 300) if not isinstance(one, Skipped)
    ]
    assert len(records) == 300
    assert sum(len(one["rel_neighborhood"]) for one in records) > 8.5 * len(records)
    for one in records:
        true = one["requested_rewrite"]["target_true"]["str"]
        named = [other["subject"] for other in one["rel_neighborhood"]]
        assert len(set(named)) == len(named) <= NEIGHBOURS
        assert not {one["requested_rewrite"]["subject"], true} & set(named)
