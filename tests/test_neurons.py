"""Attributions of neurons: they add up to what their key brings, and equal a slow twin's."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing import neurons
from kedit.editing.neurons import Activation, Neuron, above, attributions, refined
from kedit.editing.write_sites import Half, WriteSite, flat_keys
from kedit.errors import InputError
from kedit.forward.reading import Tokens
from kedit.models.sites import has_post_norms
from tests.conftest import FamilyOf

PROMPT: Tokens = (0, 5, 9, 200, 201, 30, 77)
HALVES: tuple[Half, ...] = ("mlp", "attn")
FAMILIES = ("gpt2", "gptj", "neox", "neo", "llama", "mistral", "qwen3", "gemma3", "opt")
by_family = pytest.mark.parametrize("name", FAMILIES)
Hook = tuple[str, Callable[..., Tensor]]


def at_the_last_token(name: str, value: Tensor) -> Hook:
    """A hook that puts `value` in place of what is there."""

    def hook(act: Tensor, hook: object) -> Tensor:
        act = act.clone()
        act[0, -1] = value.reshape(act[0, -1].shape)
        return act

    return name, hook


def likelihood(model: HookedTransformer, prompt: Tokens, token: int, *hooks: Hook) -> Tensor:
    logits = model.run_with_hooks(torch.tensor([prompt]), fwd_hooks=[*hooks])
    return logits[0, -1].softmax(-1)[token]


def said(model: HookedTransformer, prompt: Tokens = PROMPT) -> int:
    """The likeliest token: its probability is far from 0."""
    return int(model(torch.tensor([prompt]))[0, -1].argmax())


def slow(
    model: HookedTransformer,
    prompt: Tokens,
    token: int,
    half: Half,
    steps: int,
    activation: Activation = "post",
) -> Tensor:
    """The whole model for every α, one after the other; a post-norm divides as it does without."""
    _, clean = model.run_with_cache(torch.tensor([prompt]))
    rows = []
    for layer in range(model.cfg.n_layers):
        site = WriteSite(layer, half)
        name = site.key_hook if activation == "post" else get_act_name("pre", layer)
        act, held = flat_keys(clean[name])[0, -1], []
        if has_post_norms(model):
            divisor = get_act_name("scale", layer, "ln2_post" if half == "mlp" else "ln1_post")
            held = [at_the_last_token(divisor, clean[divisor][0, -1])]
        total = torch.zeros_like(act)
        for alpha in torch.linspace(0, 1, steps):
            leaf = (alpha * act).requires_grad_()
            prob = likelihood(model, prompt, token, at_the_last_token(name, leaf), *held)
            total += torch.autograd.grad(prob, leaf)[0]
        rows.append(act * total / steps)
    return torch.stack(rows)


def assert_same(one: Tensor, other: Tensor) -> None:
    assert other.abs().max() > 1e-3  # of all probability
    torch.testing.assert_close(one, other, atol=1e-3 * float(other.abs().max()), rtol=1e-3)


@by_family
def test_a_layers_attributions_add_up_to_what_its_key_brings(family: FamilyOf, name: str) -> None:
    model = family(name).model
    token = said(model)
    found = attributions(model, PROMPT, (token,), HALVES, steps=1500)
    whole = likelihood(model, PROMPT, token)
    for half in HALVES:
        brought = torch.empty(model.cfg.n_layers)
        for layer in range(model.cfg.n_layers):
            site = WriteSite(layer, half)
            nothing = at_the_last_token(site.key_hook, torch.zeros(site.d_key(model)))
            brought[layer] = whole - likelihood(model, PROMPT, token, nothing)
        assert brought.abs().max() > 0.02  # there is something to add up to
        rounding = 0.02 * float(brought.abs().max())
        torch.testing.assert_close(found[half].sum(1), brought, atol=rounding, rtol=0)


@by_family
@pytest.mark.parametrize("half", HALVES)
def test_attributions_equal_the_slow_twins(family: FamilyOf, name: str, half: Half) -> None:
    model = family(name).model
    token = said(model)
    found = attributions(model, PROMPT, (token,), (half,), steps=5)
    assert set(found) == {half}
    assert_same(found[half], slow(model, PROMPT, token, half, steps=5))


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma3", "opt"])
def test_before_the_nonlinearity_too(family: FamilyOf, name: str) -> None:
    model = copy.deepcopy(family(name).model)
    bias = model.get_parameter("blocks.2.mlp.b_in")
    bias.copy_(torch.linspace(-1, 1, len(bias)))  # in a gated MLP no family has one
    token = said(model)
    pre, post = (
        attributions(model, PROMPT, (token,), steps=5, activation=activation)["mlp"]
        for activation in ("pre", "post")
    )
    assert_same(pre, slow(model, PROMPT, token, "mlp", steps=5, activation="pre"))
    assert (pre - post).abs().max() > 0.02 * post.abs().max()


def test_only_mlps_have_neurons_before_the_nonlinearity(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family("gpt2").model
    for n_left in (0, 1):
        with pytest.raises(InputError, match="'pre' is only for MLPs"):
            attributions(model, PROMPT, (3,), HALVES[n_left:], activation="pre")
    monkeypatch.setattr(model.cfg, "act_fn", "solu_ln")
    with pytest.raises(InputError, match="that don't normalise their neurons"):
        attributions(model, PROMPT, (3,), activation="pre")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_answer_of_several_tokens_is_the_mean_over_them(family: FamilyOf, name: str) -> None:
    model = family(name).model
    answer = (first := said(model), second := said(model, (*PROMPT, first)), 40)
    texts = (PROMPT, (*PROMPT, first), (*PROMPT, first, second))

    def mean(texts: Sequence[Tokens], half: Half) -> Tensor:
        pairs = zip(texts, answer, strict=True)
        return torch.stack([slow(model, text, token, half, 4) for text, token in pairs]).mean(0)

    for half in HALVES:
        behind, unmoved = (
            attributions(model, PROMPT, answer, (half,), 4, extend=extend)[half]
            for extend in (True, False)
        )
        assert_same(behind, mean(texts, half))
        assert_same(unmoved, mean((PROMPT,) * 3, half))
        assert (behind - unmoved).abs().max() > 0.1 * behind.abs().max()


@pytest.mark.parametrize("rows", [1, 7, 11, 30])
def test_how_many_copies_are_in_work_at_once_changes_nothing(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    model = family("llama").model
    token = said(model)
    whole = attributions(model, PROMPT, (token,), HALVES, steps=10)
    monkeypatch.setattr(neurons, "ROWS", rows)
    parts = attributions(model, PROMPT, (token,), HALVES, steps=10)
    for half in HALVES:
        assert_same(parts[half], whole[half])


def test_a_held_divisor_is_what_makes_twenty_steps_enough_behind_a_post_norm(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family("gemma3").model
    token = said(model)

    def excess() -> float:
        """The most that attributions add up to beyond what any key could bring."""
        return float(attributions(model, PROMPT, (token,), HALVES)["mlp"].sum(1).abs().max()) - 1

    assert excess() < 0
    monkeypatch.setattr(neurons, "_written", lambda model, one, acts: one.site.written(
        model, acts @ one.site.weight(model)
    ))  # fmt: skip
    assert excess() > 1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_the_model_is_left_as_it_was_even_where_gradients_are_off(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = attributions(model, PROMPT, (300, 301), HALVES)
    with torch.no_grad():
        again = attributions(model, PROMPT, (300, 301), HALVES)
    assert all(torch.equal(found[half], again[half]) for half in HALVES)
    assert not any(values.requires_grad for values in found.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())


def test_weights_that_are_being_trained_get_no_gradients(family: FamilyOf) -> None:
    model = family("gpt2").model
    token = said(model)
    still = attributions(model, PROMPT, (token,), HALVES)
    try:
        model.requires_grad_(True)
        trained = attributions(model, PROMPT, (token,), HALVES)
        assert not any(weight.grad is not None for weight in model.parameters())
    finally:
        model.requires_grad_(False)
    for half in HALVES:
        assert not trained[half].requires_grad
        assert_same(trained[half], still[half])


def test_live_hooks_are_refused(family: FamilyOf) -> None:
    model = family("gpt2").model
    with (
        model.hooks(fwd_hooks=[(get_act_name("z", 0), lambda act, hook: act)]),
        pytest.raises(InputError, match=r"live hooks \(blocks\.0\.attn\.hook_z\)"),
    ):
        attributions(model, PROMPT, (3,))


@pytest.mark.parametrize("name", ["bloom", "gemma2", "olmo3"])
def test_other_kinds_of_attention_are_refused(family: FamilyOf, name: str) -> None:
    with pytest.raises(InputError, match="supports plain softmax attention only"):
        attributions(family(name).model, PROMPT, (3,))


def neuron(layer: int, half: Half, index: int) -> Neuron:
    return Neuron(WriteSite(layer, half), index)


FOUND: Mapping[Half, Tensor] = {
    "mlp": torch.tensor([[1.0, 0.5, -2.0], [0.25, 0.0, 0.51]]),
    "attn": torch.tensor([[0.5, 0.75], [-0.5, 0.1]]),
}


@pytest.mark.parametrize(
    ("found", "threshold", "wanted"),
    [
        # what is just at the threshold is left out
        (FOUND, 0.5, {("mlp", 0, 0), ("mlp", 1, 2), ("attn", 0, 1)}),
        (FOUND, 0.75, {("mlp", 0, 0)}),
        (FOUND, 1.0, set()),
        ({"attn": FOUND["attn"]}, 0.9, {("attn", 0, 1)}),  # the most of what there is
        ({"mlp": -FOUND["mlp"].abs()}, 0.2, set()),
        ({"mlp": torch.zeros(2, 3)}, 0.0, set()),
        ({}, 0.2, set()),
    ],
)
def test_neurons_above_a_share_of_the_most_that_any_brings(
    found: dict[Half, Tensor], threshold: float, wanted: set[Any]
) -> None:
    chosen = above(found, threshold)
    assert {(one.site.half, one.site.layer, one.index) for one in chosen} == wanted
    assert all(isinstance(one, Neuron) for one in chosen)


def test_refined_neurons_are_in_more_than_a_share_of_the_sets() -> None:
    a, b, c = neuron(0, "mlp", 1), neuron(0, "attn", 1), neuron(1, "mlp", 1)
    sets = [frozenset({a, b}), frozenset({a, b}), frozenset({a, c}), frozenset({a})]
    assert refined(sets, 0.0) == {a, b, c}
    assert refined(sets, 0.25) == {a, b}  # c is in just a quarter
    assert refined(sets, 0.49) == {a, b}
    assert refined(sets, 0.5) == {a}
    assert refined(sets, 1.0) == frozenset()
    # a hundredth of rounding is no hundredth more: 0.29 * 100 is below 29
    some = [frozenset({a})] * 29 + [frozenset()] * 71
    assert refined(some, 0.29) == frozenset() and refined(some, 0.28) == {a}
