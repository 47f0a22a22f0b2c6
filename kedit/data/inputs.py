"""What a run was made from beside its options: the contents of the files that these name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit import digests
from kedit.data.named import NO_FILES
from kedit.errors import InputError

# of a folder that holds a model: what is read of it
READ = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin")


def inputs_of(options: Mapping[str, Any]) -> dict[str, str]:
    """A digest of every file, and of every folder with a model, that an option names, by its path.

    A path may be the whole option, or a part of it: of a list of files, or of an editor's settings,
    as in mend:file=PATH.

    Raises:
        InputError: such a file cannot be read.
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
            continue  # too long for a name, a NUL in it, no such user: no file
    return found


def _paths(value: Any) -> Iterator[str]:
    """All texts in options that may be paths."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str) and value not in NO_FILES:
        yield value
        parts = re.split(r"[,&:=]", value)
        yield from (part for part in parts if part != value and re.search(r"[./]\w", part))
