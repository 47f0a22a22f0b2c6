"""What counts as saying an answer: of texts alone, without torch."""

import re
from collections.abc import Sequence

from kedit.spacing import is_unspaced

ARTICLES = {"a", "an", "the"}


def opens_with_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether `text` opens with one of `answers`: case, articles and punctuation aside.

    Whole words are compared; in scripts without blanks between words, characters.
    """
    words = _words(text)
    for answer in answers:
        wanted = _words(answer)
        if wanted and is_unspaced(wanted[-1][-1]):
            if "".join(words).startswith("".join(wanted)):
                return True
        elif wanted and words[: len(wanted)] == wanted:
            return True
    return False


def _words(text: str) -> list[str]:
    words = re.findall(r"\w+", text.casefold())
    while words and words[0] in ARTICLES:
        words = words[1:]
    return words
