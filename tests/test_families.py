"""Every family that can be loaded: converted faithfully, prepared unchanged, swept as the twin."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.facts import Fact, Relation
from kedit.models import toy as toy_module
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from kedit.models.prompts import encode
from probes.corrupt import Corruption, Noise, add_noise, embedding_std, replaced
from probes.patch import Patch
from probes.trace import paper_patches
from tests.conftest import (
    FAMILIES,
    PATCHES,
    TOLERANCES,
    FamilyOf,
    assert_equals_twin,
    assert_same_scores,
    swept,
)

WHOLE = ("gpt2", "llama", "gemma3")  # every cell of these, a sample of the others'
FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_hugging_face_module(family: FamilyOf, name: str):
    hf, model = family(name)
    tokens = random_tokens()
    expected = hf(tokens).logits
    assert expected.std() > 1  # a model that says the same of everything would be easily equalled
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_preparing_changes_no_logit_and_no_weight(family: FamilyOf, name: str):
    with quiet():
        model = hooked(family(name).hf, torch.float64)
    before, logits = bits(model), model(random_tokens())
    prepare(model, toy_module.tokenizer())
    assert bits(model) == before
    torch.testing.assert_close(model(random_tokens()), logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_frozen_and_the_model_is_in_eval_mode(family: FamilyOf, name: str):
    model = family(name).model
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not model(random_tokens()).requires_grad


@pytest.mark.parametrize("name", FAMILIES)
def test_every_sweep_of_a_noised_subject_equals_the_slow_twin(family: FamilyOf, name: str):
    model = family(name).model
    assert_every_sweep_equals_its_twin(name, model, noised(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gemma3"])  # noise has all: what differs is one row
def test_every_sweep_of_a_replaced_subject_equals_the_slow_twin(family: FamilyOf, name: str):
    model = family(name).model
    corruption = replaced(model, FACT, "subject", toy_module.facts(), seed=0)
    assert len(corruption.run.tokens) == 1
    assert_every_sweep_equals_its_twin(name, model, corruption)


@pytest.mark.parametrize("name", FAMILIES)
def test_chosen_positions_are_the_columns_of_the_whole_sweep(family: FamilyOf, name: str):
    model = family(name).model
    corruption = noised(model)
    last = int(corruption.run.tokens.shape[1]) - 1
    chosen = (last, *reversed(corruption.positions), 0)
    for patch in paper_patches(window=3):
        whole = swept(model, FACT, corruption, patch)
        grid = swept(model, FACT, corruption, patch, chosen)
        assert grid.positions == chosen
        assert_same_scores(grid.restored, whole.restored[:, :, list(chosen)])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_half_of_a_tiny_model_matters(family: FamilyOf, name: str):
    """The control of the tests above: where nothing can be restored, any two sweeps are equal."""
    model = family(name).model
    corruption = noised(model)
    for patch in PATCHES:
        effect = swept(model, FACT, corruption, patch).indirect_effect("logprob")
        where = effect[:, list(corruption.positions)]
        assert where.abs().max() > 50 * TOLERANCES["logprob"], patch


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_a_corrupted_last_token_alone_is_swept_as_by_the_twin(toy: HookedTransformer, patch: Patch):
    fact = replace(FACT, relation_words=("is",))
    corruption = add_noise(toy, encode(toy, fact), "relation", Noise(0.5), samples=3, seed=0)
    assert corruption.positions == (corruption.run.tokens.shape[1] - 1,)
    assert_equals_twin(toy, fact, corruption, patch, n_cells=4)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_two_corrupted_spans_are_swept_as_by_the_twin(toy: HookedTransformer, patch: Patch):
    fact = replace(FACT, relation_words=("birthplace", "is"))
    corruption = add_noise(toy, encode(toy, fact), "relation", Noise(0.5), samples=3, seed=0)
    gaps = [b - a for a, b in zip(corruption.positions, corruption.positions[1:], strict=False)]
    assert max(gaps) > 1
    assert_equals_twin(toy, fact, corruption, patch, n_cells=10)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_a_subject_at_position_zero_is_swept_as_by_the_twin(
    bosless_gpt2: HookedTransformer, patch: Patch
):
    fact = Fact("Ada Alder", Relation("P19", "birthplace"), "Arle", "{} was born in")
    prompt = encode(bosless_gpt2, fact)
    assert prompt.subject[0] == 0
    corruption = add_noise(bosless_gpt2, prompt, "subject", Noise(0.5), samples=3, seed=0)
    assert_equals_twin(bosless_gpt2, fact, corruption, patch, n_cells=12)


def bits(model: HookedTransformer) -> dict[str, tuple[torch.Size, bytes]]:
    """Of every weight: compared so, since a Bloom's W_pos is left uninitialised and may be NaN."""
    return {
        name: (weight.shape, weight.numpy().tobytes())
        for name, weight in model.state_dict().items()
    }


def random_tokens() -> Int[Tensor, "2 12"]:
    return torch.randint(2, 500, (2, 12), generator=torch.Generator().manual_seed(1))


def noised(model: HookedTransformer) -> Corruption:
    """Noise on a subject in the middle of its prompt."""
    noise = Noise(3 * embedding_std(model, [FACT.subject]))
    corruption = add_noise(model, encode(model, FACT), "subject", noise, samples=3, seed=0)
    first, *_, last = corruption.positions
    assert first > 1 and last + 1 < corruption.run.tokens.shape[1]
    return corruption


def assert_every_sweep_equals_its_twin(
    name: str, model: HookedTransformer, corruption: Corruption
) -> None:
    for patch in PATCHES:
        assert_equals_twin(model, FACT, corruption, patch, None if name in WHOLE else 10)
