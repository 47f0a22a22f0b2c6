"""What a model says by itself: against the loop that runs the whole text anew for each token."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from kedit.forward.generation import greedy, ngram_entropy, sampled, variety
from kedit.forward.saying import opens_with_answer
from kedit.models.prompts import decoded, prompt_ids
from tests import twins
from tests.conftest import FAMILIES, FamilyOf

PROMPTS = [(0, 4, 8, 15, 16, 23, 42), (0, 9), (0, 11, 3), (0, 200, 201, 202, 203)]


def ends(model: HookedTransformer, token: int) -> bool:
    """Whether a text ends before this token."""
    return token == 0 or "\n" in decoded(model, token)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_the_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    for prompt, said in zip(PROMPTS, greedy(model, PROMPTS, 6), strict=True):
        slow = twins.greedy(model, prompt, 6)
        assert said == slow[: len(said)]
        assert len(said) == 6 or ends(model, slow[len(said)])


def test_the_toy_says_its_facts(toy: HookedTransformer) -> None:
    prompt = prompt_ids(toy, "The birthplace of Ada Alder is")
    (said,) = greedy(toy, [prompt], 1)
    assert decoded(toy, *said) == " Corum"


def test_greedy_stops_at_the_end_of_the_line_and_of_the_context(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompt_ids(toy, "The birthplace of Ada Alder is")
    (whole,) = greedy(toy, [prompt], 5)
    broken = decoded(toy, whole[2])
    monkeypatch.setattr(
        "kedit.forward.generation.decoded",
        lambda model, *tokens: decoded(model, *tokens).replace(broken, "\n"),
    )
    first = next(index for index, token in enumerate(whole) if decoded(toy, token) == broken)
    assert greedy(toy, [prompt], 5) == [whole[:first]]
    monkeypatch.undo()
    fulls = [(0,) + (token,) * (toy.cfg.n_ctx - 2) for token in range(2, 100)]
    full = next(full for full in fulls if not ends(toy, *twins.greedy(toy, full, 1)))
    assert [len(said) for said in greedy(toy, [full, (*full, 5)], 5)] == [1, 0]


def test_sampled_texts_depend_on_seed_and_prompt_but_not_on_the_company(family: FamilyOf) -> None:
    model = family("llama").model
    together = sampled(model, PROMPTS, 20, 5, seed=1)
    assert together == [sampled(model, [prompt], 20, 5, seed=1)[0] for prompt in PROMPTS]
    assert together != sampled(model, PROMPTS, 20, 5, seed=2)
    assert all(
        len(text) <= 20 - len(prompt) for text, prompt in zip(together, PROMPTS, strict=True)
    )
    twice = sampled(model, [PROMPTS[0]] * 2, 30, 50, seed=1)
    assert twice[0] != twice[1]
    assert sampled(model, PROMPTS, 20, 1, seed=1)[0] == twins.greedy(model, PROMPTS[0], 13)


@pytest.mark.parametrize(
    ("text", "answer", "yes"),
    [
        (" the  United States, which", "United States", True),
        ("“Paris”.", "Paris", True),
        (" mother tongue of", "mother tongue", True),
        (" Paris", "The Paris", True),
        (" Parisian", "Paris", False),
        (" not Paris", "Paris", False),
        (" mother", "mother tongue", False),
        ("", "Paris", False),
    ],
)
def test_saying_is_opening_with_the_words(text: str, answer: str, yes: bool) -> None:
    assert opens_with_answer(text, [answer]) is yes
    assert opens_with_answer(text, ["something else", answer]) is yes


def test_nothing_says_an_answer_without_words() -> None:
    assert not opens_with_answer(" Paris", ["", "—"])


def test_entropy_by_hand() -> None:
    # bigrams ab ba ab: 2/3 and 1/3; trigrams aba bab: 1/2 each
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * bigrams + 4 / 3 * 1.0) / 2)
    assert ngram_entropy("so so so so so") == 0
    assert ngram_entropy("") == ngram_entropy("one word") == 0


def test_variety_by_hand() -> None:
    # of three bigrams two are the same, of two trigrams none; all different would be log2 of both
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    share = (2 / 3 * bigrams + 4 / 3 * 1.0) / (2 / 3 * math.log2(3) + 4 / 3 * 1.0)
    assert variety((7, 9, 7, 9)) == pytest.approx(share)
    assert variety((5, 5, 5, 5, 5)) == 0
    assert variety(tuple(range(4))) == variety(tuple(range(40))) == 1  # whatever the length
    assert variety(()) == variety((5, 5, 5)) == 1  # too short to repeat anything
    words = (1, 2, 3, 4) * 10  # four words, over and over
    assert 0 < variety(words) < 0.5


@given(st.lists(st.sampled_from(["a", "b", "c", "d", ",", "."]), max_size=30))
def test_entropy_is_between_zero_and_that_of_all_different(words: list[str]) -> None:
    most = sum(
        weight * math.log2(max(1, len(words) - n + 1)) for n, weight in ((2, 2 / 3), (3, 4 / 3))
    )
    value = ngram_entropy(" ".join(words))
    assert -1e-9 <= value <= most / 2 + 1e-9
    if max(Counter(words).values(), default=0) == len(words):
        assert value == pytest.approx(0)
