"""Attribution patching: right to first order, exact where the score is linear, and no more."""

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, last_logits
from kedit.forward.runs import Run, States
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from probes.attribution import attributed
from probes.corrupt import add_noise, noise_rule
from probes.patch import AnswerMetric, Patch, sweep
from tests.conftest import FAMILIES, QUESTION, FamilyOf, clean_run

FACT = toy_module.facts()[0]
PLAIN = (Patch("resid_post"), Patch("mlp_out"), Patch("attn_out"), Patch("z"))


def runs(model: HookedTransformer, scale: str = "s3") -> tuple[States, States]:
    """Clean and corrupted; small noise leaves the second near the first."""
    noise = noise_rule(model, scale, toy_module.facts(), "subject")
    corruption = add_noise(model, encode(model, FACT), "subject", noise, samples=3, seed=0)
    return clean_run(model, FACT).states(model), corruption.run.states(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_difference_has_the_effect_that_it_is_said_to_have(name: str, family: FamilyOf):
    model = family(name).model
    clean, corrupted = runs(model, "0.002")
    said = attributed(model, clean, corrupted, PLAIN, QUESTION)
    for patch in PLAIN:
        grid = sweep(model, clean, corrupted, patch, QUESTION)
        exact = torch.stack([grid.indirect_effect(metric) for metric in METRICS])
        for one, other in zip(said[patch.site][1:], exact[1:], strict=True):  # in nats, in logits
            assert other.abs().max() > 1e-4  # something to be right about
            off = (one - other).norm() / other.norm()
            assert off < 0.15, (patch, float(off))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradients_are_those_of_hooked_runs(toy: HookedTransformer, steps: int):
    """The slow twin: one sample, one site, one point on the way, one autograd call at a time."""
    clean, corrupted = runs(toy)
    answer = AnswerMetric(encode(toy, FACT).answer_ids[0], 7)
    layer, name = 1, get_act_name("z", 1)
    said = attributed(toy, clean, corrupted, [Patch("z")], answer, ["logprob"], steps)["z"][0]
    slow = torch.zeros_like(said[layer])
    for sample, start in enumerate(corrupted.resid[0]):
        for step in range(steps):
            between = start + (clean.resid[0][0] - start) * step / steps
            slope = z_slope(toy, between, name, answer.answer)
            moved = clean.z[layer][0] - corrupted.z[layer][sample]
            slow += (moved * slope).sum(-1) / steps / len(corrupted.z[0])
    assert slow.abs().max() > 1e-3
    torch.testing.assert_close(said[layer], slow, atol=1e-5, rtol=1e-4)
    others = attributed(toy, clean, corrupted, [Patch("z")], answer, ["logprob"], 4 - steps)
    assert (others["z"][0][layer] - slow).abs().max() > 1e-3  # it matters how many points there are


def z_slope(model: HookedTransformer, start: Tensor, name: str, answer: int) -> Tensor:
    """How the answer's log-probability changes with z, in the run with `start` as embeddings."""
    with torch.no_grad():
        _, cache = model.run_with_cache(start[None], start_at_layer=0, names_filter=name)
    leaf = cache[name].clone().requires_grad_()
    with torch.enable_grad():
        last = model.run_with_hooks(
            start[None],
            start_at_layer=0,
            stop_at_layer=model.cfg.n_layers,
            fwd_hooks=[(name, lambda act, hook: leaf)],
        )
        last_logits(model, last[:, -1]).log_softmax(-1)[0, answer].backward()
    assert leaf.grad is not None
    return leaf.grad[0]


def test_what_corruption_left_alone_is_said_to_have_no_effect(toy: HookedTransformer):
    clean, corrupted = runs(toy)
    first = encode(toy, FACT).positions("subject")[0]
    for site, said in attributed(toy, clean, corrupted, PLAIN, QUESTION).items():
        assert said[:, :, :first].abs().max() < 1e-6, site
        assert said[:, :, first:].abs().max() > 1e-4, site


def test_windows_add_up_their_layers(toy: HookedTransformer):
    clean, corrupted = runs(toy)
    alone = attributed(toy, clean, corrupted, [Patch("mlp_out")], QUESTION)["mlp_out"]
    window = Patch("mlp_out", 3)
    together = attributed(toy, clean, corrupted, [window], QUESTION)["mlp_out"]
    for layer in range(toy.cfg.n_layers):
        own = window.layers(layer, toy.cfg.n_layers)
        torch.testing.assert_close(together[:, layer], alone[:, own[0] : own[-1] + 1].sum(1))
    assert not torch.allclose(together, alone)


def test_the_model_and_its_hooks_are_as_before(toy: HookedTransformer):
    before = {name: weight.clone() for name, weight in toy.state_dict().items()}
    clean, corrupted = runs(toy)
    attributed(toy, clean, corrupted, PLAIN, QUESTION)
    assert all(torch.equal(weight, before[name]) for name, weight in toy.state_dict().items())
    assert not any(weight.grad is not None for weight in toy.parameters())
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())


def test_what_has_no_gradient_is_refused(toy: HookedTransformer):
    clean, corrupted = runs(toy)
    with pytest.raises(InputError, match="severed effects cannot be estimated by gradients"):
        attributed(toy, clean, corrupted, [Patch("resid_post", severed="mlp_out")], QUESTION)
    with pytest.raises(InputError, match="steps 0: must be at least 1"):
        attributed(toy, clean, corrupted, PLAIN, QUESTION, steps=0)
    longer = Run(torch.cat([encode(toy, FACT).tokens, torch.tensor([5])])[None]).states(toy)
    with pytest.raises(InputError, match="tokens, the corrupted run"):
        attributed(toy, longer, corrupted, PLAIN, QUESTION)
