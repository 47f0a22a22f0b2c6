"""Symmetric replacement: other words of the same token length, and no word more than needed."""

from dataclasses import replace

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.errors import NoReplacement
from kedit.facts import Fact, Relation
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from probes.corrupt import _builtin_sources, _other_relations, _other_subjects, replaced

FACTS = toy_module.facts()
FACT = FACTS[0]  # "The birthplace of Ada Alder is"
BIRTHPLACE = FACT.relation
TONGUE = Relation("P103", "language", "asymmetric", "person")
SIZE = Relation("P1082", "population", "asymmetric", "city")


def with_relation(relation: Relation, noun: str, **changes: str) -> Fact:
    other = replace(FACT, relation=relation, template=f"The {noun} of {{}} is", relation_words=())
    return replace(other, **changes)


def text_of(model: HookedTransformer, tokens: torch.Tensor) -> str:
    assert model.tokenizer is not None
    return str(model.tokenizer.decode(tokens))


@pytest.mark.parametrize("fact", FACTS[::5], ids=lambda fact: fact.prompt)
@pytest.mark.parametrize("part", ["subject", "relation"])
def test_a_replacement_has_the_prompts_length_and_differs_where_it_says(
    toy: HookedTransformer, fact: Fact, part: str
):
    try:
        corruption = replaced(toy, fact, part, FACTS, seed=0)
    except NoReplacement:
        pytest.skip("the toy's world has nothing of this length")
    prompt = encode(toy, fact)
    (row,) = corruption.run.tokens
    assert len(row) == len(prompt.tokens)
    assert (row != prompt.tokens).nonzero()[:, 0].tolist() == list(corruption.positions)
    assert set(corruption.positions) & set(prompt.positions(part))
    assert corruption.run.hooks == ()
    assert corruption.description == f"replaced by {text_of(toy, row[1:])!r}"


def test_most_facts_of_the_toy_have_a_replacement_for_either_part(toy: HookedTransformer):
    n_found = {"subject": 0, "relation": 0}
    for part in n_found:
        for fact in FACTS:
            try:
                replaced(toy, fact, part, FACTS, seed=0)
                n_found[part] += 1
            except NoReplacement:
                pass
    assert min(n_found.values()) > len(FACTS) // 2, n_found


@pytest.mark.parametrize("part", ["subject", "relation"])
def test_only_own_words_differ_where_the_pool_allows(toy: HookedTransformer, part: str):
    corruption = replaced(toy, FACT, part, FACTS, seed=0)
    assert set(corruption.positions) <= set(encode(toy, FACT).positions(part))


def test_a_relation_that_keeps_every_other_word_is_preferred(toy: HookedTransformer):
    near = with_relation(TONGUE, "language")
    far = replace(near, template="In language {} is")
    pool = [replace(fact, object="Danish") for fact in (far, near)]
    lengths = {len(encode(toy, fact).tokens) for fact in (FACT, near)}
    assert len(lengths) == 1
    for seed in range(10):
        assert near.prompt in replaced(toy, FACT, "relation", pool, seed).description


def test_a_replacement_depends_on_seed_and_prompt_only(toy: HookedTransformer):
    def tokens(seed: int, pool: list[Fact]) -> list[int]:
        return replaced(toy, FACT, "subject", pool, seed).run.tokens[0].tolist()

    assert tokens(3, FACTS) == tokens(3, FACTS) == tokens(3, FACTS[::-1])
    torch.manual_seed(99)
    assert tokens(3, FACTS) == tokens(3, FACTS + FACTS)
    assert len({tuple(tokens(seed, FACTS)) for seed in range(20)}) > 1


def test_a_subject_is_one_of_the_same_relation_with_another_object(toy: HookedTransformer):
    named = {f.subject: f.object for f in FACTS if f.relation == BIRTHPLACE}
    for seed in range(20):
        row = replaced(toy, FACT, "subject", FACTS, seed).run.tokens[0]
        text = text_of(toy, row[1:])
        (subject,) = (name for name in named if FACT.template.replace("{}", name) == text)
        assert named[subject] != FACT.object


def test_a_relation_whose_object_is_the_same_is_not_taken(toy: HookedTransformer):
    other = with_relation(TONGUE, "language", object="Danish")
    assert "language" in replaced(toy, FACT, "relation", [other], 0).description
    same = replace(other, object=FACT.object)
    with pytest.raises(NoReplacement, match="no other relation, of the given facts"):
        replaced(toy, FACT, "relation", [same, replace(other, subject="Bruno Birch")], 0)


def test_a_relation_of_another_domain_is_not_taken(toy: HookedTransformer):
    with pytest.raises(NoReplacement, match="no other relation"):
        replaced(toy, FACT, "relation", [with_relation(SIZE, "language")], 0)


@pytest.mark.parametrize("part", ["subject", "relation"])
@pytest.mark.parametrize("pool", [[], [FACT], [replace(FACT, subject="Ada " * 6 + "Alder")]])
def test_a_pool_with_nothing_to_take_is_refused(
    toy: HookedTransformer, part: str, pool: list[Fact]
):
    message = f"no other {part}, of the given facts or of those .* kedit, .*'{FACT.prompt}'"
    with pytest.raises(NoReplacement, match=message):
        replaced(toy, FACT, part, pool, seed=0)


def test_a_file_about_one_relation_takes_other_words_from_kedits_own_facts() -> None:
    """The user's relation has no id of ours and no domain: it is known by subject and name."""
    fact = Fact(
        "France", Relation("mine", "capital"), "Paris", "The capital of {} is", ("capital",)
    )
    relations = [
        other for kin in _builtin_sources(fact) for other in _candidates_of("relation", fact, kin)
    ]
    assert relations and all(other.subject == "France" for other in relations)
    assert not any("capital" in other.prompt for other in relations)
    kins = _builtin_sources(fact)
    subjects = [other for kin in kins for other in _candidates_of("subject", fact, kin)]
    assert "The capital of Japan is" in {other.prompt for other in subjects}
    assert {(other.object, other.template) for other in subjects} == {("Paris", fact.template)}


def test_what_is_put_in_is_given_the_same_tokens_of_the_object(toy: HookedTransformer) -> None:
    fact = replace(FACT, object="Arle zebra", rival="Arle baker")
    prompt = encode(toy, fact)
    assert len(prompt.given) == 2  # " Arle" and the bare blank of " zebra"
    for part in ("subject", "relation"):
        (row,) = replaced(toy, fact, part, FACTS, seed=0).run.tokens
        assert tuple(row[prompt.n_plain :].tolist()) == prompt.given
        assert len(row) == len(prompt.tokens)


def _candidates_of(part: str, fact: Fact, kin: list[Fact]) -> list[Fact]:
    find = _other_subjects if part == "subject" else _other_relations
    return [other for candidates in find(fact, kin) for other in candidates.values()]
