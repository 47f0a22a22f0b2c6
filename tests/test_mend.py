"""MEND: its networks, edits that are practised side by side, and the editor."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from kedit import cache as kept
from kedit.editing.edit import Edit, LowRank
from kedit.editing.factors import Factors, LinearMap
from kedit.editing.hypernetwork import Hypernetwork, Origin, Residual, read_hypernetwork
from kedit.editing.metalearning import Exercise, factors_of, practise
from kedit.editing.provenance import fingerprint
from kedit.editing.teaching import Staying, TargetText, demanded
from kedit.editors import mend as module
from kedit.editors.mend import MEND
from kedit.errors import InputError
from kedit.forward.metrics import last_logits
from kedit.forward.reading import read
from kedit.models import toy as toy_module
from kedit.models.prompts import answer_ids, prompt_ids
from tests.conftest import FamilyOf

CASES = toy_module.cases()
REQUESTS = [case.entity for case in CASES[:3]]


def maps_of(model: HookedTransformer, *names: str) -> list[LinearMap]:
    return [LinearMap(layer, name) for layer in (1, 3) for name in names]  # pyright: ignore


def network_of(
    model: HookedTransformer, maps: list[LinearMap], rate: float = 0.01, moved: float = 0.02
) -> Hypernetwork:
    """A network that is no identity: all its numbers are moved at random."""
    network = Hypernetwork({one: one.widths(model) for one in maps}, rank=4, rate=rate)
    taught = exercises(model)
    network.fit({one: [found] for one, found in factors_of(model, maps, taught).items()})
    generator = torch.Generator().manual_seed(1)
    for value in network.parameters():
        size = moved * (value.abs().mean() + 1e-3)
        value.data += size * torch.randn(value.shape, generator=generator)
    return network


def exercises(model: HookedTransformer) -> list[Exercise]:
    found = []
    for case, other in zip(CASES[:3], CASES[5:8], strict=True):
        (edit,) = demanded(model, [case.entity], removal=False)
        probe = case.probes[1]
        wording = TargetText(
            prompt_ids(model, probe.prompt), answer_ids(model, probe.prompt, probe.answer)
        )
        near = prompt_ids(model, other.entity.fact.prompt)
        found.append(Exercise((edit,), (edit, wording), (Staying(near, len(near) - 2),)))
    return found


def saved(network: Hypernetwork, model: HookedTransformer, path: Path) -> str:
    network.save(path, Origin(fingerprint(model), "toy", {"steps": 0}))
    return str(path)


def test_a_layer_is_equation_3() -> None:
    layer = Residual(3, 2, 2, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for value in layer.parameters():
        value.data = torch.randn(value.shape, generator=generator)
    x = torch.tensor([[1.0, -2.0, 0.5]])
    for number in (0, 1):
        inner = layer.scale[number] * (layer.u @ (layer.v @ x[0]) + layer.b) + layer.shift[number]
        wanted = x[0] + torch.where(inner > 0, inner, 0.0)
        torch.testing.assert_close(layer(x, number)[0], wanted)
    assert not torch.equal(layer(x, 0), layer(x, 1))  # a scale and a shift for every matrix


def test_untrained_it_is_a_step_down_the_normalised_gradient_and_can_learn(
    toy: HookedTransformer,
) -> None:
    maps = maps_of(toy, "W_in", "W_out")
    network = Hypernetwork({one: one.widths(toy) for one in maps}, rank=4, rate=0.5)
    factors = factors_of(toy, maps, exercises(toy))
    for one, change in network(factors).items():
        torch.testing.assert_close(change.left, -0.5 * factors[one].read)
        torch.testing.assert_close(change.right, factors[one].slope)
    network.fit({one: [found] for one, found in factors.items()})
    for change in network(factors).values():
        both = torch.cat([change.left / -0.5, change.right], 1)
        torch.testing.assert_close(both.mean(0), torch.zeros_like(both[0]), atol=1e-4, rtol=0)
        spread = both.std(0, correction=0)
        assert ((spread - 1).abs() < 1e-2).logical_or(spread < 1e-2).all()  # dead neurons stay at 0
    practise(toy, network, exercises(toy), share=1.0)
    for name, value in network.named_parameters():
        # V and the scale have no gradient as long as U is zero
        assert value.grad is not None
        assert value.grad.any() or name.endswith((".v", ".scale")), name


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma3"])
def test_practised_edits_are_those_that_are_written_each_into_the_weights(
    family: FamilyOf, tmp_path: Path, name: str
) -> None:
    model = family(name).model
    network = network_of(model, maps_of(model, "W_in", "W_out", "W_V", "W_O"), rate=0.003)
    edits = MEND(saved(network, model, tmp_path / "mend.safetensors")).on(model)
    taught = exercises(model)
    together = practise(model, network, taught)
    nll, kl = [], []
    for request, one in zip(REQUESTS, taught, strict=True):
        alone = practise(model, network, [one])
        (stay,) = one.staying
        last = [stay.tokens[: pos + 1] for pos in range(stay.first, len(stay.tokens))]
        before = last_logits(model, read(model, last).last).log_softmax(-1)
        with edits([request]).applied(model):
            after = last_logits(model, read(model, last).last).log_softmax(-1)
            own = practise(model, network, [one]).before  # of the edited model, without an edit
        assert abs(alone.edit - own) < 2e-3
        drifted = float((before.exp() * (before - after)).sum(-1).mean())
        assert abs(alone.kl - drifted) < 1e-5 + 1e-3 * drifted and drifted > 1e-4
        nll.append(alone.edit)
        kl.append(alone.kl)
    assert together.edit == pytest.approx(sum(nll) / 3, abs=1e-3)
    assert together.kl == pytest.approx(sum(kl) / 3, rel=1e-3)
    assert abs(together.edit - together.before) > 1e-2  # the edits do something


def test_the_networks_gradient_is_the_losses_slope(toy: HookedTransformer) -> None:
    network = network_of(toy, maps_of(toy, "W_in", "W_out", "W_V"), moved=0.3)
    taught = exercises(toy)
    practise(toy, network, taught, edit_weight=0.5, share=1.0)
    for value in (network.rates, next(iter(network.networks.values()))[0].shift):  # pyright: ignore
        assert value.grad is not None
        way = torch.sign(value.grad)
        losses = []
        for step in (3e-5, -3e-5):  # far smaller, and rounding shows; larger, and the curve does
            value.data += step * way
            found = practise(toy, network, taught)
            losses.append(0.5 * found.edit + found.kl)
            value.data -= step * way
        slope = (losses[0] - losses[1]) / 6e-5
        assert slope == pytest.approx(float(value.grad.abs().sum()), rel=0.05)


def test_an_edit_is_low_rank_and_made_of_all_requests_together(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    maps = maps_of(toy, "W_in", "W_out", "W_V")
    network = network_of(toy, maps)
    made = MEND(saved(network, toy, tmp_path / "mend.safetensors"))
    edit = made(toy, REQUESTS)
    assert set(edit.deltas) == {one.parameter(toy) for one in maps}
    wanted = [one.entity.fact.prompt for one in CASES[:3]]
    assert [told["prompt"] for told in edit.made.requests] == wanted
    one = edit.deltas["blocks.1.mlp.W_out"]
    assert isinstance(one, LowRank) and one.left.shape[1] == one.right.shape[0] <= 40
    alone, doubled = made(toy, REQUESTS[:1]), replace(made, scale=2.0)(toy, REQUESTS[:1])
    for name, delta in alone.deltas.items():
        if isinstance(delta, LowRank):
            twice = doubled.deltas[name]
            assert isinstance(twice, LowRank)
            torch.testing.assert_close(2 * delta.left @ delta.right, twice.left @ twice.right)


def test_a_removal_is_asked_for_where_it_is_told(toy: HookedTransformer, tmp_path: Path) -> None:
    network = network_of(toy, maps_of(toy, "W_out"))
    made = MEND(saved(network, toy, tmp_path / "mend.safetensors"))
    relation = [CASES[0].request("relation")]
    adding, both = made(toy, relation), replace(made, removal=True)(toy, relation)
    assert rank(both) > rank(adding)
    assert rank(replace(made, removal=True)(toy, REQUESTS[:1])) == rank(made(toy, REQUESTS[:1]))


def test_upstreams_rates_are_those_of_the_blocks_other_matrix(
    toy: HookedTransformer, tmp_path: Path
) -> None:
    network = network_of(toy, maps_of(toy, "W_in", "W_out"))
    network.rates.data = torch.tensor([1.0, 2.0, 3.0, 4.0])  # blocks 1 and 3, W_in before W_out
    made = MEND(saved(network, toy, tmp_path / "mend.safetensors"))
    right = made(toy, REQUESTS[:1]).deltas
    wrong = replace(made, rates="upstream")(toy, REQUESTS[:1]).deltas
    for name, ratio in zip(
        ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.3.mlp.W_in", "blocks.3.mlp.W_out"],
        [2.0, 0.5, 4 / 3, 3 / 4],
        strict=True,
    ):
        one, other = right[name], wrong[name]
        assert isinstance(one, LowRank) and isinstance(other, LowRank)
        torch.testing.assert_close(other.left, ratio * one.left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_network_is_read_again(
    toy: HookedTransformer, tmp_path: Path, dtype: torch.dtype
) -> None:
    network = network_of(toy, maps_of(toy, "W_in", "W_V"))
    origin = Origin(fingerprint(toy), "toy", {"steps": 3})
    network.save(tmp_path / "a" / "mend.safetensors", origin, dtype)
    again, told = read_hypernetwork(tmp_path / "a" / "mend.safetensors")
    assert told == origin and again.maps == network.maps and again.rank == 4
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.to(dtype).float())
    assert not list(tmp_path.rglob("*.part"))


def test_files_that_are_no_network_are_refused(toy: HookedTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a trained MEND"):
        MEND(str(tmp_path / "nowhere")).on(toy)
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="holds no MEND"):
        MEND(str(tmp_path / "other")).on(toy)
    told = {
        "kedit_mend": "2",
        "maps": json.dumps([[1, "W_in", 64, 256]]),
        "rank": "4",
        "origin": "{}",
    }
    kept.write(tmp_path / "broken", {"x": torch.ones(2)}, told)
    with pytest.raises(InputError, match="is a broken MEND"):
        MEND(str(tmp_path / "broken")).on(toy)
    save_file({"x": torch.ones(2)}, tmp_path / "old", told | {"kedit_mend": "1"})
    with pytest.raises(InputError, match="an earlier kedit, which wrote no checksum: train it aga"):
        MEND(str(tmp_path / "old")).on(toy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_with_a_flipped_bit_is_refused(
    toy: HookedTransformer, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = tmp_path / "mend.safetensors"
    network = network_of(toy, maps_of(toy, "W_out"))
    network.save(file, Origin(fingerprint(toy), "toy", {"steps": 3}), dtype)
    whole = file.read_bytes()
    assert MEND(str(file)).on(toy)
    for place in range(8 + int.from_bytes(whole[:8], "little"), len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged, its checksum is wrong"):
            MEND(str(file)).on(toy)


def test_a_network_of_another_model_is_refused(
    toy: HookedTransformer, family: FamilyOf, tmp_path: Path
) -> None:
    file = saved(network_of(toy, maps_of(toy, "W_out")), toy, tmp_path / "mend.safetensors")
    with pytest.raises(InputError, match="trained for another model: for toy"):
        MEND(file).on(family("gpt2").model)


def test_without_a_file_the_models_own_is_taken_from_those_that_come_with_kedit(
    toy: HookedTransformer, family: FamilyOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match=r"no trained MEND for toy: train one .*train_mend"):
        MEND().on(toy)
    gpt2 = family("gpt2").model
    saved(network_of(gpt2, maps_of(gpt2, "W_out")), gpt2, tmp_path / "a.safetensors")
    file = saved(network_of(toy, maps_of(toy, "W_out")), toy, tmp_path / "b.safetensors")
    named, found = MEND(file)(toy, REQUESTS[:1]), MEND()(toy, REQUESTS[:1])
    for name, delta in named.deltas.items():
        other = found.deltas[name]
        assert isinstance(delta, LowRank) and isinstance(other, LowRank)
        assert torch.equal(delta.left, other.left) and torch.equal(delta.right, other.right)
    assert named.made.settings["digest"] == found.made.settings["digest"]


def test_a_normal_distribution_of_factors_is_seen_as_one() -> None:
    one = LinearMap(0, "W_in")
    network = Hypernetwork({one: (2, 3)}, rank=1, rate=1.0)
    generator = torch.Generator().manual_seed(0)
    numbers = 5 + 3 * torch.randn(2, 400, 5, generator=generator)
    seen = [
        Factors(part[:, :2], part[:, 2:], torch.zeros(400, dtype=torch.long)) for part in numbers
    ]
    network.fit({one: seen})
    both = numbers.reshape(-1, 5)
    torch.testing.assert_close(network.mean_0, both.mean(0))
    torch.testing.assert_close(network.std_0, both.std(0, correction=0))


def test_no_requests_are_refused(toy: HookedTransformer, tmp_path: Path) -> None:
    made = MEND(saved(network_of(toy, maps_of(toy, "W_out")), toy, tmp_path / "mend.safetensors"))
    with pytest.raises(InputError, match="no request"):
        made(toy, [])


def rank(edit: Edit) -> int:
    (delta,) = [one for name, one in edit.deltas.items() if "blocks.3" in name]
    assert isinstance(delta, LowRank)
    return delta.left.shape[1]


def test_the_networks_that_come_with_kedit_are_whole() -> None:
    files = list(module.SHIPPED.glob("*.safetensors"))
    assert files
    for file in files:
        assert read_hypernetwork(file)[1].source == file.stem
