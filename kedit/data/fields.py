"""What a record holds, checked as it is taken out; errors name place and field."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kedit.errors import RecordError
from kedit.spacing import without_end_blanks

Record = dict[str, Any]
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # JSON may hold one; no tokenizer and no file does


class MissingField(RecordError):
    """A record lacks a field that its form needs."""


@dataclass(frozen=True)
class Skipped:
    """A record that cannot be used: where it stands, why, and its id if it has one."""

    place: str
    reason: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def field(place: str, record: Record, name: str, kind: type = str) -> Any:
    """record[name], of the wanted type; a dot in `name` leads into an object ("target_true.str").

    Raises:
        MissingField: there is none.
        RecordError: empty text or of another type; names place and field.
    """
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise MissingField(f"{place}: field {name!r} is missing")
        value = value[key]
    return _checked(place, name, value, kind)


def optional(place: str, record: Record, name: str, kind: type = str) -> Any:
    """As `field`, but the empty value of its type where the field is missing, null or empty."""
    value = record.get(name)
    return kind() if value is None or value == kind() else _checked(place, name, value, kind)


def texts(place: str, record: Record, name: str) -> tuple[str, ...]:
    """A list of prompts, none if it is missing, without the blanks at their ends.

    Raises:
        RecordError: it is no list, or something in it is no text.
    """
    values = enumerate(optional(place, record, name, list))
    return tuple(
        without_end_blanks(_checked(place, f"{name}.{n}", value, str)) for n, value in values
    )


def objects(place: str, record: Record, name: str) -> Iterator[tuple[str, Record]]:
    """The objects of a list, each with its place, none if the list is missing.

    Raises:
        RecordError: it is no list, or something in it is no object.
    """
    for n, value in enumerate(optional(place, record, name, list)):
        yield f"{place}: {name}.{n}", _checked(place, f"{name}.{n}", value, dict)


def flattened(place: str, record: Record, name: str) -> tuple[str, ...]:
    """A text, or the texts of a list, or of the lists in it, without empty ones; or none.

    Raises:
        RecordError: something in it is no text.
    """
    value = record.get(name)
    if value is None:
        return ()
    found: list[Any] = []
    waiting: list[Any] = [value]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, list):
            waiting[:0] = one
        elif one != "":
            found.append(one)
    return tuple(_checked(place, name, one, str) for one in found)


def case_id(place: str, record: Record) -> str:
    """The record's case_id as text; in the file it may be a whole number too.

    Raises:
        RecordError: it is missing, or something else.
    """
    kind = int if isinstance(record.get("case_id"), int) else str
    return str(field(place, record, "case_id", kind))


def id_of(place: str, record: Record) -> str:
    """The record's case_id, or else its id if that is a text or a number, or else its place in the
    file ("line 3").

    Raises:
        RecordError: a case_id that is no text and no whole number.
    """
    if record.get("case_id") is not None:
        return case_id(place, record)
    own = record.get("id")
    if isinstance(own, int) and not isinstance(own, bool):
        return str(own)
    if isinstance(own, str) and own.strip() and not HALF_PAIR.search(own):
        return own.strip()
    return place.rpartition(", ")[2]


def placed(place: str, error: RecordError) -> RecordError:
    """`error` with its place in front, if it does not name it already."""
    return error if str(error).startswith(place) else type(error)(f"{place}: {error}")


def skipped(place: str, error: RecordError, id: str = "") -> Skipped:
    """What is kept of a record that gave `error`."""
    return Skipped(place, str(error).removeprefix(f"{place}: "), id)


def _checked(place: str, name: str, value: Any, kind: type) -> Any:
    # to Python, True is an int
    usable = isinstance(value, kind) and not isinstance(value, bool)
    if isinstance(value, str):
        usable = usable and bool(value.strip()) and not HALF_PAIR.search(value)
    if not usable:
        raise RecordError(
            f"{place}: field {name!r}: a {kind.__name__} is wanted, got {value!r:.60}"
        )
    return value
