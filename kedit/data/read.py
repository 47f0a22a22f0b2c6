"""Reads records from JSON, JSON Lines and tables, plain or compressed; errors name the location.

The content of a file decides how it is read, not its suffix.
"""

import errno
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kedit.data.fields import Record
from kedit.data.table import is_table, rows
from kedit.errors import RecordError

OPENERS: dict[bytes, Callable[..., Any]] = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open}
# how files begin that kedit does not read, and what to do with them
UNREAD = {
    b"PK\x03\x04": "is a zip archive (as .xlsx is): unpack it, or save the sheet as CSV",
    b"PAR1": "is a Parquet file: save it as JSON Lines, in pandas by "
    "to_json(FILE, orient='records', lines=True)",
    b"BZh": "is compressed by bzip2: unpack it (.xz and .gz are read as they are)",
    b"\x28\xb5\x2f\xfd": "is compressed by Zstandard: unpack it (.xz and .gz are read as they are)",
}
# a byte order mark, or every second byte zero
UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[^\x00]\x00[^\x00]\x00|\x00[^\x00]\x00[^\x00]")
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError)
CHUNK = 1 << 20  # characters of an array that are read at once
BLANKS = re.compile(r"[ \t\n\r]*")
DELIMITER = re.compile(r"[ \t\n\r]*[,\]]")
DECODER = json.JSONDecoder()


def records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Yields each record of a file with its location ("facts.jsonl, line 3").

    A file holds an array of objects, one object per line, a single object, an object of objects by
    their ids, or a table (CSV or TSV) whose first line names its columns.

    Raises:
        RecordError: the file does not exist, is a truncated archive or broken JSON, or a record is
            not an object.
    """
    for location, record in records_and_errors(path):
        if isinstance(record, RecordError):
            raise record
        yield location, record


def records_and_errors(path: str | Path) -> Iterator[tuple[str, Record | RecordError]]:
    """As `records`, but yields the error of a broken record and continues with the next record.

    Raises:
        RecordError: the next record cannot be found, in a truncated archive or a broken array.
    """
    path = Path(path)
    for location, value in _values(path):
        if isinstance(value, dict | RecordError):
            yield location, value
        else:
            message = f"{location}: expected an object, got {type(value).__name__}"
            yield location, RecordError(message)


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields location and JSON value of each record, after a look at how the file begins."""
    opening = _opening(path)
    # If the first of several lines is a complete array, this is not an array over several lines but
    # JSON Lines, whose first record is not an object.
    is_array = bool(opening) and opening[0].startswith("[")
    if is_array and (len(opening) == 1 or not _is_json(opening[0])):
        yield from _elements(path)
    elif is_array or any(line.startswith("{") for line in opening):
        yield from _objects(path)
    elif opening and is_table(opening[0]):
        yield from _rows(path)
    elif opening and ".jsonl" in path.suffixes:
        yield from _objects(path)  # its first lines are broken; later ones may be records
    elif opening:
        raise RecordError(
            f"{path.name}: neither JSON nor a table whose first line names its columns: it "
            f"begins with {opening[0]!r:.60}"
        )


def _is_json(text: str) -> bool:
    return not isinstance(_value_or_error("", text), RecordError)


def _opening(path: Path) -> list[str]:
    """Returns the first two lines that are not blank, each cut after CHUNK characters."""
    found: list[str] = []
    try:
        with open_text(path) as text:
            # an array may be a single line of any length, so no line is read whole
            while len(found) < 2 and (line := text.readline(CHUNK)):
                if line.strip():
                    found.append(line.strip())
    except UNREADABLE as error:
        if not found:
            raise _unreadable(path, "the start", error) from None
    return found


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields one object per line, or the file's single object, or the objects inside it."""
    lines = _lines(path)
    first = list(islice(lines, 2))
    whole = first[0][1]
    if len(first) > 1 and isinstance(whole, RecordError):
        whole = _whole(path)
    elif len(first) > 1:
        whole = None
    if not isinstance(whole, dict):
        yield from chain(first, lines)
    elif by_id := _by_id(path, whole):
        yield from by_id
    else:
        location = first[0][0] if whole is first[0][1] else f"{path.name}, record 0"
        yield location, whole


def _by_id(path: Path, whole: Record) -> list[tuple[str, Any]]:
    """Returns the objects in an object of objects, located by their ids; empty for other objects.

    Raises:
        RecordError: the objects in it are the columns of a pandas table.
    """
    # a record of CounterFact may have requested_rewrite as its only field, which holds an object
    nested = all(isinstance(value, dict) for value in whole.values())
    if not nested or "requested_rewrite" in whole:
        return []
    if "subject" in whole:
        raise RecordError(
            f"{path.name}: the records are in columns, as pandas writes them by default: write "
            "them with to_json(FILE, orient='records')"
        )
    return [(f"{path.name}, record {id!r:.60}", value) for id, value in whole.items()]


