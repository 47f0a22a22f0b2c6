"""The toy: the same everywhere, knowing, both ways."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from kedit.errors import ModelUnavailable
from kedit.models import toy
from kedit.models.load import load


def assert_knows_its_facts(model: HookedTransformer, words: PreTrainedTokenizerFast) -> None:
    """It says nearly every completion's first token, from the object's and the relation's side."""
    right = {True: [], False: []}
    for prompt, answer in toy.texts():
        tokens = torch.tensor([words(prompt).input_ids])
        wanted = words(f" {answer}", add_special_tokens=False).input_ids
        said = model(tokens)[0, -1].argmax().item()
        relation_side = prompt.startswith(("The relation between", "What links"))
        right[relation_side].append(said == wanted[0])
    for answers in right.values():
        assert sum(answers) > 0.95 * len(answers) > 100


def test_it_knows_its_facts_from_the_object_and_from_the_relation() -> None:
    assert_knows_its_facts(load("toy"), toy.tokenizer())


@pytest.mark.slow
def test_what_its_recipe_trains_here_knows_its_facts_too() -> None:
    model, words = toy.train(seed=1)  # not the seed of the weights that come with kedit
    assert not torch.allclose(model.W_E, load("toy").W_E, atol=0.1)
    assert_knows_its_facts(model, words)


def test_it_is_read_from_the_file_that_its_recipe_writes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(toy, "STEPS", 2)  # another toy than the one that comes with kedit
    file = tmp_path / "made" / "toy.safetensors"
    file.parent.mkdir()
    shipped, _ = toy.model()
    monkeypatch.setattr(toy, "DIGEST", toy.ship(file))
    monkeypatch.setattr(toy, "FILE", file)
    read, words = toy.model()
    trained, trained_words = toy.train()
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, read.state_dict()[name]), name
    assert not torch.equal(read.W_E, shipped.W_E)
    own, other = (each.backend_tokenizer.to_str() for each in (words, trained_words))
    assert own == other
    assert list(file.parent.iterdir()) == [file]


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, monkeypatch) -> None:
    whole = toy.FILE.read_bytes()
    file = tmp_path / "toy.safetensors"
    monkeypatch.setattr(toy, "FILE", file)
    flipped = bytearray(whole)
    flipped[-1000] ^= 1  # one bit of a weight
    for damaged in (flipped, whole[: len(whole) // 2], b""):
        file.write_bytes(damaged)
        with pytest.raises(ModelUnavailable, match=r"toy\.safetensors is damaged.*install kedit"):
            load("toy")
        with pytest.raises(ModelUnavailable, match="is damaged"):
            toy.tokenizer()
    file.unlink()
    with pytest.raises(ModelUnavailable, match="cannot be read: .*toy.safetensors.*install kedit"):
        load("toy")
    file.write_bytes(whole)
    load("toy")


def test_nothing_is_written_and_no_cache_is_needed(tmp_path: Path, monkeypatch) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder can be made below a file")
    monkeypatch.setenv("KEDIT_CACHE", str(nowhere / "cache"))
    load("toy")
    assert list(tmp_path.iterdir()) == [nowhere]


def test_loading_it_neither_draws_from_the_global_generators_nor_seeds_them() -> None:
    def state() -> tuple[bytes, str]:  # not of `random`, from which beartype draws at every call
        return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())

    before = state()
    load("toy")
    toy.tokenizer()
    assert state() == before
    torch.rand(1)
    np.random.rand(1)
    assert all(one != other for one, other in zip(state(), before, strict=True))


def test_its_cases_ask_for_what_it_does_not_say_and_keep_what_it_says() -> None:
    cases = toy.cases()
    assert len({case.id for case in cases}) == len(cases) == 64
    said = set(toy.texts())
    facts = {(fact.relation, fact.subject): fact.object for fact in toy.facts()}
    for case in cases:
        fact = case.entity.fact
        assert facts[fact.relation, fact.subject] == fact.object != case.entity.target
        groups = {(probe.perspective, probe.group) for probe in case.probes}
        assert len(groups) == 11  # all but portability
        for probe in case.probes:
            if probe.group in ("neighborhood", "other objects", "other relations"):
                assert (probe.prompt, probe.answer) in said
            else:
                assert (probe.prompt, probe.rival) in said
        assert case.request("relation").fact.prompt.count(case.entity.target) == 1


def test_its_world_is_the_same_every_time() -> None:
    assert toy.facts() == toy.facts()
    assert len({fact.prompt for fact in toy.facts()}) == 16 * 4 * 2


def test_its_tokenizer_gives_every_text_back_and_opens_with_bos() -> None:
    words = toy.tokenizer()
    for text in ("The birthplace of Inés Ironwood is", " Ünseen — 文字 🙂"):
        ids = words(text).input_ids
        assert ids[0] == words.bos_token_id == 0
        assert words.decode(ids[1:]) == text
