"""An edit case under a model: each probe against one forward a prompt, and the groups' meaning."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Fact, Probe, Relation
from kedit.forward.generation import ngram_entropy
from kedit.forward.reading import Tokens
from kedit.models import toy as toy_module
from kedit.models.prompts import answer_ids, decoded, prompt_ids
from kedit.results.scores import EditScore, ProbeScore
from kedit.scoring.score import FUNCTION_WORDS, Scoring, own_words, score
from tests import twins

LABELS = tuple(relation.name for relation in toy_module.WORLD)
RANKED = Scoring(LABELS)
FACT = Fact("Ada Alder", Relation("P19", "birthplace"), "Corum", "The birthplace of {} is")


def case(*probes: Probe, generation: tuple[str, ...] = ()) -> EditCase:
    return EditCase("mine", EditRequest(FACT, "Delft"), None, probes, generation)


@pytest.fixture(scope="module")
def scored(toy: HookedTransformer) -> list[EditScore]:
    return score(toy, toy_module.cases(), RANKED)


def of(scores: list[EditScore], perspective: str, group: str) -> list[ProbeScore]:
    return [
        probe
        for one in scores
        for probe in one.probes
        if (probe.perspective, probe.group) == (perspective, group)
    ]


def test_every_probe_equals_the_slow_twin(toy: HookedTransformer, scored: list[EditScore]) -> None:
    for edit_case, found in list(zip(toy_module.cases(), scored, strict=True))[::9]:
        assert (found.id, found.relation) == (edit_case.id, edit_case.entity.fact.relation.name)
        for probe, own in zip(edit_case.probes, found.probes, strict=True):
            prompt = prompt_ids(toy, probe.prompt)
            logprob, exact = twins.likelihood(
                toy, prompt, answer_ids(toy, probe.prompt, probe.answer)
            )
            assert own.logprob == pytest.approx(logprob, abs=5e-5) and own.exact == exact
            rival, _ = twins.likelihood(toy, prompt, answer_ids(toy, probe.prompt, probe.rival))
            assert own.rival_logprob == pytest.approx(rival, abs=5e-5)
            if probe.group == "neighborhood" or not probe.label:
                assert own.rank is None
            else:
                ranked = {
                    label: twins.likelihood(toy, prompt, answer_ids(toy, probe.prompt, label))[0]
                    for label in LABELS
                }
                better = [name for name in LABELS if ranked[name] > ranked[probe.label]]
                assert own.rank == 1 + len(better)


def test_before_any_edit_the_toy_says_what_it_knows(scored: list[EditScore]) -> None:
    known = dict.fromkeys([True, False], 0)  # of 640 facts the toy may have missed a few
    for perspective in ("entity", "relation"):
        for group in ("efficacy", "paraphrase"):
            for probe in of(scored, perspective, group):
                assert probe.rival_logprob is not None and probe.said is not None
                old_is_likelier = probe.logprob < probe.rival_logprob
                asked = (probe.says, probe.says_rival, probe.exact)
                known[old_is_likelier and asked == (False, True, False)] += 1
        for group in ("neighborhood", "other relations"):
            for probe in of(scored, perspective, group):
                assert probe.rival_logprob is not None and probe.said is None
                known[probe.exact and probe.logprob > probe.rival_logprob] += 1
    assert known[False] < 0.1 * known[True]
    removals = of(scored, "relation", "removal")
    assert len(removals) == 64
    # the relation holds: its name is first
    assert sum(probe.rank == 1 for probe in removals) > 0.9 * len(removals)


def test_case_by_case_gives_what_all_at_once_gives(
    toy: HookedTransformer, scored: list[EditScore]
) -> None:
    for edit_case, whole in list(zip(toy_module.cases(), scored, strict=True))[:4]:
        (alone,) = score(toy, [edit_case], RANKED)
        for one, other in zip(alone.probes, whole.probes, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=2e-5)
            assert (one.said, one.rank, one.exact) == (other.said, other.rank, other.exact)


def test_a_score_survives_json(scored: list[EditScore]) -> None:
    assert EditScore.from_record(scored[0].to_record()) == scored[0]


def test_an_answer_left_to_the_model_is_its_likeliest_word_with_a_meaning(
    toy: HookedTransformer,
) -> None:
    probe = Probe("entity", "other relations", "The language of Ada Alder is", "", rival="Delft")
    (before,) = score(toy, [case(probe)], RANKED, own_words(toy, [case(probe)]))
    (own,) = before.probes
    assert own.answer == " Greek" and own.exact  # what the toy knows
    assert decoded(toy, before.own_words[probe.prompt]) == " Greek"
    # another model is held to the first one's word
    token = answer_ids(toy, probe.prompt, "Danish")[0]
    (after,) = score(toy, [case(probe)], RANKED, own_words={probe.prompt: token})
    assert after.probes[0].answer == " Danish" and not after.probes[0].exact


def test_an_edited_model_is_never_measured_by_its_own_words(toy: HookedTransformer) -> None:
    told = Probe("entity", "other relations", "The language of Ada Alder is", "Greek")
    left = dataclasses.replace(told, answer="", rival="Delft")
    assert own_words(toy, [case(told, left)]).keys() == {left.prompt}
    assert own_words(toy, [case(told)]) == {}
    score(toy, [case(told)], RANKED)
    for words in ({}, {"another prompt": 3}, None):
        with pytest.raises(
            InputError, match="of Ada Alder is': the right answer is the unedited model"
        ):
            score(toy, [case(told, left)], RANKED, words)


def test_function_words_are_no_answer(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedit.scoring.score.FUNCTION_WORDS", FUNCTION_WORDS | {"greek"})
    probe = Probe("entity", "other relations", "The language of Ada Alder is", "", rival="Delft")
    (before,) = score(toy, [case(probe)], RANKED, own_words(toy, [case(probe)]))
    assert before.probes[0].answer.strip() not in ("", "Greek")
    assert not before.probes[0].exact


def test_aliases_count_for_the_label_on_both_sides(toy: HookedTransformer) -> None:
    prompt = "The relation between Ada Alder and Corum is"  # it says birthplace
    adding = Probe("relation", "efficacy", prompt, "hometown", "None", ("birthplace",), "hometown")
    removing = Probe("relation", "removal", prompt, "None", "hometown", ("birthplace",), "hometown")
    (found,) = score(toy, [case(adding, removing)], RANKED)
    add, remove = found.probes
    assert (add.says, add.says_rival) == (True, False)
    assert (remove.says, remove.says_rival) == (False, True)


def test_a_question_without_a_rival_is_not_weighed(toy: HookedTransformer) -> None:
    probe = Probe("entity", "portability", "The language of Ada Alder is", "Greek")
    (found,) = score(toy, [case(probe)], RANKED)
    (own,) = found.probes
    assert (own.rival_logprob, own.says_rival, own.rank) == (None, None, None)
    assert own.says and own.exact


def fluencies(model: HookedTransformer, *generation: tuple[str, ...], seed: int = 0) -> list[Any]:
    """Of one case for each tuple of generation prompts."""
    probe = Probe("entity", "neighborhood", FACT.prompt, "Delft", "Corum")  # says nothing
    cases = [case(probe, generation=prompts) for prompts in generation]
    return [found.fluency for found in score(model, cases, Scoring(texts=True, seed=seed))]


SPEAK, PLAY = "Ada Alder likes to speak", "Ada Alder plays the old"


def test_fluency_is_measured_by_seed_whatever_cases_are_scored_together(
    toy: HookedTransformer,
) -> None:
    generation = ((SPEAK, PLAY), (SPEAK, SPEAK), (PLAY, SPEAK, SPEAK), ())
    together = fluencies(toy, *generation)
    assert together == [fluencies(toy, prompts)[0] for prompts in generation]
    assert all(math.isfinite(value) for value in together[:3]) and together[3] is None
    assert fluencies(toy, *generation, seed=1) != together


def test_fluency_counts_a_generation_prompt_as_often_as_it_is_there(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbered(model: HookedTransformer, prompts: list[Tokens], *_: int) -> list[Tokens]:
        """A longer text each time that a prompt comes again."""
        times = [prompts[:number].count(prompt) for number, prompt in enumerate(prompts)]
        return [tuple(range(20, 25 + 5 * n)) for n in times]

    monkeypatch.setattr("kedit.scoring.score.sampled", numbered)
    speak, again, play = (
        ngram_entropy(prompt + decoded(toy, *range(20, end)))
        for prompt, end in ((SPEAK, 25), (SPEAK, 30), (PLAY, 25))
    )
    assert again > speak + 0.5
    once, twice = fluencies(toy, (SPEAK, PLAY), (SPEAK, PLAY, SPEAK))
    assert once == pytest.approx((speak + play) / 2)
    assert twice == pytest.approx((speak + again + play) / 3)


def test_a_prompt_beyond_the_context_is_named(toy: HookedTransformer) -> None:
    long = "Ada Alder " * 40 + "is"
    for answer in ("Corum", ""):
        probe = Probe("entity", "paraphrase", long, answer, "Delft")
        with pytest.raises(InputError, match=r"Ada Alder Ada .*tokens, the model reads 64"):
            score(toy, [case(probe)], RANKED, own_words(toy, [case(probe)]))


def test_scoring_leaves_no_hook_and_no_weight_changed(toy: HookedTransformer) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    score(toy, toy_module.cases()[:2], Scoring(LABELS, texts=True))
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())


def test_a_patched_model_is_only_a_model(toy: HookedTransformer) -> None:
    """Scoring under hooks needs no new code: with all attention gone the toy knows nothing."""
    cases = toy_module.cases()[:3]
    hooks: list[tuple[str | Callable, Callable]] = [
        (name, lambda act, hook: torch.zeros_like(act))
        for name in toy.hook_dict
        if name.endswith("hook_z")
    ]
    with toy.hooks(fwd_hooks=hooks):
        blind = score(toy, cases, RANKED)
        first = cases[0].probes[0]
        prompt = prompt_ids(toy, first.prompt)
        slow, _ = twins.likelihood(toy, prompt, answer_ids(toy, first.prompt, first.answer))
    assert blind[0].probes[0].logprob == pytest.approx(slow, abs=5e-5)
    assert not all(probe.exact for probe in of(blind, "entity", "neighborhood"))
