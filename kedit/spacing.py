"""What stands between a prompt and its answer, and where an answer ends.

"The capital of France is" goes on with " Paris", after a blank. There is none after a new line (as
chat formats end), after an opening quotation mark or bracket, and in scripts that are written
without blanks between words.
"""

import re
import unicodedata

# Thai, Lao, Tibetan, Burmese, Khmer; Chinese and Japanese with their punctuation and full-width
# forms. Korean puts blanks between words, though a particle follows its noun without one.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f]"
)
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
# these open or close, by what stands before them: quotation marks that look the same on both
# sides, and those that languages use either way round, each with the marks that it closes
_EITHER_WAY = {'"': "", "'": "", "`": "", "»": "«", "”": "“„", "’": "‘‚"}
_APOSTROPHES = "'’"
_OPENING = {"Ps", "Pi", "Sc"}  # brackets and quotation marks that open; currency signs
_END_BLANKS = re.compile(r"[^\S\r\n]+\Z")


def without_end_blanks(text: str) -> str:
    """`text` without the blanks at its end, which its answer brings; a new line there stays."""
    return _END_BLANKS.sub("", text)


def separator(prompt: str) -> str:
    """What stands between `prompt` and its answer: a blank, or nothing.

    Nothing after white space, after an opening mark (a bracket, a quotation mark, a currency sign)
    and after a character of a script without blanks.
    """
    if not prompt or prompt[-1].isspace() or is_unspaced(prompt[-1]) or _opens(prompt):
        return ""
    return " "


def completed(prompt: str, answer: str) -> str:
    """`prompt` with `answer` behind it."""
    return f"{prompt}{separator(prompt)}{answer}"


def is_unspaced(char: str) -> bool:
    """Whether `char` is of a script that puts no blanks between words."""
    return bool(_UNSPACED.match(char))


def goes_on(answer: str, following: str) -> bool:
    """Whether `following`, right behind `answer`, makes it another word or number.

    A letter or a digit does, and a point or comma between digits. In scripts without blanks every
    word has a letter behind it, so that nothing can be told.
    """
    if not following or is_unspaced(answer[-1]):
        return False
    if answer[-1].isdigit() and re.match(r"[.,]\d", following):
        return True
    # "M": marks that combine with the letter before them, as vowel signs do
    return following[0].isalnum() or unicodedata.category(following[0])[0] == "M"


def standing(words: str, text: str) -> list[re.Match[str]]:
    """The places where `words` stand in `text` and not inside a longer word.

    In scripts without blanks, and before a Korean particle, words touch: any place will do.
    """
    before = "" if is_unspaced(words[0]) else r"(?<!\w)"
    after = "" if _touches_next(words) else r"(?!\w)"
    return list(re.finditer(f"{before}{re.escape(words)}{after}", text))


def may_touch(words: str) -> bool:
    """Whether another word may stand right beside `words`, without a blank."""
    return is_unspaced(words[0]) or _touches_next(words)


def _touches_next(words: str) -> bool:
    return is_unspaced(words[-1]) or bool(_HANGUL.match(words[-1]))


def _opens(text: str) -> bool:
    """Whether the last character of `text` opens something."""
    last, before = text[-1], text[:-1]
    if last in _EITHER_WAY:
        closes = any(mark in before for mark in _EITHER_WAY[last])
        if last not in _APOSTROPHES:  # which words hold too, so that they cannot be counted
            closes = closes or before.count(last) % 2 == 1
        return not closes and (not before or before[-1].isspace() or _opens(before))
    return last in "¿¡" or unicodedata.category(last) in _OPENING
