"""Names of records and texts that are not files, and checks that other names are existing files."""

from pathlib import Path

from kedit.errors import InputError

RECORDS = ("auto", "builtin", "toy")
KEDIT = "kedit"  # text by Gemma 3 270M (experiments.say_text), for the statistics of keys
HELD_OUT = "kedit:held-out"  # other documents of that text, for the perplexity under an edit
SELF = "self"  # text sampled from the model itself
HUB = "hf:"  # how names of data sets of the Hugging Face hub begin
NO_FILES = ("", *RECORDS, KEDIT, HELD_OUT, SELF)


def require_records(option: str, name: str) -> None:
    """Raises InputError unless `name` is a file or one of NO_FILES, such as "builtin"."""
    require_file(option, name, " (builtin and toy are kedit's own)")


def require_text(option: str, name: str) -> None:
    """Raises InputError unless `name` is a file, a data set of the hub, or one of NO_FILES."""
    if not name.startswith(HUB):
        require_file(option, name, " (hf:NAME is a data set of the Hugging Face hub)")


def require_file(option: str, name: str, or_else: str = "") -> None:
    """Raises InputError unless `name` is an existing file or one of NO_FILES.

    Args:
        option: option and value as the user gave them, for the message.
        or_else: what is possible instead of a file, for the message.
    """
    kind = kind_of(name)
    if kind == "folder" and name not in NO_FILES:
        raise InputError(f"{option:.200}: it is a folder, but must be a file")
    if not kind and name not in NO_FILES:
        raise InputError(f"{option:.200}: there is no such file{or_else}")


def kind_of(name: str) -> str:
    """Returns "file" or "folder" if `name` is one on disk, else ""."""
    try:
        path = Path(name)
        return "" if not name else "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):
        return ""  # no path: too long for a name, or a NUL in it
