"""Decides whether a generated text begins with an answer, by comparing words (without torch)."""

import re
from collections.abc import Sequence

from kedit.spacing import is_unspaced

ARTICLES = {"a", "an", "the"}


def opens_with_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether `text` begins with one of `answers`, ignoring case, articles and punctuation.

    It compares whole words, or characters in scripts that have no blanks between words.
    """
    words = _words(text)
    for answer in answers:
        expected = _words(answer)
        if expected and is_unspaced(expected[-1][-1]):
            if "".join(words).startswith("".join(expected)):
                return True
        elif expected and words[: len(expected)] == expected:
            return True
    return False


def _words(text: str) -> list[str]:
    """The words of a text in lower case, without articles at its beginning."""
    words = re.findall(r"\w+", text.casefold())
    while words and words[0] in ARTICLES:
        words = words[1:]
    return words
