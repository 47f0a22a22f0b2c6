"""Attention onto roles: shares that add up, by hand from cached patterns, and by what is moved."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.prompts import ROLES, Prompt, encode
from probes.attention import attention_to_roles, positions_of, weighted_attention_to_roles
from tests.conftest import FAMILIES, FamilyOf

FACTS = toy_module.facts()
OF, IN = FACTS[0], FACTS[16]  # "The birthplace of Ada Alder is", "Ada Alder was born in"
MEASURES = pytest.mark.parametrize(
    "measure", [attention_to_roles, weighted_attention_to_roles], ids=["plain", "weighted"]
)
Measure = Callable[..., Tensor]


def by_hand(model: HookedTransformer, prompt: Prompt, queries: list[int]) -> tuple[Tensor, Tensor]:
    """Plain and weighted, number by number from the cache; heads must add up to what is written."""
    _, cache = model.run_with_cache(prompt.tokens[None])
    cfg = model.cfg
    plain, weighted = (torch.zeros(cfg.n_layers, cfg.n_heads, len(ROLES)) for _ in range(2))
    for layer, block in enumerate(model.blocks):
        pattern, values = cache["pattern", layer][0], cache["v", layer][0]
        for head in range(cfg.n_heads):
            value = values[:, head // (cfg.n_heads // values.shape[1])]
            written = value @ block.attn.W_O[head]
            for query in queries:
                weights = pattern[head, query]
                sizes = torch.stack([w * x.norm() for w, x in zip(weights, written, strict=True)])
                for pos, role in enumerate(prompt.roles):
                    place = (layer, head, ROLES.index(role))
                    plain[place] += weights[pos] / len(queries)
                    weighted[place] += sizes[pos] / sizes.sum() / len(queries)
                moved = cache["z", layer][0, query, head] @ block.attn.W_O[head]
                torch.testing.assert_close(weights @ written, moved, atol=1e-4, rtol=0)
    return plain, weighted


def assert_by_hand(model: HookedTransformer, queries: list[int], *query: str) -> None:
    prompt = encode(model, OF)
    measures = (attention_to_roles, weighted_attention_to_roles)
    plain, weighted = by_hand(model, prompt, queries)
    for measure, slow in zip(measures, (plain, weighted), strict=True):
        found = measure(model, prompt, query) if query else measure(model, prompt)
        torch.testing.assert_close(found, slow, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.sum(-1), torch.ones(4, 4), atol=1e-5, rtol=0)
    assert (plain - weighted).abs().max() > 1e-3  # values differ in size, and it is seen


@pytest.mark.parametrize("name", FAMILIES)
def test_shares_are_those_of_a_slow_loop_and_sum_to_one(family: FamilyOf, name: str) -> None:
    assert_by_hand(family(name).model, [2, 3, 6], "relation", "last")


def test_it_is_the_last_token_that_looks_if_nothing_is_said(toy: HookedTransformer) -> None:
    assert_by_hand(toy, [6])


@MEASURES
def test_a_role_without_positions_gets_nothing(
    toy: HookedTransformer, bosless_gpt2: HookedTransformer, measure: Measure
) -> None:
    rest, bos = ROLES.index("rest"), ROLES.index("bos")
    assert "rest" not in encode(toy, IN).roles and "rest" in encode(toy, OF).roles
    assert (measure(toy, encode(toy, IN))[..., rest] == 0).all()
    assert (measure(toy, encode(toy, OF))[..., rest] > 0).all()  # the control
    assert (measure(toy, encode(toy, IN))[..., bos] > 0).all()
    found = measure(bosless_gpt2, encode(bosless_gpt2, IN))
    assert (found[..., bos] == 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 4), atol=1e-5, rtol=0)


@MEASURES
def test_nothing_looks_ahead(toy: HookedTransformer, measure: Measure) -> None:
    prompt = encode(toy, OF)
    ahead = [ROLES.index(role) for role in ("subject", "last")]
    assert (measure(toy, prompt, "relation")[..., ahead] == 0).all()
    assert (measure(toy, prompt, "last")[..., ahead] > 0).all()


def test_several_roles_are_averaged_by_position(toy: HookedTransformer) -> None:
    prompt = encode(toy, OF)  # two words of the subject, one last
    both = weighted_attention_to_roles(toy, prompt, ("subject", "last"))
    subject, last = (weighted_attention_to_roles(toy, prompt, one) for one in ("subject", "last"))
    torch.testing.assert_close(both, (2 * subject + last) / 3, atol=1e-6, rtol=0)
    assert (subject - last).abs().max() > 0.1


def test_weights_tell_what_is_moved(toy: HookedTransformer) -> None:
    model, prompt = copy.deepcopy(toy), encode(toy, OF)
    before = weighted_attention_to_roles(model, prompt)
    last = model.blocks[-1].attn
    last.W_O[0] *= 3  # as much for all positions: no share moves
    last.W_O[1] = 0.0
    after = weighted_attention_to_roles(model, prompt)
    torch.testing.assert_close(after[-1, 0], before[-1, 0], atol=1e-6, rtol=0)
    assert after[-1, 1].isnan().all()  # nothing is moved, and nothing has shares
    assert torch.equal(after[:-1], before[:-1]) and torch.equal(after[-1, 2:], before[-1, 2:])
    assert not attention_to_roles(model, prompt).isnan().any()


def test_values_are_those_behind_clipping(family: FamilyOf) -> None:
    model = copy.deepcopy(family("llama").model)
    prompt = encode(model, OF)
    plain = weighted_attention_to_roles(model, prompt)
    for block in model.blocks:
        block.attn.cfg.clip_qkv = 0.3  # as OLMo's
    clipped = weighted_attention_to_roles(model, prompt)
    _, cache = model.run_with_cache(prompt.tokens[None])
    values = cache["v", 0][0].clamp(-0.3, 0.3).repeat_interleave(2, dim=1)
    norms = torch.einsum("khd,hdm->hkm", values, model.blocks[0].attn.W_O).norm(dim=-1)
    moved = cache["pattern", 0][0, :, -1] * norms
    subject = (moved / moved.sum(-1, keepdim=True))[:, 4:6].sum(-1)
    torch.testing.assert_close(clipped[0, :, 1], subject, atol=1e-5, rtol=0)
    assert (clipped[0] - plain[0]).abs().max() > 0.01


def test_the_model_is_left_as_it_was(toy: HookedTransformer) -> None:
    prompt = encode(toy, OF)
    logits = toy(prompt.tokens[None])
    attention_to_roles(toy, prompt)
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())
    assert torch.equal(toy(prompt.tokens[None]), logits)


def test_positions_are_those_of_the_roles(toy: HookedTransformer) -> None:
    prompt = encode(toy, OF)
    assert positions_of(prompt, "subject") == (4, 5)
    assert positions_of(prompt, ("last", "relation", "bos")) == (0, 2, 3, 6)
    assert positions_of(encode(toy, IN), ("rest", "last")) == (5,)  # one of them is enough


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("object", "role 'object': must be one of bos, subject, relation, rest, last"),
        (("last", "las"), "role 'las'"),
        ("rest", "'<bos>Ada Alder was born in' has no token of the role rest: .* bos, subject"),
        ((), "no role given"),
    ],
)
def test_roles_that_are_not_there_are_refused(
    toy: HookedTransformer, roles: str | tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        attention_to_roles(toy, encode(toy, IN), roles)
