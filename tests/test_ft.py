"""FT and FT+L: bounds, losses, what is trained; the model is left alone, whatever happens."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.edit import Edit
from kedit.editing.write_sites import WriteSite
from kedit.editors import ft as module
from kedit.editors.ft import FT
from kedit.errors import InputError
from kedit.facts import EditRequest, Fact
from kedit.models import toy as toy_module
from kedit.models.prompts import answer_ids, prompt_ids
from tests.conftest import FamilyOf, log_odds

CASES = toy_module.cases()
REQUESTS = [case.entity for case in CASES[:3]]
LONG = replace(REQUESTS[0], target="first dentist")
W_OUT, B_OUT = "blocks.1.mlp.W_out", "blocks.1.mlp.b_out"
FT_1 = FT(layer=1, steps=5, lr=5e-3)


def moved(edit: Edit, name: str = W_OUT) -> Tensor:
    delta = edit.deltas[name]
    assert isinstance(delta, Tensor)
    return delta


@torch.no_grad()
def logprob(model: HookedTransformer, fact: Fact, target: str) -> float:
    """Mean over the target's tokens, each behind those before it."""
    prompt, wanted = prompt_ids(model, fact.prompt), answer_ids(model, fact.prompt, target)
    said = model(torch.tensor([[*prompt, *wanted]]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return float(said[range(len(wanted)), wanted].mean())


def assert_untouched(model: HookedTransformer, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())


def state(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_makes_the_model_say_every_target(toy: HookedTransformer) -> None:
    edit = replace(FT_1, steps=25)(toy, REQUESTS)
    before = [logprob(toy, one.fact, one.target) for one in REQUESTS]
    with edit.applied(toy):
        after = [logprob(toy, one.fact, one.target) for one in REQUESTS]
    assert max(before) < -3 and min(after) > -0.5  # nats


@pytest.mark.parametrize("bound", [0.02, 1e-3])
def test_no_number_moves_further_than_the_bound(toy: HookedTransformer, bound: float) -> None:
    edit = replace(FT_1, bound=bound)(toy, REQUESTS)
    for name in (W_OUT, B_OUT):
        weight = dict(toy.named_parameters())[name]
        # start - bound and start + bound are rounded, and so is what is left of them without start
        rounding = 2 * torch.finfo(weight.dtype).eps * (weight.abs().max() + bound)
        largest = moved(edit, name).abs().max()
        assert bound - rounding <= largest <= bound + rounding
        assert moved(FT_1(toy, REQUESTS), name).abs().max() > 1.1 * bound  # it is in the way


def test_only_a_relation_edit_that_is_told_so_trains_its_removal(toy: HookedTransformer) -> None:
    request = CASES[0].request("relation")
    assert request.removal is not None
    alone = FT_1(toy, [replace(request, removal=None)])
    adding, both = (replace(FT_1, removal=removal)(toy, [request]) for removal in (False, True))
    assert torch.equal(moved(adding), moved(alone))
    assert not torch.equal(moved(both), moved(alone))
    lifts = []
    for edit in (adding, both):
        before = log_odds(logprob(toy, request.removal, "None"))
        with edit.applied(toy):
            lifts.append(log_odds(logprob(toy, request.removal, "None")) - before)
    assert lifts[1] > 1 + max(lifts[0], 0)
    entity = [replace(FT_1, removal=removal)(toy, REQUESTS) for removal in (False, True)]
    assert torch.equal(moved(entity[0]), moved(entity[1]))  # an entity edit has none


@pytest.mark.parametrize(
    ("name", "names"),
    [("gpt2", {W_OUT, B_OUT}), ("gptj", {W_OUT, B_OUT}), ("llama", {W_OUT}), ("gemma3", {W_OUT})],
)
def test_a_bias_is_trained_where_the_family_has_one(
    family: FamilyOf, name: str, names: set[str]
) -> None:
    model = family(name).model
    edit = FT_1(model, REQUESTS)
    assert set(edit.deltas) == names and all(moved(edit, one).any() for one in names)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("bound", [0.0, 1e-3])
def test_the_model_is_left_as_it_was(family: FamilyOf, name: str, bound: float) -> None:
    model = family(name).model
    before = state(model)
    edit = replace(FT_1, bound=bound)(model, REQUESTS)
    assert_untouched(model, before)
    with edit.applied(model):
        assert not torch.equal(model.state_dict()[W_OUT], before[W_OUT])


def test_the_model_is_left_as_it_was_when_training_fails(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, recited, n_calls = state(toy), module.recited, []

    def fail_at_the_third(*args: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) == 3:
            # the control: two steps are made, and the weight is open
            assert not torch.equal(toy.state_dict()[W_OUT], before[W_OUT])
            assert dict(toy.named_parameters())[W_OUT].requires_grad
            raise RuntimeError("no memory")
        return recited(*args)

    monkeypatch.setattr(module, "recited", fail_at_the_third)
    with pytest.raises(RuntimeError, match="no memory"):
        FT_1(toy, REQUESTS)
    assert_untouched(toy, before)


def test_training_ends_at_the_loss_it_is_told_to(toy: HookedTransformer) -> None:
    after = [replace(FT_1, steps=steps, stop=0.0)(toy, REQUESTS) for steps in range(5)]
    losses = []
    for edit in after:
        with edit.applied(toy):
            losses.append(-sum(logprob(toy, one.fact, one.target) for one in REQUESTS) / 3)
    assert losses == sorted(losses, reverse=True)
    early = replace(FT_1, steps=25, stop=(losses[2] + losses[3]) / 2)(toy, REQUESTS)
    assert torch.equal(moved(early), moved(after[3]))


def test_a_goal_that_is_met_already_needs_no_change(toy: HookedTransformer) -> None:
    edit = replace(FT_1, stop=1e9)(toy, REQUESTS)
    assert not moved(edit).any() and not moved(edit, B_OUT).any()


def test_losses_differ_for_a_target_of_several_tokens_only(toy: HookedTransformer) -> None:
    for request, n_tokens in ((LONG, 5), (REQUESTS[0], 1)):
        assert len(answer_ids(toy, request.fact.prompt, request.target)) == n_tokens
        both = [
            moved(FT(layer=1, steps=5, lr=5e-3, loss=loss)(toy, [request]))
            for loss in ("upstream", "autoregressive")
        ]
        size = both[0].norm()
        if n_tokens > 1:
            assert (both[0] - both[1]).norm() > 0.1 * size
        else:
            assert (both[0] - both[1]).norm() < 1e-5 * size


def test_the_autoregressive_loss_makes_a_target_of_several_tokens_likelier(
    toy: HookedTransformer,
) -> None:
    after = {}
    for loss in ("upstream", "autoregressive"):
        with FT(layer=1, lr=5e-3, loss=loss)(toy, [LONG]).applied(toy):
            after[loss] = logprob(toy, LONG.fact, LONG.target)
    assert after["autoregressive"] > after["upstream"] + 2  # nats


def test_batches_make_a_step_each(toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    recited, n_calls = module.recited, []
    monkeypatch.setattr(module, "recited", lambda *args: n_calls.append(1) or recited(*args))
    edits = []
    for batch, n_steps in ((128, 2), (3, 2), (2, 4), (1, 6)):
        n_calls.clear()
        edits.append(moved(replace(FT_1, steps=2, batch=batch)(toy, REQUESTS)))
        assert len(n_calls) == n_steps
    whole, exact, pairs, single = edits
    assert torch.equal(whole, exact)
    assert not torch.equal(whole, pairs) and not torch.equal(pairs, single)


def test_padding_beside_longer_prompts_changes_nothing(toy: HookedTransformer) -> None:
    long = replace(REQUESTS[0].fact, template="The harp of the old {} is in", relation_words=())
    pair: list[EditRequest] = [REQUESTS[0], replace(REQUESTS[0], fact=long)]
    one, other = (moved(FT_1(toy, requests)) for requests in (pair, list(reversed(pair))))
    assert (one - other).norm() < 1e-4 * one.norm()
    twice = moved(FT_1(toy, pair[:1] * 2))
    assert (twice - moved(FT_1(toy, pair[:1]))).norm() < 1e-4 * twice.norm()
    assert (twice - one).norm() > 0.1 * one.norm()


@pytest.mark.parametrize("name", ["gemma2", "bloom", "olmo3"])
def test_odd_attention_is_refused(family: FamilyOf, name: str) -> None:
    model = family(name).model
    with pytest.raises(InputError, match=f"{model.cfg.original_architecture}.* attention"):
        FT_1.on(model)(REQUESTS)


@pytest.mark.parametrize("name", ["gemma2", "bloom", "olmo3"])
def test_odd_attention_is_refused_by_the_plain_call_too(family: FamilyOf, name: str) -> None:
    model = family(name).model
    with pytest.raises(InputError, match=f"{model.cfg.original_architecture}.* attention"):
        FT_1(model, REQUESTS)


@pytest.mark.parametrize("way", ["on", "call"])
def test_live_hooks_are_refused(toy: HookedTransformer, way: str) -> None:
    with (
        toy.hooks(fwd_hooks=[(get_act_name("mlp_out", 2), lambda act, hook: 0 * act)]),
        pytest.raises(InputError, match="hooks"),
    ):
        FT_1.on(toy)(REQUESTS) if way == "on" else FT_1(toy, REQUESTS)


def test_a_layer_that_is_not_there_is_named(toy: HookedTransformer) -> None:
    assert WriteSite(1).parameter == W_OUT
    with pytest.raises(InputError, match=r"has no blocks\.9\.mlp\.W_out: it has 4 layers"):
        FT(layer=9)(toy, REQUESTS)
