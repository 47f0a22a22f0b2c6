"""Ablation of heads: against a slow twin and by invariants, with controls that it takes effect."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import answer_scores
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.prompts import Prompt, encode
from probes.ablation import StandIn, ablate, mean_z, other_z, own_z, zero_z
from probes.patch import AnswerMetric
from tests.conftest import FAMILIES, QUESTION, FamilyOf, assert_same_scores
from tests.twins import Hooks

FACTS = toy_module.facts()
FACT = FACTS[0]  # "The birthplace of Ada Alder is"
SOME = frozenset({Head(0, 1), Head(0, 3), Head(2, 0)})
SETS = (frozenset(), SOME, frozenset({Head(1, 2)}), frozenset({Head(3, 3), Head(2, 1)}))


def all_heads(model: HookedTransformer) -> frozenset[Head]:
    cfg = model.cfg
    return frozenset(
        Head(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)
    )


def asked(model: HookedTransformer) -> AnswerMetric:
    answer = encode(model, FACT).answer_ids[0]
    return AnswerMetric(answer, answer + 1)


def plain(model: HookedTransformer, prompt: Prompt, question: AnswerMetric = QUESTION) -> Tensor:
    resid = model(prompt.tokens[None], stop_at_layer=model.cfg.n_layers)[:, -1]
    return answer_scores(model, resid, question.answer, question.foil)


def kin(model: HookedTransformer, prompt: Prompt) -> Prompt:
    """Another prompt of the same layout."""
    others = (encode(model, fact) for fact in FACTS[1:])
    return next(other for other in others if other.roles == prompt.roles)


def twin(
    model: HookedTransformer,
    prompt: Prompt,
    heads: frozenset[Head],
    stand_in: StandIn,
    positions: list[int],
) -> Tensor:
    """One forward, one hook a head and position, all logits."""

    def replaced(layer: int, head: int, pos: int) -> Callable:
        def hook(z: Tensor, hook: object) -> Tensor:
            z = z.clone()
            z[0, pos, head] = stand_in[layer, pos, head]
            return z

        return hook

    hooks: Hooks = [
        (get_act_name("z", layer), replaced(layer, head, pos))
        for layer, head in heads
        for pos in positions
    ]
    logits = model.run_with_hooks(prompt.tokens[None], fwd_hooks=hooks)[0, -1].float()
    logprob = logits.log_softmax(-1)[QUESTION.answer]
    difference = logits[QUESTION.answer] - logits[QUESTION.foil]
    return torch.stack([logprob.exp(), logprob, difference])


def test_the_own_z_of_a_run_changes_nothing(toy: HookedTransformer) -> None:
    prompt, question = encode(toy, FACT), asked(toy)
    sets = [*SETS, all_heads(toy)]
    untouched = plain(toy, prompt, question)
    own = ablate(toy, prompt, question, sets, own_z(toy, prompt))
    assert_same_scores(own, untouched.expand(-1, len(sets)))
    zeroed = ablate(toy, prompt, question, sets, zero_z(toy, prompt))
    assert_same_scores(zeroed[:, :1], untouched)  # the empty set


def test_without_any_head_all_subjects_get_the_same_answer(toy: HookedTransformer) -> None:
    prompts = [encode(toy, fact) for fact in FACTS[:16]]  # of one relation, with four objects
    alike = [prompt for prompt in prompts if prompt.roles == prompts[0].roles]
    known, left = [], []
    for prompt in alike:
        question = AnswerMetric(prompt.answer_ids[0], prompt.answer_ids[0] + 1)
        known.append(plain(toy, prompt, question)[0])
        every = ablate(toy, prompt, question, [all_heads(toy)], zero_z(toy, prompt))
        left.append(every[0, 0])
    commonest = max(Counter(prompt.answer_ids[0] for prompt in alike).values())
    assert sum(left) < commonest + 1e-3  # n that have an answer cannot get more than n times its p
    assert sum(known) > 0.9 * len(alike) > 1.2 * commonest


@pytest.mark.parametrize("name", FAMILIES)
def test_ablation_equals_its_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    prompt = encode(model, FACT)
    n_pos = len(prompt.tokens)
    references = [encode(model, fact) for fact in (FACTS[1], FACTS[20])]
    for stand_in, positions in (
        (mean_z(model, references, prompt), None),
        (other_z(model, kin(model, prompt), prompt), [2, n_pos - 1]),
    ):
        fast = ablate(model, prompt, QUESTION, SETS, stand_in, positions)
        where = positions or list(range(n_pos))
        slow = [twin(model, prompt, heads, stand_in, where) for heads in SETS]
        assert_same_scores(fast, torch.stack(slow, dim=1))
        assert (fast[1, 1:] - fast[1, 0]).abs().min() > 1e-4  # every set matters


@pytest.mark.parametrize("name", FAMILIES)
def test_all_heads_of_another_prompt_say_what_it_says(family: FamilyOf, name: str) -> None:
    # the last token is the same: without attention nothing tells the two prompts apart there
    model = family(name).model
    prompt = encode(model, FACT)
    other = kin(model, prompt)
    assert other.tokens[-1] == prompt.tokens[-1]
    stand_in = other_z(model, other, prompt)
    swapped = ablate(model, prompt, QUESTION, [all_heads(model)], stand_in)
    assert_same_scores(swapped, plain(model, other))
    assert (swapped - plain(model, prompt))[1].abs() > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma3"])
def test_without_heads_only_the_last_token_speaks(family: FamilyOf, name: str) -> None:
    model = family(name).model
    prompt = encode(model, FACT)
    other = kin(model, prompt)
    one, two = (
        ablate(model, each, QUESTION, [all_heads(model)], zero_z(model, each))
        for each in (prompt, other)
    )
    assert_same_scores(one, two)
    assert (plain(model, prompt) - plain(model, other))[1].abs() > 1e-2


def test_the_mean_is_that_of_all_tokens_of_the_role(family: FamilyOf) -> None:
    model = family("llama").model
    prompt = encode(model, FACT)
    references = [encode(model, fact) for fact in FACTS[1:90:11]]
    assert len({len(one.tokens) for one in references}) > 1
    _, caches = zip(*(model.run_with_cache(one.tokens) for one in references), strict=True)
    found = mean_z(model, references, prompt)
    for layer in range(model.cfg.n_layers):
        for pos, role in enumerate(prompt.roles):
            of_role = [
                cache[get_act_name("z", layer)][0, place]
                for one, cache in zip(references, caches, strict=True)
                for place, other in enumerate(one.roles)
                if other == role
            ]
            mean = torch.stack(of_role).mean(0)
            torch.testing.assert_close(found[layer, pos], mean, atol=1e-5, rtol=0)
    by_role = {role: found[:, pos] for pos, role in enumerate(prompt.roles)}
    assert len(by_role) >= 4
    assert all(torch.equal(found[:, pos], by_role[role]) for pos, role in enumerate(prompt.roles))
    assert not torch.allclose(by_role["subject"], by_role["last"])


def test_more_sets_than_a_batch_holds_are_the_same(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, sets = encode(toy, FACT), [frozenset({head}) for head in sorted(all_heads(toy))]
    together = ablate(toy, prompt, QUESTION, sets, zero_z(toy, prompt))
    monkeypatch.setattr("probes.ablation.ROWS_PER_BATCH", 3)
    assert_same_scores(ablate(toy, prompt, QUESTION, sets, zero_z(toy, prompt)), together)
    assert len({round(float(value), 5) for value in together[1]}) > len(sets) - 3
    assert ablate(toy, prompt, QUESTION, [], zero_z(toy, prompt)).shape == (3, 0)


def test_nowhere_nothing_is_replaced(toy: HookedTransformer) -> None:
    prompt, question = encode(toy, FACT), asked(toy)
    nowhere = ablate(toy, prompt, question, [all_heads(toy)], zero_z(toy, prompt), [])
    assert_same_scores(nowhere, plain(toy, prompt, question))
    last = [len(prompt.tokens) - 1]
    there = ablate(toy, prompt, question, [all_heads(toy)], zero_z(toy, prompt), last)
    assert nowhere[0] - there[0] > 0.5


def test_the_model_and_the_stand_in_are_left_as_they_were(toy: HookedTransformer) -> None:
    prompt = encode(toy, FACT)
    stand_in, logits = own_z(toy, kin(toy, prompt)), toy(prompt.tokens[None])
    before = stand_in.clone()
    changed = ablate(toy, prompt, QUESTION, SETS, stand_in)
    assert torch.equal(stand_in, before)
    assert torch.equal(toy(prompt.tokens[None]), logits)
    assert (changed[1, 1:] != changed[1, 0]).all()


def test_a_role_that_no_reference_has_is_named(toy: HookedTransformer) -> None:
    prompt = encode(toy, FACT)
    without = replace(encode(toy, FACTS[1]), relation=())
    with pytest.raises(InputError, match="role 'relation', but none of 1 references"):
        mean_z(toy, [without], prompt)
    mean_z(toy, [without, encode(toy, FACTS[2])], prompt)  # one that has it is enough


def test_a_prompt_of_other_roles_cannot_stand_in(toy: HookedTransformer) -> None:
    prompt = encode(toy, FACT)
    other = replace(kin(toy, prompt), relation=())
    assert len(other.tokens) == len(prompt.tokens)
    with pytest.raises(InputError) as caught:
        other_z(toy, other, prompt)
    for roles in (prompt.roles, other.roles):
        assert ", ".join(roles) in str(caught.value)


def test_what_is_not_there_is_refused(toy: HookedTransformer) -> None:
    prompt = encode(toy, FACT)
    stand_in, n_pos = zero_z(toy, prompt), len(prompt.tokens)
    for absent in (Head(0, 4), Head(4, 0), Head(-1, 0)):
        with pytest.raises(InputError, match=f"no head {absent}: .* 4 layers of 4 heads"):
            ablate(toy, prompt, QUESTION, [SOME, SOME | {absent}], stand_in)
    for pos in (-1, n_pos):
        with pytest.raises(InputError, match=f"the prompt has positions 0 to {n_pos - 1}"):
            ablate(toy, prompt, QUESTION, [SOME], stand_in, [0, pos])
    with pytest.raises(InputError, match=rf"the stand-in has shape \(4, {n_pos - 1}, 4, "):
        ablate(toy, prompt, QUESTION, [SOME], stand_in[:, 1:])
