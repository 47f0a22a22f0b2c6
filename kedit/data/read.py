"""Records of JSON and JSON Lines files, plain or compressed, with errors that name the place."""

import gzip
import io
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kedit.errors import RecordError

OPENERS = {".xz": lzma.open, ".gz": gzip.open}
Record = dict[str, Any]


def records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Each record of a file, with its place ("facts.jsonl, line 3") for messages.

    A `.jsonl` file (or `.jsonl.xz`, `.jsonl.gz`) holds an object a line, any other an array.

    Raises:
        RecordError: no such file, a truncated archive, broken JSON, or a record that is no object.
    """
    path = Path(path)
    if ".jsonl" in path.suffixes:
        numbered = ((f"{path.name}, line {n}", line) for n, line in _lines(path))
        for place, line in numbered:
            if line.strip():
                yield place, _object(place, _parsed(place, line))
        return
    whole = _parsed(path.name, "".join(line for _, line in _lines(path)))
    if not isinstance(whole, list):
        raise RecordError(f"{path.name}: an array of records is wanted, got {type(whole).__name__}")
    for n, record in enumerate(whole):
        place = f"{path.name}, record {n}"
        yield place, _object(place, record)


def field(place: str, record: Record, name: str, kind: type = str) -> Any:
    """record[name], of the wanted type; a dot in `name` leads into an object ("target_true.str").

    Raises:
        RecordError: missing, empty text or of another type; names place and field.
    """
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise RecordError(f"{place}: field {name!r} is missing")
        value = value[key]
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise RecordError(
            f"{place}: field {name!r}: a {kind.__name__} is wanted, got {value!r:.60}"
        )
    return value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8")  # pyright: ignore[reportArgumentType]
            for number, line in enumerate(text, 1):
                yield number, line
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise RecordError(f"{path.name}: broken off after line {number}: {error}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path.name}: not UTF-8 after line {number}: {error}") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"{place}: broken JSON: {error}") from None


def _object(place: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise RecordError(f"{place}: an object is wanted, got {type(record).__name__}")
    return record
