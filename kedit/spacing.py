"""Decides whether a blank joins a prompt and its answer, and where a word ends in a text.

"The capital of France is" continues with " Paris", after a blank. There is no blank after a new
line (with which chat formats end), after an opening quotation mark or bracket, and in scripts that
are written without blanks between words.
"""

import re
import unicodedata

# Thai, Lao, Tibetan, Burmese, Khmer; Chinese and Japanese with their punctuation and full-width
# forms. Korean has blanks between words, but a particle follows its noun without a blank.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f]"
)
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
# Marks that open or close, depending on the text before them: quotation marks that look the same on
# both sides, and those that some languages use for opening and others for closing. The value lists
# the marks that this mark can close.
_EITHER_WAY = {'"': "", "'": "", "`": "", "»": "«", "”": "“„", "’": "‘‚"}
_APOSTROPHES = "'’"
_OPENING = {"Ps", "Pi", "Sc"}  # brackets and quotation marks that open; currency signs
_END_BLANKS = re.compile(r"[^\S\r\n]+\Z")


def without_end_blanks(text: str) -> str:
    """Removes blanks at the end of a prompt, since joining an answer adds them; new lines stay."""
    return _END_BLANKS.sub("", text)


def separator(prompt: str) -> str:
    """Returns the text that joins `prompt` and its answer: " " or "".

    It is empty after white space, after an opening mark (a bracket, a quotation mark, a currency
    sign), and after a character of a script without blanks.
    """
    if not prompt or prompt[-1].isspace() or is_unspaced(prompt[-1]) or _opens(prompt):
        return ""
    return " "


def completed(prompt: str, answer: str) -> str:
    """Joins `prompt` and `answer`, with a blank between them if one is needed."""
    return f"{prompt}{separator(prompt)}{answer}"


def is_unspaced(char: str) -> bool:
    """Whether `char` belongs to a script that has no blanks between words."""
    return bool(_UNSPACED.match(char))


def goes_on(answer: str, following: str) -> bool:
    """Whether `following`, directly after `answer`, continues its last word or number.

    A letter or a digit does, and so does a point or comma between digits. In scripts without blanks
    a letter follows every word, so the answer is always False there.
    """
    if not following or is_unspaced(answer[-1]):
        return False
    if answer[-1].isdigit() and re.match(r"[.,]\d", following):
        return True
    # category "M": marks that combine with the letter before them, such as vowel signs
    return following[0].isalnum() or unicodedata.category(following[0])[0] == "M"


def standing(words: str, text: str) -> list[re.Match[str]]:
    """Finds `words` in `text`, but not as a part of a longer word.

    In scripts without blanks, and before a Korean particle, words touch their neighbours, so that
    every occurrence counts.
    """
    before = "" if is_unspaced(words[0]) else r"(?<!\w)"
    after = "" if _touches_next(words) else r"(?!\w)"
    return list(re.finditer(f"{before}{re.escape(words)}{after}", text))


def may_touch(words: str) -> bool:
    """Whether another word may precede or follow `words` without a blank."""
    return is_unspaced(words[0]) or _touches_next(words)


def _touches_next(words: str) -> bool:
    return is_unspaced(words[-1]) or bool(_HANGUL.match(words[-1]))


def _opens(text: str) -> bool:
    """Whether the last character of `text` opens something."""
    last, before = text[-1], text[:-1]
    if last in _EITHER_WAY:
        closes = any(mark in before for mark in _EITHER_WAY[last])
        if last not in _APOSTROPHES:  # apostrophes occur in words too, so counting does not help
            closes = closes or before.count(last) % 2 == 1
        return not closes and (not before or before[-1].isspace() or _opens(before))
    return last in "¿¡" or unicodedata.category(last) in _OPENING
