"""Parts of blocks that kedit computes itself equal TransformerLens' own modules."""

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.forward.runs import Run, both_states
from kedit.models import sites
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from probes.corrupt import add_noise, noise_rule
from tests.conftest import FamilyOf


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])  # plain, gated by SiLU and by GELU
@pytest.mark.parametrize("rows", [1, 7])
def test_an_mlp_in_buffers_equals_the_module(
    family: FamilyOf, name: str, rows: int, monkeypatch: pytest.MonkeyPatch
):
    block = family(name).model.blocks[1]
    assert block.mlp.act_fn in sites.IN_PLACE  # otherwise the module would be compared with itself
    monkeypatch.setattr(sites, "BUFFERED", 3 * block.mlp.W_in.shape[1])  # three tokens at a time
    read = torch.randn(2, rows, block.cfg.d_model, generator=torch.Generator().manual_seed(0))
    before = read.clone()
    found = sites.mlp_raw(block, read)
    torch.testing.assert_close(found, block.mlp(read), atol=1e-6, rtol=1e-5)
    assert torch.equal(read, before)


def test_an_mlp_with_a_hook_on_its_neurons_runs_the_hook(family: FamilyOf):
    model = family("llama").model
    block, read = model.blocks[1], torch.ones(1, 2, model.cfg.d_model)
    unhooked = sites.mlp_raw(block, read)
    with model.hooks(fwd_hooks=[("blocks.1.mlp.hook_pre_linear", lambda act, hook: 0 * act)]):
        assert not torch.allclose(sites.mlp_raw(block, read), unhooked)


@pytest.mark.parametrize("name", ["llama", "gptj", "neox", "gemma3"])  # both orders, parts, bases
def test_rotating_tokens_at_any_position_equals_rotating_whole_texts(family: FamilyOf, name: str):
    model = family(name).model
    block, n_ctx = model.blocks[1], 20
    keys = torch.randn(2, n_ctx, 4, model.cfg.d_head, generator=torch.Generator().manual_seed(0))
    expected = block.attn.apply_rotary(keys)
    row, positions = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([19, 3, 0, 4, 7])
    found = sites.rotated(block, keys[row, positions], positions, n_ctx)
    torch.testing.assert_close(found, expected[row, positions])
    assert not torch.allclose(found, keys[row, positions])


def test_two_runs_in_one_batch_are_as_they_are_alone(toy: HookedTransformer):
    fact = toy_module.facts()[0]
    prompt = encode(toy, fact)
    noise = noise_rule(toy, "s3", toy_module.facts(), "subject")
    corrupted = add_noise(toy, prompt, "subject", noise, samples=3, seed=0).run
    clean = Run(prompt.tokens[None])
    together = both_states(toy, clean, corrupted)
    for found, run in zip(together, (clean, corrupted), strict=True):
        alone = run.states(toy)
        for name in ("resid", "attn_out", "mlp_out", "z", "keys", "values"):
            layers = zip(getattr(found, name), getattr(alone, name), strict=True)
            for act, expected in layers:
                torch.testing.assert_close(act, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[1].resid[0], together[0].resid[0])
