"""Lists of editors, as a command line or a file of tune_editors has them: texts only."""

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

BOTH = "both"
ABLATED = {"W_out": "w_out", "W_O": "w_o", BOTH: "joint"}  # by what an ablation lets them change


def split(told: str) -> list[str]:
    """Editors as the command line has them: at commas outside of brackets and quotation marks, or a
    tuned.json.
    """
    from kedit.editors.specs import unquoted

    if told.endswith(".json"):
        return list(tuned(told).values())
    plain = unquoted(told)
    depths = accumulate((char == "(") - (char == ")") for char in plain)
    outside = (char == "," and depth == 0 for char, depth in zip(plain, depths, strict=True))
    at = [number for number, cuts in enumerate(outside) if cuts]
    pieces = [told[a + 1 : b].strip() for a, b in zip([-1, *at], [*at, len(told)], strict=True)]
    return [piece for piece in pieces if piece]


def tuned(file: str, wanted: Sequence[str] = ()) -> dict[str, str]:
    """The editors of what tune_editors wrote, as they are told, by name: those that are wanted.

    Raises:
        InputError: no such file, or one of those is not in it.
    """
    from kedit.errors import InputError

    try:
        told = json.loads(Path(file).read_text(encoding="utf-8"))["editors"]
        return {name: str(told[name]) for name in wanted or told}
    except (OSError, ValueError, KeyError, TypeError) as error:
        those = f" --editors {','.join(wanted)}" if wanted else ""
        raise InputError(f"{file}: no file of tune_editors{those}: {error!r}") from error
