"""Gradients as factors of tokens: what autograd finds on the weights themselves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.edit import Delta, LowRank
from kedit.editing.factors import LinearMap, gradient_factors
from kedit.editing.teaching import Lesson, demanded, lesson, recited, trainable
from kedit.errors import InputError
from kedit.forward.metrics import losses_and_slope
from kedit.models import toy as toy_module
from tests.conftest import FamilyOf

REQUESTS = [case.entity for case in toy_module.cases()[:3]]
PLAIN = ("gpt2", "gptj", "neox", "opt")
GATED = ("llama", "gemma3")  # grouped heads, too
NAMES = ("W_in", "W_out", "W_V", "W_O")


def asked(model: HookedTransformer, layer: int = 1) -> Lesson:
    return lesson(model, layer, demanded(model, REQUESTS, removal=False))


def dense(delta: Delta, weight: Tensor) -> Tensor:
    whole = delta.left @ delta.right if isinstance(delta, LowRank) else delta
    return whole.view(weight.shape)


@pytest.mark.parametrize("name", [*PLAIN, *GATED])
def test_the_factors_add_up_to_the_gradient_on_every_matrix(family: FamilyOf, name: str) -> None:
    model = family(name).model
    taught = asked(model)
    names = (*NAMES, "W_gate") if name in GATED else NAMES
    maps = [LinearMap(layer, one) for layer in (1, 3) for one in names]
    factors, nll = gradient_factors(model, taught, maps)
    parameters = {one: one.parameter(model) for one in maps}
    with trainable(model, list(parameters.values())) as weights, torch.enable_grad():
        read = recited(model, taught)
        each, _, _, slope = losses_and_slope(model, read.detach(), taught.targets, taught.shares)
        read.backward(slope)
        for one in maps:
            weight = weights[parameters[one]]
            assert weight.grad is not None and weight.grad.abs().max() > 1e-4
            own = dense(one.delta(model, factors[one].read.T, factors[one].slope), weight)
            torch.testing.assert_close(own, weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(nll, each)


def test_the_losses_slope_is_autograds(toy: HookedTransformer) -> None:
    taught = asked(toy)
    with torch.enable_grad():
        read = recited(toy, taught).detach().requires_grad_(True)
        logits = read @ toy.unembed.W_U + toy.unembed.b_U
        nll = -logits.log_softmax(-1)[torch.arange(len(read)), taught.targets]
        (taught.shares * nll).sum().backward()
    each, _, _, slope = losses_and_slope(toy, read.detach(), taught.targets, taught.shares)
    torch.testing.assert_close(each, nll.detach(), atol=1e-5, rtol=1e-5)
    assert read.grad is not None
    torch.testing.assert_close(slope, read.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])  # capped logits, too
@pytest.mark.parametrize("way", ["now || before", "before || now"])
def test_either_divergence_has_autograds_slope(family: FamilyOf, name: str, way: str) -> None:
    model = family(name).model
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, model.cfg.d_model, generator=generator)
    before = torch.randn(3, model.cfg.d_vocab, generator=generator).log_softmax(-1)
    targets, shares = torch.tensor([7, 300]), torch.tensor([0.25, 0.5])
    stay_shares = torch.tensor([1.0, 0.0, 2.0])
    nll, kl, _, slope = losses_and_slope(
        model,
        rows,
        targets,
        shares,
        stay_shares,
        before,
        way,  # pyright: ignore
    )
    with torch.enable_grad():
        read = rows.clone().requires_grad_(True)
        logits = read @ model.unembed.W_U + model.unembed.b_U
        cap = model.cfg.output_logits_soft_cap
        now = (cap * torch.tanh(logits / cap) if cap > 0 else logits).log_softmax(-1)
        first, second = (now[2:], before) if way == "now || before" else (before, now[2:])
        drifted = (first.exp() * (first - second)).sum(-1)
        own = -now[torch.arange(2), targets]
        ((shares * own).sum() + (stay_shares * drifted).sum()).backward()
    torch.testing.assert_close(nll, own.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kl, drifted.detach(), atol=1e-5, rtol=1e-5)
    assert read.grad is not None and read.grad[2:].abs().max() > 1e-2
    torch.testing.assert_close(slope, read.grad, atol=1e-5, rtol=1e-4)


def test_tokens_know_their_rows_and_those_that_bring_nothing_are_left_out(
    toy: HookedTransformer,
) -> None:
    taught = asked(toy, layer=3)
    site = LinearMap(3, "W_out")
    factors, _ = gradient_factors(toy, taught, [site])
    # in the last layer only what is read is asked: the last token and those of the target
    assert len(factors[site].row) == len(taught.index)
    assert factors[site].row.tolist() == sorted(taught.index.tolist())
    half = replace(taught, shares=torch.where(taught.index == 0, taught.shares, 0.0))
    assert set(gradient_factors(toy, half, [site])[0][site].row.tolist()) == {0}


def test_the_model_and_its_hooks_are_left_as_they_were(toy: HookedTransformer) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    gradient_factors(toy, asked(toy), [LinearMap(2, "W_in"), LinearMap(2, "W_V")])
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert not any(weight.grad is not None or weight.requires_grad for weight in toy.parameters())
    assert not toy.hook_dict[get_act_name("v", 2)].fwd_hooks


def test_a_matrix_that_is_not_there_is_named(toy: HookedTransformer) -> None:
    with pytest.raises(InputError, match=r"toy has no blocks\.2\.mlp\.W_gate"):
        LinearMap(2, "W_gate").parameter(toy)
    with pytest.raises(InputError, match=r"toy has no blocks\.9\.attn\.W_V"):
        LinearMap(9, "W_V").widths(toy)
