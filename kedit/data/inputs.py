"""Digests of the files and model folders that a run's options name.

A run folder keeps them, so that a continued run notices a changed input.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit import digests
from kedit.data.named import NO_FILES
from kedit.errors import InputError

# files that are read in the folder of a model
READ = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin")


def inputs_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Computes the digest of each file and each model folder that an option names, by its path.

    The path is the whole option or a part of it, as in a list of files or in the settings of an
    editor (mend:file=PATH).

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[str, str] = {}
    for name in _paths(options):
        try:
            path = Path(name).expanduser()
            if path.is_file():
                found[name] = digests.of_file(path)
            elif (path / "config.json").is_file():
                found[name] = digests.of_files(path, READ)
        except PermissionError as error:
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
        except (OSError, ValueError, RuntimeError):
            continue  # no path: too long for a name, a NUL in it, or an unknown user after ~
    return found


def _paths(value: Any) -> Iterator[str]:
    """Yields all texts in options that may be paths."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, str) and value not in NO_FILES:
        yield value
        parts = re.split(r"[,&:=]", value)
        yield from (part for part in parts if part != value and re.search(r"[./]\w", part))
