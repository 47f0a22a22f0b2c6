"""Records in a file of JSON Lines, appended one by one, each with a checksum of its own line."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
SEALED = re.compile(rb'(\{.*), "checksum": "([0-9a-f]{16})"\}', re.DOTALL)


class Lines(NamedTuple):
    """What a file of records holds.

    Args:
        records: that are whole, by their keys, in order; of one key the last.
        damaged: lines that are no record, or not the one that was written.
        torn: bytes behind the last end of a line: its writer was stopped.
    """

    records: dict[str, Record]
    damaged: list[bytes]
    torn: bytes


def line_of(record: Mapping[str, Any]) -> bytes:
    """The line of a record, with its checksum as the last field."""
    told = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")[:-1]
    return told + f', "checksum": "{_checksum(told)}"}}\n'.encode()


def read_lines(file: Path) -> Lines:
    """What `line_of` made, line by line; nothing if there is no such file.

    Files of an earlier kedit have no checksums: where no line has one, none is asked for.
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
    """None for what is no JSON, or no record with a key."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    named = isinstance(record, dict) and isinstance(record.get("key"), str)
    return record if named else None


def _checksum(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]
