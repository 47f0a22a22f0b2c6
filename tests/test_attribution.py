"""Attribution patching: right to first order, exact where the score is linear, and no more."""

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit import toy as toy_module
from kedit.errors import InputError
from kedit.metrics import METRICS, last_logits
from kedit.prompts import encode
from kedit.runs import Run, States
from kedit.stats import rank_correlation
from probes.attribution import attributed
from probes.corrupt import add_noise, noise_rule
from probes.patch import Patch, Question, sweep
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


def test_the_gradients_are_those_of_hooked_runs(toy: HookedTransformer):
    """The slow twin: one sample, one site, one autograd call through the whole model."""
    clean, corrupted = runs(toy)
    answer = Question(encode(toy, FACT).answer_ids[0], 7)
    said = attributed(toy, clean, corrupted, [Patch("z")], answer, ["logprob"])["z"][0]
    layer, name = 1, get_act_name("z", 1)
    slow = torch.zeros_like(said[layer])
    for sample, start in enumerate(corrupted.resid[0]):
        slopes: list[Tensor] = []
        leaf = corrupted.z[layer][sample : sample + 1].clone().requires_grad_()
        with torch.enable_grad():
            last = toy.run_with_hooks(
                start[None],
                start_at_layer=0,
                stop_at_layer=toy.cfg.n_layers,
                fwd_hooks=[(name, lambda act, hook, leaf=leaf: leaf)],
            )
            last_logits(toy, last[:, -1]).log_softmax(-1)[0, answer.answer].backward()
        assert leaf.grad is not None
        slopes.append(leaf.grad[0])
        slow += ((clean.z[layer][0] - leaf.detach()[0]) * slopes[0]).sum(-1) / len(corrupted.z[0])
    assert slow.abs().max() > 1e-3
    torch.testing.assert_close(said[layer], slow, atol=1e-6, rtol=1e-4)


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


def test_points_on_the_way_help_where_the_score_is_flat(toy: HookedTransformer):
    clean, corrupted = runs(toy)
    question = Question(encode(toy, FACT).answer_ids[0], 7)
    gained = []
    for patch in PLAIN:
        exact = sweep(toy, clean, corrupted, patch, question).indirect_effect("logprob").flatten()
        ranked = []
        for steps in (1, 8):
            said = attributed(toy, clean, corrupted, [patch], question, ["logprob"], steps)
            ranked.append(rank_correlation(exact.numpy(), said[patch.site][0].flatten().numpy()))
        assert ranked[1] > 0.5, (patch, ranked)
        gained.append(ranked[1] - ranked[0])
    assert sum(gained) > 0.1, gained


def test_the_model_and_its_hooks_are_as_before(toy: HookedTransformer):
    before = {name: weight.clone() for name, weight in toy.state_dict().items()}
    clean, corrupted = runs(toy)
    attributed(toy, clean, corrupted, PLAIN, QUESTION)
    assert all(torch.equal(weight, before[name]) for name, weight in toy.state_dict().items())
    assert not any(weight.grad is not None for weight in toy.parameters())
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())


def test_what_has_no_gradient_is_refused(toy: HookedTransformer):
    clean, corrupted = runs(toy)
    with pytest.raises(InputError, match="severed effects have no gradient"):
        attributed(toy, clean, corrupted, [Patch("resid_post", severed="mlp_out")], QUESTION)
    with pytest.raises(InputError, match="0 steps"):
        attributed(toy, clean, corrupted, PLAIN, QUESTION, steps=0)
    longer = Run(torch.cat([encode(toy, FACT).tokens, torch.tensor([5])])[None]).states(toy)
    with pytest.raises(InputError, match="tokens, the corrupted one"):
        attributed(toy, longer, corrupted, PLAIN, QUESTION)
