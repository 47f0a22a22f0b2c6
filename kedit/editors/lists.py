"""Lists of editor specs, from a command line or a file that tune_editors wrote. Needs no torch."""

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from kedit.editors import hparams
from kedit.editors.specs import unquoted
from kedit.errors import InputError


def parse_specs(text: str) -> list[str]:
    """Splits a comma-separated list of specs, ignoring commas in parentheses.

    Commas in quotation marks are ignored too. A .json path is read as tune_editors' output: the
    best spec that it found for each editor; or else as settings of one editor
    (`kedit.editors.hparams`).

    Raises:
        InputError: the file doesn't exist, or holds no specs.
    """
    if text.endswith(".json") and "," not in text:
        if not hparams.is_settings(text):
            return list(read_tuned(text).values())
        try:
            hparams.read_settings(text)
        except InputError as error:
            raise InputError(f"not a file that tune_editors wrote, and {error}") from None
        return [text]
    plain = unquoted(text)
    depths = accumulate((char == "(") - (char == ")") for char in plain)
    separates = (char == "," and depth == 0 for char, depth in zip(plain, depths, strict=True))
    commas = [index for index, is_separator in enumerate(separates) if is_separator]
    bounds = zip([-1, *commas], [*commas, len(text)], strict=True)
    pieces = [text[a + 1 : b].strip() for a, b in bounds]
    return [piece for piece in pieces if piece]


def read_tuned(file: str, names: Sequence[str] = ()) -> dict[str, str]:
    """Returns the specs that tune_editors wrote to a file, by editor: those of `names`, or all.

    Raises:
        InputError: the file doesn't exist, or one of the names is not in it.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))["editors"]
        return {name: str(found[name]) for name in names or found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        options = f" --editors {','.join(names)}" if names else ""
        raise InputError(
            f"{file}: not a file that tune_editors{options} wrote: {error!r}"
        ) from error
