"""Which facts a model knows, and by which token it is seen."""

import copy
from dataclasses import replace

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.facts import Fact, Relation
from kedit.models import toy as toy_module
from kedit.models.prompts import (
    answer_ids,
    decoded,
    encode,
    plain_ids,
    prompt_ids,
    with_given_tokens,
)
from probes.known import answers_right, first_known, with_likeliest_rival
from tests import twins

FACTS = toy_module.facts()
FACT = FACTS[0]  # "The birthplace of Ada Alder is"
YEAR = Relation("year", "year")


def always(toy: HookedTransformer, text: str) -> HookedTransformer:
    """A model that says one token, whatever it reads."""
    (token,) = plain_ids(toy, text)
    model = copy.deepcopy(toy)
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
        model.unembed.b_U[token] = 50.0
    return model


def test_a_fact_whose_first_token_alone_is_said_is_not_known(toy: HookedTransformer) -> None:
    model, year = always(toy, " "), Fact("Ada", YEAR, "1234", "{} was born in the year")
    blank, *_ = answer_ids(model, year.prompt, year.object)
    assert decoded(model, blank) == " "  # the control: it is what the model says
    assert not answers_right(model, year)[0]


def test_an_object_that_goes_on_is_another_object(toy: HookedTransformer) -> None:
    model, fact = always(toy, "1"), Fact("Ada", YEAR, "11", "{} was born in (")
    known, said = answers_right(model, fact)
    assert not known and said == "1111"
    marks = always(toy, ".")
    assert answers_right(marks, replace(fact, object="..")) == (True, "....")  # no letter or digit


def test_the_first_wording_that_is_answered_right_is_taken(toy: HookedTransformer) -> None:
    wrong = replace(FACT, object="zebra")
    assert first_known(toy, [wrong, FACT])[0] == FACT
    fact, heard = first_known(toy, [wrong, wrong])
    assert fact is None and len(heard) == 2 and heard[0].startswith(" " + FACT.object)


@pytest.mark.parametrize("fact", FACTS[::9], ids=lambda fact: fact.prompt)
def test_the_rival_is_the_likeliest_other_object_of_the_relation(
    toy: HookedTransformer, fact: Fact
) -> None:
    longer = [
        replace(fact, subject="Zoe", object=f"{one.object} {n}") for n, one in enumerate(FACTS)
    ]
    pool = [*FACTS, *longer]
    totals = {}
    for other in pool:
        if other.relation == fact.relation and other.object != fact.object:
            ids = answer_ids(toy, fact.prompt, other.object)
            mean, _ = twins.likelihood(toy, prompt_ids(toy, fact.prompt), ids)
            totals[other.object] = mean * len(ids)
    rival = with_likeliest_rival(toy, fact, pool).rival
    assert totals[rival] == pytest.approx(max(totals.values()), abs=1e-4)
    assert with_likeliest_rival(toy, fact, [fact]).rival == ""


def test_what_the_subject_has_too_is_no_rival(toy: HookedTransformer) -> None:
    other = replace(FACT, object="Brock")
    assert with_likeliest_rival(toy, FACT, [FACT, other]).rival == ""
    assert (
        with_likeliest_rival(toy, FACT, [FACT, replace(other, subject="Bruno Birch")]).rival
        == "Brock"
    )


def test_tokens_that_object_and_rival_share_are_given(toy: HookedTransformer) -> None:
    fact = Fact("Ada", YEAR, "1945", "{} was born in the year", rival="1918")
    prompt = encode(toy, fact)
    assert [decoded(toy, token) for token in prompt.given] == [" ", "1", "9"]
    assert decoded(toy, *prompt.answer_ids) == "45"
    assert prompt.tokens.tolist() == [*prompt_ids(toy, fact.prompt), *prompt.given]
    assert len(prompt.labels) == len(prompt.tokens) and prompt.roles[-1] == "last"
    alone = encode(toy, replace(fact, rival=""))
    assert decoded(toy, *alone.given) == " "  # a bare blank is never asked for
    assert alone.object_ids == prompt.object_ids
    longer = encode(toy, replace(fact, rival="19451"))
    assert decoded(toy, *longer.answer_ids) == "5"  # the last token, where the rival goes on
    assert with_given_tokens(toy, prompt, 0).tokens.tolist() == list(prompt_ids(toy, fact.prompt))
