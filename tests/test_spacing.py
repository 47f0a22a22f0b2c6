"""Where a blank stands between a prompt and its answer, and where an answer ends."""

import pytest

from kedit.spacing import completed, goes_on, standing, without_end_blanks


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("The capital of France is", "Paris", "The capital of France is Paris"),
        ("Where is Paris?\n", "France", "Where is Paris?\nFrance"),
        ("assistant\n\n", "Paris", "assistant\n\nParis"),
        ('She wrote the novel "', "Emma", 'She wrote the novel "Emma'),
        ("She wrote the novel “", "Emma", "She wrote the novel “Emma"),
        ('The novel "Emma" is by', "Austen", 'The novel "Emma" is by Austen'),
        ('The author of "Emma"', "is", 'The author of "Emma" is'),
        ("Er schrieb »", "Faust", "Er schrieb »Faust"),
        ("Il a écrit « Candide »", "en", "Il a écrit « Candide » en"),
        ("The city (", "Rome", "The city (Rome"),
        ("It costs $", "5", "It costs $5"),
        ("The dogs' owner, James'", "house", "The dogs' owner, James' house"),
        ("フランスの首都は", "パリ", "フランスの首都はパリ"),
        ("法国的首都是", "巴黎", "法国的首都是巴黎"),
        ("เมืองหลวงคือ", "ปารีส", "เมืองหลวงคือปารีส"),
        ("프랑스의 수도는", "파리", "프랑스의 수도는 파리"),
        ("Столица Франции —", "Париж", "Столица Франции — Париж"),
    ],
)
def test_an_answer_is_joined_as_its_prompt_asks(prompt: str, answer: str, text: str) -> None:
    assert completed(prompt, answer) == text


def test_only_blanks_go_from_the_end_of_a_prompt() -> None:
    assert without_end_blanks("The capital is \t\u00a0") == "The capital is"
    assert without_end_blanks("assistant\n ") == "assistant\n"
    assert without_end_blanks("assistant\r\n") == "assistant\r\n"


@pytest.mark.parametrize(
    ("answer", "following", "expected"),
    [
        ("19", "45 was", True),
        ("New", "ark", True),
        ("3", ".14", True),
        ("3", ". Then", False),
        ("1", ",500", True),
        ("Rome", ", Italy", False),
        ("Rome", "", False),
        ("Rome", "\n", False),
        ("Rome", "'s", False),
        ("パリ", "です", False),  # nothing can be told where words touch
        ("दिल", "\u094d", True),  # a sign that belongs to the letter before it
    ],
)
def test_a_letter_or_a_digit_makes_another_answer(
    answer: str, following: str, expected: bool
) -> None:
    assert goes_on(answer, following) is expected


@pytest.mark.parametrize(
    ("words", "text", "start"),
    [
        ("Man", "Manhattan, where the Man lives", 21),
        ("巴黎", "首都巴黎所在的国家是", 2),
        ("파리", "파리는", 0),
        ("리", "파리는", None),
        ("Rom", "Romance", None),
    ],
)
def test_words_stand_by_themselves(words: str, text: str, start: int | None) -> None:
    found = standing(words, text)
    assert (found[0].start() if found else None) == start
