"""Neurons of facts and of relations: sums by head, what they share, and their way to files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from transformer_lens import HookedTransformer

from kedit.editing.neurons import Neuron, above, attributions, refined
from kedit.editing.write_sites import Half, WriteSite
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from kedit.results.neurons import NeuronPlace, RelationNeurons, strongest
from kedit.stats import Interval
from probes.neurons import (
    FactNeurons,
    attention_share,
    by_layer,
    counted,
    gathered,
    of_half,
    search,
    sharing,
)
from tests.conftest import FamilyOf

WORDED = [fact for fact in toy_module.facts() if fact.subject == "Ada Alder"][:2]
HALVES: tuple[Half, ...] = ("mlp", "attn")


@pytest.fixture(scope="module")
def found(toy: HookedTransformer) -> FactNeurons:
    return search(toy, WORDED, steps=8)


def neurons(half: Half, layer: int, *indices: int) -> frozenset[Neuron]:
    return frozenset(Neuron(WriteSite(layer, half), index) for index in indices)


def test_a_facts_neurons_are_those_that_its_wordings_agree_on(
    toy: HookedTransformer, found: FactNeurons
) -> None:
    each = []
    for fact in WORDED:
        prompt = encode(toy, fact)
        values = attributions(toy, tuple(prompt.tokens.tolist()), prompt.answer_ids[:1], HALVES, 8)
        each.append(above(values, 0.2))
    assert found.prompts == tuple(fact.prompt for fact in WORDED)
    assert found.neurons == each[0] & each[1]  # more than half of two is both
    assert each[0] != each[1]  # they do not agree by themselves
    either = search(toy, WORDED, steps=8, agreement=0.4)
    assert either.neurons == each[0] | each[1]


def test_positive_attributions_are_summed_by_layer_and_by_head(
    toy: HookedTransformer, found: FactNeurons
) -> None:
    n_layers, n_heads, d_head = toy.cfg.n_layers, toy.cfg.n_heads, toy.cfg.d_head
    by_hand = torch.zeros(n_layers, n_heads)
    mlp = torch.zeros(n_layers)
    for fact in WORDED:
        prompt = encode(toy, fact)
        values = attributions(toy, tuple(prompt.tokens.tolist()), prompt.answer_ids[:1], HALVES, 8)
        for layer in range(n_layers):
            mlp[layer] += sum(max(value, 0) for value in values["mlp"][layer].tolist()) / 2
            for index, value in enumerate(values["attn"][layer].tolist()):
                by_hand[layer, index // d_head] += max(value, 0) / 2
    torch.testing.assert_close(found.mass["attn"], by_hand)
    torch.testing.assert_close(found.mass["mlp"][:, 0], mlp)
    assert by_hand.max() > 0.1  # there is something to sum


def test_one_half_can_be_searched_alone(toy: HookedTransformer, found: FactNeurons) -> None:
    alone = search(toy, WORDED, ("attn",), steps=8)
    assert set(alone.mass) == {"attn"} and not of_half(alone.neurons, "mlp")
    torch.testing.assert_close(alone.mass["attn"], found.mass["attn"])


def test_a_fact_comes_back_whole_from_json_and_safetensors(
    found: FactNeurons, tmp_path: Path
) -> None:
    safetensors.torch.save_file(found.tensors(), tmp_path / "mass.safetensors")
    record = json.loads(json.dumps(found.to_record()))
    back = FactNeurons.from_record(
        record, safetensors.torch.load_file(tmp_path / "mass.safetensors")
    )
    assert replace(back, mass={}) == replace(found, mass={})
    assert list(back.mass) == list(found.mass)
    assert all(torch.equal(back.mass[half], found.mass[half]) for half in HALVES)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])  # gemma3: two heads share keys and values
def test_a_number_of_z_belongs_to_its_head(family: FamilyOf, name: str) -> None:
    model = family(name).model
    d_head = model.cfg.d_head
    some = neurons("attn", 2, 0, d_head - 1, d_head, 4 * d_head - 1) | neurons("mlp", 1, 5, 7)
    attn, mlp = counted(model, some, "attn"), counted(model, some, "mlp")
    assert attn.shape == (4, model.cfg.n_heads) and mlp.shape == (4, 1)
    assert attn.tolist()[2] == [2, 1, 0, 1] and attn.sum() == 4
    assert mlp[:, 0].tolist() == [0, 2, 0, 0]


def made(own: frozenset[Neuron], subject: str = "s", scale: float = 1.0) -> FactNeurons:
    mass: dict[Half, torch.Tensor] = {
        "mlp": scale * torch.tensor([[1.0], [2.0], [0.0], [0.0]]),
        "attn": scale * torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 4),
    }
    return FactNeurons("P1", subject, "o", ("a",), own, mass)


def test_a_relation_has_what_more_than_a_share_of_its_facts_have(toy: HookedTransformer) -> None:
    always, often, once = (neurons("attn", 0, index) for index in (3, 20, 40))
    facts = [made(always | often), made(always | often), made(always | once), made(always)]
    relation = gathered(toy, "capital", facts, agreement=0.4)
    assert always | often == refined([one.neurons for one in facts], 0.4)
    assert relation.neurons == (NeuronPlace("attn", 0, 3, 0), NeuronPlace("attn", 0, 20, 1))
    assert gathered(toy, "capital", facts, agreement=0.5).neurons == relation.neurons[:1]
    assert (relation.id, relation.name, relation.n_facts) == ("P1", "capital", 4)
    assert relation.counts["attn"][0].tolist() == [1, 1, 0, 0]
    assert not relation.counts["mlp"].any()


def test_a_relations_sums_are_means_over_its_facts(toy: HookedTransformer) -> None:
    nothing: frozenset[Neuron] = frozenset()
    relation = gathered(toy, "capital", [made(nothing), made(nothing, scale=3.0)])
    assert relation.mass["mlp"][:, 0].tolist() == [2, 4, 0, 0]
    np.testing.assert_allclose(relation.head_shares[:, 0], 2 / 14, rtol=1e-6)
    assert not relation.head_shares[:, 1:].any()


def test_attentions_share_is_of_sums_over_relations() -> None:
    def relation(mlp: list[float], attn: list[float]) -> RelationNeurons:
        mass: dict[Half, np.ndarray] = {
            "mlp": np.array(mlp, dtype=float)[:, None],
            "attn": np.array([[value / 2] * 2 for value in attn]),
        }
        return RelationNeurons("P1", "r", 1, (), {}, mass)

    relations = [relation([1, 0], [3, 0]), relation([5, 6], [1, 2])]
    (first, second), both = attention_share(relations, seed=0)
    assert [float(one.mean) for one in (first, second, both)] == [0.4, 0.25, 6 / 18]
    assert first.low < first.mean < first.high


def test_what_a_half_holds_is_a_mean_over_relations(toy: HookedTransformer) -> None:
    some = [made(neurons("attn", 0, 3, 20)), made(neurons("attn", 2, 5), scale=3.0)]
    relations = [gathered(toy, "capital", [one]) for one in some]
    share = Interval(*map(np.array, (0.4, 0.3, 0.5)))
    found = by_layer(relations, "attn", share)
    assert found.neurons.mean.tolist() == [1, 0, 0.5, 0] and found.mass.mean.tolist() == [2] * 4
    assert float(found.total.mean) == 1.5 and found.share == share
    assert float(found.total.low) == 1 and float(found.total.high) == 2


def test_the_strongest_come_first_and_have_something() -> None:
    values = np.array([[0.0, 3.0], [5.0, 0.0]])
    assert strongest(values) == [(1, 0), (0, 1)]


def test_sharing_by_hand() -> None:
    one, other, third = (neurons("mlp", 0, *some) for some in ((1, 2, 3), (2, 3, 4), (3, 9)))
    found = sharing([[one, other], [third]])
    assert float(found.own.mean) == pytest.approx(8 / 3)
    assert float(found.within.mean) == 2  # 2 and 3; a single fact makes no pair
    assert float(found.between.mean) == 1  # 3
    alone = sharing([[one, other]])
    assert float(alone.within.mean) == 2 and np.isnan(alone.between.mean)
    assert np.isnan(sharing([[one], [other]]).within.mean)


def test_facts_share_more_within_their_relation_on_the_toy(toy: HookedTransformer) -> None:
    facts = toy_module.facts()
    relations = [facts[start : start + 4] for start in (0, 32, 64)]  # under a template each
    found = sharing([[search(toy, [one], steps=8).neurons for one in each] for each in relations])
    assert found.own.mean >= found.within.mean > found.between.mean > 0
