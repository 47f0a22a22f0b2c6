"""Lists of editor specs, as a command line or a file of tune_editors has them: texts, no torch."""

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from kedit.editors.specs import unquoted
from kedit.errors import InputError


def parse_specs(text: str) -> list[str]:
    """Splits a list of specs at commas outside of brackets and quotation marks.

    The path of a .json file is read as what tune_editors wrote: the best specs that it found.

    Raises:
        InputError: there is no such file, or it holds no specs.
    """
    if text.endswith(".json"):
        return list(read_tuned(text).values())
    plain = unquoted(text)
    depths = accumulate((char == "(") - (char == ")") for char in plain)
    outside = (char == "," and depth == 0 for char, depth in zip(plain, depths, strict=True))
    at = [number for number, cuts in enumerate(outside) if cuts]
    pieces = [text[a + 1 : b].strip() for a, b in zip([-1, *at], [*at, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def read_tuned(file: str, names: Sequence[str] = ()) -> dict[str, str]:
    """The specs that tune_editors wrote to a file, by editor: those of `names`, or all.

    Raises:
        InputError: there is no such file, or one of the names is not in it.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))["editors"]
        return {name: str(found[name]) for name in names or found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        those = f" --editors {','.join(names)}" if names else ""
        raise InputError(f"{file}: no file of tune_editors{those}: {error!r}") from error
