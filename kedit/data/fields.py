"""Reads the fields of a record with checks of their types; errors name the location and the field.

A location says where a record is in its file, as in "facts.jsonl, line 4".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kedit.errors import RecordError
from kedit.spacing import without_end_blanks

Record = dict[str, Any]
EXPECTED = {
    str: "non-empty text",
    int: "a whole number",
    dict: "an object",
    list: "a list",
}
# a lone surrogate: valid in JSON, but no tokenizer or UTF-8 file accepts it
HALF_PAIR = re.compile(r"[\ud800-\udfff]")


class MissingField(RecordError):
    """A record lacks a field that its format needs."""


@dataclass(frozen=True)
class Skipped:
    """A record that cannot be used: its location in the file, the reason, and its id or ""."""

    location: str
    reason: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"

    def to_record(self) -> dict[str, str]:
        """Returns a record for one line of JSON, in which the location is called "place"."""
        return {"place": self.location, "reason": self.reason, "id": self.id}


def field(location: str, record: Record, name: str, kind: type = str) -> Any:
    """Returns record[name] after a check of its type.

    Args:
        location: where the record is in its file, for messages.
        name: name of the field; a dot leads into a nested object ("target_true.str").
        kind: type that the value must have.

    Raises:
        MissingField: the record has no such field.
        RecordError: the value is an empty text or has another type.
    """
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise MissingField(f"{location}: field {name!r} is missing")
        value = value[key]
    return _checked(location, name, value, kind)


def optional(location: str, record: Record, name: str, kind: type = str) -> Any:
    """As `field`, but returns an empty `kind` if the field is missing, null or empty."""
    value = record.get(name)
    return kind() if value is None or value == kind() else _checked(location, name, value, kind)


def texts(location: str, record: Record, name: str) -> tuple[str, ...]:
    """Returns a list of prompts without the blanks at their ends; empty if the field is missing.

    Raises:
        RecordError: the field is not a list, or something in it is not a text.
    """
    values = enumerate(optional(location, record, name, list))
    return tuple(
        without_end_blanks(_checked(location, f"{name}.{n}", value, str)) for n, value in values
    )


def objects(location: str, record: Record, name: str) -> Iterator[tuple[str, Record]]:
    """Yields location and object for each object of a list; nothing if the field is missing.

    Raises:
        RecordError: the field is not a list, or something in it is not an object.
    """
    for n, value in enumerate(optional(location, record, name, list)):
        yield f"{location}: {name}.{n}", _checked(location, f"{name}.{n}", value, dict)


def flattened(location: str, record: Record, name: str) -> tuple[str, ...]:
    """Returns all texts of a field, which may be a text, a list, or nested lists.

    Empty texts are left out. The result is empty if the field is missing or null.

    Raises:
        RecordError: something in the field is not a text.
    """
    value = record.get(name)
    if value is None:
        return ()
    found: list[Any] = []
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, list):
            waiting[:0] = item
        elif item != "":
            found.append(item)
    return tuple(_checked(location, name, item, str) for item in found)


def case_id(location: str, record: Record) -> str:
    """Returns the record's case_id as text; in the file it may also be a whole number.

    Raises:
        RecordError: it is missing, or neither a text nor a whole number.
    """
    kind = int if isinstance(record.get("case_id"), int) else str
    return str(field(location, record, "case_id", kind))


def id_of(location: str, record: Record) -> str:
    """Returns an id for a record.

    This is its case_id; without one, its id, if that is a text or a whole number; else its location
    within the file ("line 3").

    Raises:
        RecordError: case_id is neither a text nor a whole number.
    """
    if record.get("case_id") is not None:
        return case_id(location, record)
    id = record.get("id")
    if isinstance(id, int) and not isinstance(id, bool):
        return str(id)
    if isinstance(id, str) and id.strip() and not HALF_PAIR.search(id):
        return id.strip()
    return location.rpartition(", ")[2]


def with_location(location: str, error: RecordError) -> RecordError:
    """Returns `error` with the location in front of its message, unless it is there already."""
    return error if str(error).startswith(location) else type(error)(f"{location}: {error}")


def skipped(location: str, error: RecordError, id: str = "") -> Skipped:
    """Makes the `Skipped` of a record that raised `error`."""
    return Skipped(location, str(error).removeprefix(f"{location}: "), id)


def _checked(location: str, name: str, value: Any, kind: type) -> Any:
    # isinstance(True, int) holds, but true is no number in JSON
    usable = isinstance(value, kind) and not isinstance(value, bool)
    if isinstance(value, str):
        usable = usable and bool(value.strip()) and not HALF_PAIR.search(value)
    if not usable:
        raise RecordError(
            f"{location}: field {name!r}: expected {EXPECTED[kind]}, got {value!r:.60}"
        )
    return value
