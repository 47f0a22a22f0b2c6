"""The toy: seeded, knowing, both ways."""

import torch

from kedit import toy
from kedit.model import load


def test_it_knows_its_facts_from_the_object_and_from_the_relation() -> None:
    model, words = load("toy"), toy.tokenizer()
    right = {True: [], False: []}
    for prompt, answer in toy.texts():
        tokens = torch.tensor([words(prompt).input_ids])
        wanted = words(f" {answer}", add_special_tokens=False).input_ids
        said = model(tokens)[0, -1].argmax().item()
        right[prompt.startswith("The relation between")].append(said == wanted[0])
    for answers in right.values():
        assert sum(answers) > 0.95 * len(answers) > 100


def test_its_world_is_the_same_every_time() -> None:
    assert toy.facts() == toy.facts()
    assert len({fact.prompt for fact in toy.facts()}) == 16 * 4 * 2
    assert toy.tokenizer().get_vocab() == toy.tokenizer().get_vocab()


def test_it_is_trained_anew_where_no_cache_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(toy, "STEPS", 2)
    first, _ = toy.model()
    (file,) = tmp_path.iterdir()
    file.unlink()
    second, _ = toy.model()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
