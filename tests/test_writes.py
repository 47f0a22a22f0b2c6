"""Write sites: a linear memory in every family, MLP and attention alike."""

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.keys import LastTokens, last_keys
from kedit.editing.write_sites import WriteSite, flat, read_keys
from kedit.errors import InputError
from tests.conftest import FAMILIES, FamilyOf

TOKENS = torch.tensor([[0, 5, 9, 200, 201], [0, 7, 11, 13, 17]])
HALVES = ("mlp", "attn")


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_what_is_written_is_key_times_weight_behind_the_post_norm(
    family: FamilyOf, name: str, half: str
) -> None:
    model = family(name).model
    site = WriteSite(2, half)  # pyright: ignore[reportArgumentType]
    keys = read_keys(model, TOKENS, [site])[site]
    assert keys.shape == (2, 5, site.d_key(model))
    raw = keys @ site.weight(model) + site.bias(model)
    _, cache = model.run_with_cache(TOKENS, attention_mask=torch.ones_like(TOKENS))
    written = cache[site.raw_hook]
    assert written.abs().max() > 1e-3
    torch.testing.assert_close(site.written(model, raw), written, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_flat_weight_is_a_view_of_the_parameter(family: FamilyOf, name: str) -> None:
    model = family(name).model
    for half in HALVES:
        site = WriteSite(1, half)  # pyright: ignore[reportArgumentType]
        parameter = dict(model.named_parameters())[site.parameter]
        assert site.weight(model).data_ptr() == parameter.data_ptr()
        assert torch.equal(site.weight(model), flat(parameter))
        assert site.weight(model).shape == (site.d_key(model), model.cfg.d_model)


def test_keys_of_several_sites_come_from_one_forward_up_to_the_highest(
    toy: HookedTransformer,
) -> None:
    sites = [WriteSite(0, "attn"), WriteSite(2), WriteSite(1, "attn")]
    above: list[int] = []
    name = get_act_name("resid_pre", 3)
    with toy.hooks(fwd_hooks=[(name, lambda act, hook: above.append(1))]):
        keys = read_keys(toy, TOKENS, sites)
    assert set(keys) == set(sites) and not above
    for site in sites:
        assert torch.equal(keys[site], read_keys(toy, TOKENS, [site])[site])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_last_tokens_read_from_a_layer_up_have_the_keys_of_a_whole_forward(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    texts = [(0, 5, 9, 200, 201), (0, 7, 11)]
    read = LastTokens(model, texts, 1)
    sites = [WriteSite(layer, half) for layer in (1, 2) for half in HALVES]  # pyright: ignore
    before = read.keys(sites)
    weight = sites[1].weight(model)
    kept = weight.clone()
    try:
        weight.mul_(1.5)  # W_O of layer 1, as an edit from there up would change it
        for keys in (read.keys(sites), last_keys(model, sites, texts)):
            for number, text in enumerate(texts):
                alone = read_keys(model, torch.tensor([text]), sites)
                for site in sites:
                    torch.testing.assert_close(
                        keys[site][number], alone[site][0, -1], atol=1e-4, rtol=1e-4
                    )
        assert not torch.equal(read.keys(sites)[WriteSite(2)], before[WriteSite(2)])
        edited = read.keys([WriteSite(2)])[WriteSite(2)]
        _, cache = model.run_with_cache(torch.tensor(texts[:1]))
        after = cache[get_act_name("resid_post", 2)][0, -1]
        for layer in (1, 2):
            read.advance(layer)
            torch.testing.assert_close(read.residuals(2)[0], after, atol=1e-4, rtol=1e-4)
        weight.copy_(kept)  # below the layer that the cache is at: no longer seen
        torch.testing.assert_close(read.keys([WriteSite(2)])[WriteSite(2)], edited)
    finally:
        weight.copy_(kept)


@pytest.mark.parametrize("layer", [4, -1])
def test_a_layer_that_is_not_there_is_refused(toy: HookedTransformer, layer: int) -> None:
    with pytest.raises(InputError, match=rf"no blocks.{layer}.mlp.W_out: it has 4 layers"):
        WriteSite(layer).weight(toy)
