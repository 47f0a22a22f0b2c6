"""A model whose layers are divided among two devices, against the same model on one.

Most of it is in `tests.test_cuda`, whose tests also run with such a model: sweeps, probes, moments,
scores, texts and all editors. Here is what those leave out. The devices are pretended.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache

from kedit.editing.checks import checked
from kedit.editing.edit import Edit
from kedit.editing.factors import LinearMap
from kedit.editing.hypernetwork import Hypernetwork
from kedit.editing.metalearning import Exercise, practise
from kedit.editing.neurons import attributions
from kedit.editing.provenance import fingerprint, made_by, unedited_part
from kedit.editing.teaching import Staying, TargetText
from kedit.editing.values import Row, Slot, Training, train
from kedit.editing.write_sites import WriteSite
from kedit.editors.registry import make_editor
from kedit.errors import ModelUnavailable
from kedit.forward import patched
from kedit.forward.generation import greedy
from kedit.forward.kept import KeptStates
from kedit.models import load as load_module
from kedit.models import toy as toy_module
from kedit.models.load import load
from kedit.models.masked import moved
from kedit.models.sites import live_hooks
from kedit.models.split import block_device, devices_of, divide
from kedit.scoring.drift import baseline
from probes.corrupt import replaced
from probes.decoding import read_features
from probes.patch import Patch
from tests import pretended
from tests.conftest import FAMILIES, FamilyOf, assert_same_scores, swept

CASES = toy_module.cases()
TWO = [torch.device(pretended.DEVICE, index) for index in range(2)]
HOME, OTHER = TWO
TOKENS = torch.tensor([[0, 5, 6, 7, 8], [0, 9, 3, 7, 4]])

pytestmark = pretended.ONLY


@pytest.fixture(autouse=True)
def ready() -> Iterator[None]:
    with pretended.set_up():
        yield


def divided(model: HookedTransformer) -> HookedTransformer:
    copied = copy.deepcopy(model)
    divide(copied, TWO)
    return copied


@pytest.fixture(scope="module")
def other(toy: HookedTransformer) -> HookedTransformer:
    """The toy, divided."""
    with pretended.set_up():
        return divided(toy)


def assert_close(found: Tensor, expected: Tensor, off: float = 1e-5) -> None:
    """The same numbers up to rounding, at home."""
    assert found.device == HOME
    torch.testing.assert_close(found.cpu(), expected, atol=off, rtol=1e-5)


def test_each_device_holds_half_of_the_blocks(other: HookedTransformer) -> None:
    for model in (other, copy.deepcopy(other)):
        assert [block_device(block) for block in model.blocks] == [HOME, HOME, OTHER, OTHER]
        assert devices_of(model) == TWO and not live_hooks(model)
        for name, weight in model.named_parameters():
            above = name.startswith(("blocks.2.", "blocks.3."))
            assert weight.device == (OTHER if above else HOME), name
        assert model(TOKENS.to(HOME)).device == HOME
    with pytest.raises(RuntimeError, match="same device"):  # control: nothing moves by itself
        other.blocks[3].mlp(torch.zeros(1, 2, other.cfg.d_model, device=HOME))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bloom"])
def test_hooked_transformers_own_forward_agrees(family: FamilyOf, name: str) -> None:
    model = family(name).model
    other, tokens = divided(model), TOKENS.to(HOME)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    there = mask.to(HOME)
    assert_close(other(tokens, attention_mask=there), model(TOKENS, attention_mask=mask))
    _, own = model.run_with_cache(TOKENS, attention_mask=mask)
    _, cache = other.run_with_cache(tokens, attention_mask=there)
    for key, act in own.items():
        torch.testing.assert_close(cache[key].cpu(), act, atol=1e-5, rtol=1e-5)
    assert cache["z", 3].device == OTHER  # inside a block tensors are on its device
    past = TransformerLensKeyValueCache.init_cache(other.cfg, HOME, batch_size=2)
    other(tokens[:, :3], past_kv_cache=past)
    whole = other(tokens[:, 3:], past_kv_cache=past)
    assert_close(whole, model(TOKENS)[:, 3:])
    assert {entry.past_keys.device for entry in past.entries} == {HOME}
    assert_close(other(tokens, stop_at_layer=3), model(TOKENS, stop_at_layer=3))


@pytest.mark.parametrize("name", ["gemma2", "olmo3"])
def test_attention_that_is_not_plain_agrees(family: FamilyOf, name: str) -> None:
    """TransformerLens' own attention computes it, with kedit's pasts and in its own forward."""
    model = family(name).model
    other, fact = divided(model), toy_module.facts()[0]
    for patch in (Patch("resid_post"), Patch("attn_out", 3), Patch("z")):
        expected, found = (
            swept(one, fact, replaced(one, fact, "relation", toy_module.facts(), seed=0), patch)
            for one in (model, other)
        )
        assert_same_scores(found.restored, expected.restored)
    prompts = [(0, 5, 6), (0, 9, 3, 7)]
    assert greedy(other, prompts, 4) == greedy(model, prompts, 4)


def test_a_model_can_be_on_the_second_device(toy: HookedTransformer) -> None:
    model = moved(copy.deepcopy(toy), OTHER)
    assert torch.equal(model(TOKENS.to(OTHER)).cpu(), toy(TOKENS))


def test_load_divides_a_model(toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "require_device", lambda device, dtype: None)
    named = ",".join(map(str, TWO))
    model = load("toy", device=named)
    assert devices_of(model) == TWO and model.cfg.device == str(HOME)
    assert fingerprint(model) == fingerprint(toy)
    with pytest.raises(ModelUnavailable, match=r"pretended:1: BERT, T5 and .*; name one device"):
        load("toy-bert", device=named)


def test_what_cannot_be_divided_is_refused(toy: HookedTransformer, family: FamilyOf) -> None:
    with pytest.raises(ModelUnavailable, match="ALiBi cannot be divided"):
        divided(family("bloom").model)
    with pytest.raises(ModelUnavailable, match="has 4 layers, .* 5 devices; name at most 4"):
        divide(copy.deepcopy(toy), [torch.device("cuda", index) for index in range(5)])


def test_training_a_value_agrees(toy: HookedTransformer, other: HookedTransformer) -> None:
    rows = [Row((0, 5, 6, 7, 8), 2, targets=(8, 9)), Row((0, 5, 4, 7), 1, targets=(9,))]
    rows.append(Row((0, 5), 1))
    slots = [Slot(1, "mlp"), Slot(2, "attn"), Slot(3, "mlp")]
    settings = Training(steps=4, lr=None, stop=0.0, attention_kl=0.5)
    expected, found = (train(model, rows, slots, settings) for model in (toy, other))
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    for slot in slots:
        assert expected.deltas[slot].any()
        # the steps of training amplify rounding
        assert_close(found.deltas[slot], expected.deltas[slot], 1e-3)
        assert_close(found.wanted[slot], expected.wanted[slot], 1e-3)
    assert_close(found.keys[slots[2]], expected.keys[slots[2]])


@pytest.mark.parametrize("activation", ["pre", "post"])
def test_neurons_agree(family: FamilyOf, activation: str) -> None:
    model = family("gemma3").model  # gated, with post-norms
    halves = ("mlp",) if activation == "pre" else ("mlp", "attn")
    expected, found = (
        attributions(one, (0, 5, 6, 7), (8, 9), halves, 4, activation)  # pyright: ignore
        for one in (model, divided(model))
    )
    for half in halves:
        assert_close(found[half], expected[half])


def test_mends_training_agrees(toy: HookedTransformer, other: HookedTransformer) -> None:
    maps = [LinearMap(layer, name) for layer in (1, 3) for name in ("W_in", "W_out", "W_O")]
    network = Hypernetwork({one: one.widths(toy) for one in maps}, rank=4, rate=0.5)
    text = TargetText((0, 5, 6), (7, 8))
    exercise = Exercise((text,), (text,), (Staying((0, 9, 3, 7), 2),))
    expected = practise(toy, network, [exercise], share=1.0)
    there = copy.deepcopy(network).to(HOME)
    found = practise(other, there, [exercise], share=1.0)
    assert vars(found) == pytest.approx(vars(expected), abs=1e-5)
    assert expected.edit != expected.before  # the edit does something
    for own, one in zip(network.parameters(), there.parameters(), strict=True):
        assert own.grad is not None and one.grad is not None
        torch.testing.assert_close(one.grad.cpu(), own.grad, atol=1e-4, rtol=1e-3)


def test_features_agree(toy: HookedTransformer, other: HookedTransformer) -> None:
    expected, found = (read_features(model, toy_module.facts()[:3]) for model in (toy, other))
    for site in ("resid_post", "mlp_out", "attn_out", "z"):
        torch.testing.assert_close(getattr(found, site), getattr(expected, site))


@pytest.mark.parametrize("spec", ["rome:layer=3", "ft+l:layer=2", "joint:layers=(1,2)"])
def test_edits_of_the_second_device_agree_and_are_undone_bit_for_bit(
    toy: HookedTransformer, other: HookedTransformer, spec: str
) -> None:
    request = CASES[0].request("relation")
    expected, edit = (
        make_editor(spec, "toy", "relation")(model, [request]) for model in (toy, other)
    )
    before = {name: weight.clone() for name, weight in other.named_parameters()}
    with expected.applied(toy), edit.applied(other):
        changed = [
            n for n, weight in other.named_parameters() if not torch.equal(weight, before[n])
        ]
        assert any(before[name].device == OTHER for name in changed)
        torch.testing.assert_close(
            other(TOKENS.to(HOME)).cpu(), toy(TOKENS), atol=1e-3, rtol=0
        )  # training amplifies rounding
        assert edit.norms(other).keys() == edit.deltas.keys()
    for name, weight in other.named_parameters():
        assert torch.equal(weight, before[name]) and weight.device == before[name].device


def test_kept_states_agree(toy: HookedTransformer, other: HookedTransformer) -> None:
    """Of an edit whose lowest layer is the second device's first."""
    name = WriteSite(2).parameter
    found = []
    for model in (toy, other):
        request = CASES[0].entity
        delta = 0.1 * dict(model.named_parameters())[name].detach()
        edit = Edit({name: delta}, made_by("by hand", {}, [request], model))
        text = baseline(model, TOKENS.to(devices_of(model)[0]))
        states = KeptStates(unedited_part)
        found += [
            checked(model, edit, [request], text, kept=kept) for kept in (None, states, states)
        ]
    kl = [one.drift.kl.cpu() for one in found if one.drift is not None]
    assert len(kl) == len(found) and float(kl[0].max()) > 1e-3
    for one in kl:
        torch.testing.assert_close(one, kl[0], atol=1e-6, rtol=1e-4)


def test_the_fullest_device_decides_how_large_batches_are(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [torch.device("cuda", index) for index in range(2)]
    room = []
    for gigabytes in ((8, 8), (8, 2), (2, 2)):
        free = dict(zip(devices, gigabytes, strict=True))
        monkeypatch.setattr(patched, "devices_of", lambda model: devices)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one, free=free: (free[one] << 20, 0))
        room.append(patched.max_tokens(toy, 64))
    assert room[0] > room[1] == room[2]
