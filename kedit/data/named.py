"""Names of records and of texts: those that stand for no file, and whether the files are there."""

from pathlib import Path

from kedit.errors import InputError

RECORDS = ("auto", "builtin", "toy")
KEDIT = "kedit"  # written by Gemma 3 270M (experiments.say_text), for statistics of keys
HELD_OUT = "kedit:held-out"  # other documents of the same text, to see what an edit costs
SELF = "self"  # what the model itself says
HUB = "hf:"  # opens the name of a data set of the Hugging Face hub
NO_FILES = ("", *RECORDS, KEDIT, HELD_OUT, SELF)


def require_records(option: str, name: str) -> None:
    """Raises InputError unless `name` is that of records: a file that is there, or kedit's own."""
    require_file(option, name, " (builtin and toy are kedit's own)")


def require_text(option: str, name: str) -> None:
    """Raises InputError unless `name` is that of a text: a file that is there, or on the hub."""
    if not name.startswith(HUB):
        require_file(option, name, " (hf:NAME is a data set of the Hugging Face hub)")


def require_file(option: str, name: str, or_else: str = "") -> None:
    """Raises InputError unless the file is there, or `name` stands for none.

    Args:
        option: as it was told, for the message.
        or_else: what else than a file is possible, for the message.
    """
    kind = kind_of(name)
    if kind == "folder" and name not in NO_FILES:
        raise InputError(f"{option:.200}: it is a folder, and a file is wanted")
    if not kind and name not in NO_FILES:
        raise InputError(f"{option:.200}: there is no such file{or_else}")


def kind_of(name: str) -> str:
    """What `name` is on disk: "file", "folder", or "" for neither."""
    try:
        path = Path(name)
        return "" if not name else "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):
        return ""  # too long for a name, or a NUL in it
