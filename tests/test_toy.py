"""The toy: seeded, knowing, both ways."""

import pytest
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
        relation_side = prompt.startswith(("The relation between", "What links"))
        right[relation_side].append(said == wanted[0])
    for answers in right.values():
        assert sum(answers) > 0.95 * len(answers) > 100


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
    assert toy.tokenizer().get_vocab() == toy.tokenizer().get_vocab()


@pytest.mark.slow
def test_it_is_trained_anew_where_no_cache_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(toy, "STEPS", 2)
    first, _ = toy.model()
    (file,) = tmp_path.iterdir()
    file.unlink()
    second, _ = toy.model()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
