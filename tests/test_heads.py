"""Heads' names, and the roles that a prompt's tokens have."""

import pytest
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.prompts import ROLES, encode


@pytest.mark.parametrize("name", ["L11H2", "l11h2", "11.2", " L11H2 "])
def test_a_name_and_its_head(name: str):
    assert Head.named(name) == Head(11, 2)
    assert str(Head(11, 2)) == "L11H2"


@pytest.mark.parametrize(
    "name", ["", "L11", "H2", "11", "L1H-2", "head 3", "L1H2x", f"L{'9' * 5000}H1"]
)
def test_what_is_no_name(name: str):
    with pytest.raises(InputError, match="a name such as L11H2 or 11.2"):
        Head.named(name)


def test_heads_are_ordered_by_layer():
    assert sorted([Head(10, 0), Head(2, 3), Head(2, 1)]) == [Head(2, 1), Head(2, 3), Head(10, 0)]


def test_every_token_has_one_role(toy: HookedTransformer):
    for fact in toy_module.facts():
        prompt = encode(toy, fact)
        roles = prompt.roles
        assert len(roles) == len(prompt.tokens) and set(roles) <= set(ROLES)
        assert roles[0] == "bos" and roles.count("bos") == 1
        assert roles[-1] == "last" and roles.count("last") == 1
        for part in ("subject", "relation"):
            inside = [pos for pos in prompt.positions(part) if pos != len(roles) - 1]
            assert inside and {roles[pos] for pos in inside} == {part}


def test_a_model_without_bos_has_none(bosless_gpt2: HookedTransformer):
    prompt = encode(bosless_gpt2, toy_module.facts()[0])
    assert "bos" not in prompt.roles and prompt.roles[-1] == "last"
