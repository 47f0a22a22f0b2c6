"""Answers behind prompts that are read once, against one forward for every prompt and answer."""

import random

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.forward import likelihood, metrics, reading
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.reading import Tokens, read, read_on
from tests import twins
from tests.conftest import FAMILIES, FamilyOf

LABELS = tuple(tuple(range(start, start + 1 + start % 3)) for start in range(100, 160, 4))


def questions(n: int = 12) -> list[Query]:
    """Prompts of 1 to 12 tokens, some of them twice; answers of 1 to 4; a field for every third."""
    draw = random.Random(0)

    def tokens(length: int) -> Tokens:
        return (0, *(draw.randrange(2, 600) for _ in range(length)))

    asked = [
        Query(
            tokens(draw.randrange(12)),
            tuple(tokens(draw.randrange(4))[1:] or (7,) for _ in range(1 + number % 3)),
        )
        for number in range(n)
    ]
    asked = [
        Query(one.prompt, (*one.answers, LABELS[number]), LABELS, ranked=len(one.answers))
        if number % 3 == 0
        else one
        for number, one in enumerate(asked)
    ]
    return [*asked, Query(asked[3].prompt, asked[4].answers)]


@pytest.mark.parametrize("name", FAMILIES)
def test_likelihoods_equal_the_slow_twin(family: FamilyOf, name: str) -> None:
    model, asked = family(name).model, questions()
    for one, found in zip(asked, likelihoods(model, asked), strict=True):
        slow = [twins.likelihood(model, one.prompt, answer) for answer in one.answers]
        assert [answer.exact for answer in found.answers] == [exact for _, exact in slow]
        torch.testing.assert_close(
            torch.tensor([answer.logprob for answer in found.answers]),
            torch.tensor([logprob for logprob, _ in slow]),
            atol=5e-5,
            rtol=0,
        )
        if one.field:
            field = [twins.likelihood(model, one.prompt, answer)[0] for answer in one.field]
            assert found.rank == 1 + sum(other > slow[one.ranked][0] for other in field)
        else:
            assert found.rank is None


def test_exact_is_what_greedy_decoding_says(family: FamilyOf) -> None:
    model = family("llama").model
    prompts = [one.prompt for one in questions()]
    said = [twins.greedy(model, prompt, 3) for prompt in prompts]
    asked = [
        Query(prompt, (own, (*own[:2], own[2] + 1)))
        for prompt, own in zip(prompts, said, strict=True)
    ]
    for found in likelihoods(model, asked):
        assert [answer.exact for answer in found.answers] == [True, False]


def test_ranks_run_from_first_to_last(family: FamilyOf) -> None:
    model = family("gpt2").model
    asked = [Query((0, 5, 9), (label,), LABELS) for label in LABELS]
    ranks = [found.rank for found in likelihoods(model, asked)]
    assert set(ranks) == set(range(1, len(LABELS) + 1))  # equal prompts, all labels


@pytest.mark.parametrize("together", [1, 40, 10_000])
def test_it_does_not_matter_how_prompts_are_put_together(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    model, asked = family("gemma3").model, questions()
    whole = likelihoods(model, asked)
    monkeypatch.setattr(reading, "TOKENS_PER_BATCH", together)
    for one, other in zip(whole, likelihoods(model, asked), strict=True):
        assert one.rank == other.rank
        for mine, theirs in zip(one.answers, other.answers, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=2e-5)


def test_only_competitors_that_may_win_are_worked_out(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family("gpt2").model
    best = max(LABELS, key=lambda label: twins.likelihood(model, (0, 5, 9), label)[0])
    n_worked_out = []
    worked_out = likelihood._whole_answers

    def counting(model: HookedTransformer, read: object, firsts: object, answers: list, *rest):
        n_worked_out.append(len(answers))
        return worked_out(model, read, firsts, answers, *rest)  # pyright: ignore

    monkeypatch.setattr(likelihood, "_whole_answers", counting)
    (found,) = likelihoods(model, [Query((0, 5, 9), (best,), LABELS)])
    assert found.rank == 1
    assert n_worked_out[0] == 1 and n_worked_out[1] < len(LABELS) / 2


@pytest.mark.parametrize("share", [1, 3])
def test_competitors_that_surely_lose_are_not_unembedded(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    model, n_scored = family("gpt2").model, []
    rivals = tuple((7, *range(start, start + 3)) for start in range(100, 400, 6))
    asked = [Query((0, 5, 9), (rivals[0],), rivals)]
    token_scores = likelihood.token_scores

    def counting(model: HookedTransformer, resid: torch.Tensor, *rest):
        n_scored.append(len(resid))
        return token_scores(model, resid, *rest)  # pyright: ignore

    monkeypatch.setattr(likelihood, "token_scores", counting)
    monkeypatch.setattr(metrics, "BOUND_SHARE", share)
    (found,) = likelihoods(model, asked)
    slow = [twins.likelihood(model, (0, 5, 9), rival)[0] for rival in rivals]
    n_better = sum(other > slow[0] for other in slow)
    assert found.rank == 1 + n_better > 1
    _, _, n_bounded = n_scored  # after the first tokens and the answer's own
    if share == 1:  # the bound is the score: the competitors that win are left, with 3 tokens each
        assert n_bounded == 3 * n_better
    monkeypatch.setattr(metrics, "BOUND_SHARE", 10**9)  # by one token, which excludes none
    assert likelihoods(model, asked) == [found]
    assert n_scored[-1] == 3 * (len(rivals) - 1) > n_bounded


def test_answers_that_begin_alike_are_read_once(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n_read = family("gpt2").model, []
    read_some = likelihood.read_some

    def counting(model: HookedTransformer, reading: object, texts: list, *rest):
        n_read.append(sum(len(tokens) for _, tokens in texts))
        return read_some(model, reading, texts, *rest)  # pyright: ignore

    monkeypatch.setattr(likelihood, "read_some", counting)
    answers = ((7, 8), (7, 8, 9, 4), (7, 8, 9), (7, 5, 3), (6,), (7, 8, 2))
    prompts: list[Tokens] = [(0, 5, 9), (0, 7)]
    found = likelihoods(model, [Query(prompt, answers) for prompt in prompts])
    # after each prompt 7 8 9, which others begin with, and 7 5
    assert n_read == [2 * (3 + 2)]
    for prompt, each in zip(prompts, found, strict=True):
        slow = [twins.likelihood(model, prompt, answer) for answer in answers]
        assert [answer.exact for answer in each.answers] == [exact for _, exact in slow]
        assert [answer.logprob for answer in each.answers] == pytest.approx(
            [logprob for logprob, _ in slow], abs=5e-5
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reading_can_be_continued_again_and_again(family: FamilyOf, name: str) -> None:
    model = family(name).model
    prompts: list[Tokens] = [(0, 4, 8, 15, 16, 23, 42), (0, 9), (0, 11, 3)]
    tails = torch.tensor([[100, 200, 300], [101, 201, 301], [102, 202, 302]])
    stage = read(model, prompts).rows(torch.tensor([2, 0, 0]))
    for step in range(3):
        resid, stage = read_on(model, stage, [(int(token),) for token in tails[:, step]])
        for row, source in enumerate((2, 0, 0)):
            text = torch.tensor([[*prompts[source], *tails[row, : step + 1].tolist()]])
            whole = model(text, stop_at_layer=model.cfg.n_layers)[0, -1]
            torch.testing.assert_close(resid[row, 0], whole, atol=2e-4, rtol=1e-4)
