"""Reads and writes records as JSON Lines, where each line ends with a checksum of itself.

Lines are appended one by one. A line that was damaged, or torn because the writer was stopped, is
recognised and does not spoil the others.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
SEALED = re.compile(rb'(\{.*), "checksum": "([0-9a-f]{16})"\}', re.DOTALL)


class Lines(NamedTuple):
    """The contents of a file of records.

    Args:
        records: the undamaged records by key, in order; if a key occurs twice, its last record.
        damaged: lines that are not a record, or whose checksum is wrong.
        torn: the bytes after the last newline, left by a writer that was stopped.
    """

    records: dict[str, Record]
    damaged: list[bytes]
    torn: bytes


def line_of(record: Mapping[str, Any]) -> bytes:
    """Encodes a record as one line, with its checksum as the last field."""
    text = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")[:-1]
    return text + f', "checksum": "{_checksum(text)}"}}\n'.encode()


def read_lines(file: Path) -> Lines:
    """Reads a file that was written with `line_of`; empty if there is no such file.

    Files of earlier versions of kedit have no checksums. If no line has one, lines without a
    checksum are accepted.
    """
    *lines, torn = file.read_bytes().split(b"\n") if file.exists() else [b""]
    sealed = [SEALED.fullmatch(line) for line in lines]
    records: dict[str, Record] = {}
    damaged = []
    for line, seal in zip(lines, sealed, strict=True):
        record = None
        if seal is None and not any(sealed):
            record = _record(line)
        elif seal is not None and _checksum(seal[1]) == seal[2].decode():
            record = _record(seal[1] + b"}")
        if record is None:
            damaged.append(line)
        else:
            records[record["key"]] = record
    return Lines(records, damaged, torn)


def _record(line: bytes) -> Record | None:
    """Parses a line; None if it is not JSON, or not a record with a key."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    has_key = isinstance(record, dict) and isinstance(record.get("key"), str)
    return record if has_key else None


def _checksum(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]
