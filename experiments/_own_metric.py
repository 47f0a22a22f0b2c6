"""Reads a score that a user wrote: a function in a Python file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def function_of(spec: str) -> Callable[..., Any] | None:
    """Runs the file of FILE.py:FUNCTION and returns the function; None for "".

    Raises:
        InputError: the file does not exist, or it has no such function.
    """
    import runpy

    from kedit.errors import InputError

    if not spec:
        return None
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise InputError(
            f"--own-metric {spec}: there is no file {file!r}; the form is FILE.py:FUNCTION"
        )
    function = runpy.run_path(file).get(name)
    if not callable(function):
        raise InputError(f"--own-metric {spec}: {file} has no function {name!r}")
    return function
