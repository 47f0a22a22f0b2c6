"""A score of a user's own, from a file of theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def function_of(told: str) -> Callable[..., Any] | None:
    """The function that FILE.py:FUNCTION names; the file is run. None for "".

    Raises:
        InputError: there is none.
    """
    import runpy

    from kedit.errors import InputError

    if not told:
        return None
    file, _, name = told.rpartition(":")
    if not Path(file).is_file():
        raise InputError(
            f"--own-metric {told}: FILE.py:FUNCTION is wanted, and no file is {file!r}"
        )
    found = runpy.run_path(file).get(name)
    if not callable(found):
        raise InputError(f"--own-metric {told}: {file} has no function {name!r}")
    return found