def _whole(path: Path) -> Any:
    """Parses the whole file as one JSON value; returns None if it is not valid JSON."""
    try:
        with open_text(path) as text:
            return json.loads(text.read())
    except (*UNREADABLE, ValueError, RecursionError):
        return None


def _rows(path: Path) -> Iterator[tuple[str, Record | RecordError]]:
    """Yields the rows of a table."""
    try:
        with open_text(path, newline="") as text:
            yield from rows(path.name, text)
    except UNREADABLE as error:
        raise _unreadable(path, "the start", error) from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the JSON value, or the error, of each line that is not blank."""
    number = 0
    try:
        with open_text(path) as text:
            for number, line in enumerate(text, 1):
                location = f"{path.name}, line {number}"
                if line.strip():
                    yield location, _value_or_error(location, line)
    except UNREADABLE as error:
        raise _unreadable(path, f"line {number}", error) from None


def _elements(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the elements of an array, without its whole text in memory."""
    reached = "the start"
    try:
        with open_text(path) as file:
            text = _Window(file)
            text.next()
            text.at += 1  # passes the "["
            number, mark = 0, text.next()
            while mark != "]":
                reached = f"record {number}"
                location = f"{path.name}, {reached}"
                yield location, text.value(location)
                number, mark = number + 1, text.next()
                if mark == ",":
                    text.at += 1
            text.at += 1
            if text.next():
                raise RecordError(f"{path.name}: broken JSON: there is text after the array")
    except UNREADABLE as error:
        raise _unreadable(path, reached, error) from None


class _Window:
    """A window on the text of a file: it reads on when needed and forgets the text before `at`.

    Args:
        file: the file, opened as text.
    """

    def __init__(self, file: TextIOWrapper) -> None:
        self.file, self.held, self.at = file, "", 0

    def next(self) -> str:
        """Moves `at` to the next character that is not blank, and returns it; "" at the end."""
        while True:
            self.at = BLANKS.match(self.held, self.at).end()  # pyright: ignore
            if self.at < len(self.held) or not self._more():
                return self.held[self.at : self.at + 1]

    def value(self, location: str) -> Any:
        """Returns the next JSON value and moves `at` past it; "," or "]" must follow.

        Raises:
            RecordError: there is no such value.
        """
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.held, self.at)
                # without a delimiter, the window may end within a number
                if DELIMITER.match(self.held, end):
                    self.at = end
                    return value
                broken = "expected ',' or ']' after the value"
            except RecursionError as error:
                raise RecordError(f"{location}: broken JSON: {error}") from None
            except ValueError as error:
                broken = getattr(
                    error, "msg", error
                )  # without its position, which counts from the start of the window
            if not self._more():
                raise RecordError(f"{location}: broken JSON: {broken}")

    def _more(self) -> bool:
        # reads at least as much as is held, so that a record longer than the window is parsed a few
        # times only, not once per chunk
        read = self.file.read(max(CHUNK, len(self.held) - self.at))
        self.held, self.at = self.held[self.at :] + read, 0
        return bool(read)


def open_text(path: Path, newline: str | None = None) -> TextIOWrapper:
    """Opens a file, plain or compressed, as UTF-8 text.

    Args:
        newline: the same as for `open`.

    Raises:
        OSError: the file cannot be opened.
        RecordError: the file is in an unsupported format, or in UTF-16.
    """
    with open_bytes(path) as raw:
        start = raw.read(8)
    for magic, remedy in UNREAD.items():
        if start.startswith(magic):
            raise RecordError(f"{path.name} {remedy}")
    if UTF_16.match(start):
        raise RecordError(f"{path.name} is in UTF-16: save it as UTF-8")
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
    # utf-8-sig: some editors begin a file with a byte order mark
    return TextIOWrapper(open_bytes(path, opener), encoding="utf-8-sig", newline=newline)


def open_bytes(path: Path, opener: Callable[..., Any] = open) -> Any:
    """Opens a file as bytes.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        return opener(path, "rb")
    except ValueError as error:  # a NUL in the path, which open reports differently
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def _value_or_error(location: str, text: str) -> Any:
    try:
        return json.loads(text)
    # ValueError, not only JSONDecodeError: int() refuses numbers of 5,000 digits
    except (ValueError, RecursionError) as error:
        # msg without "line 1 column 5", since the location names the line of the file
        reason = getattr(error, "msg", error)
        at = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        return RecordError(f"{location}: broken JSON: {reason}{at}")


def _unreadable(path: Path, reached: str, error: Exception) -> RecordError:
    """Makes the error of an unreadable file; it says how far the file could be read."""
    if isinstance(error, UnicodeDecodeError):
        return RecordError(f"{path.name}: not UTF-8 after {reached}: {error}")
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return RecordError(f"{path}: cannot be read: {error.strerror or error}")
    return RecordError(f"{path.name}: truncated or damaged after {reached}: {error}")
