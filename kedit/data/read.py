"""Records of JSON, JSON Lines and tables, plain or compressed, with errors that name the location.

What a file is, its content tells, not its suffix.
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
# what else a file may open with, and what to do about it
UNREAD = {
    b"PK\x03\x04": "is a zip archive (as .xlsx is): unpack it, or save the sheet as CSV",
    b"PAR1": "is a Parquet file: save it as JSON Lines, in pandas by "
    "to_json(FILE, orient='records', lines=True)",
    b"BZh": "is compressed by bzip2: unpack it (.xz and .gz are read as they are)",
    b"\x28\xb5\x2f\xfd": "is compressed by Zstandard: unpack it (.xz and .gz are read as they are)",
}
UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[^\x00]\x00[^\x00]\x00|\x00[^\x00]\x00[^\x00]")
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError)
CHUNK = 1 << 20  # characters of an array that are read at a time
BLANKS = re.compile(r"[ \t\n\r]*")
DELIMITER = re.compile(r"[ \t\n\r]*[,\]]")
DECODER = json.JSONDecoder()


def records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Each record of a file, with its location ("facts.jsonl, line 3") for messages.

    A file holds an array of objects, an object a line, a single object, an object of objects by
    their ids, or a table (CSV or TSV) whose first line names its columns.

    Raises:
        RecordError: no such file, a truncated archive, broken JSON, or a record that is no object.
    """
    for location, record in records_and_errors(path):
        if isinstance(record, RecordError):
            raise record
        yield location, record


def records_and_errors(path: str | Path) -> Iterator[tuple[str, Record | RecordError]]:
    """As `records`, but a broken one gives its error, and what comes behind it is still read.

    Raises:
        RecordError: where nothing behind can be found: a truncated archive, a broken array.
    """
    path = Path(path)
    for location, value in _values(path):
        if isinstance(value, dict | RecordError):
            yield location, value
        else:
            wrong = f"{location}: an object is wanted, got {type(value).__name__}"
            yield location, RecordError(wrong)


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    opening = _opening(path)
    # a line that is an array, with another one behind it, is a record that is none
    is_array = bool(opening) and opening[0].startswith("[")
    if is_array and (len(opening) == 1 or not _is_json(opening[0])):
        yield from _elements(path)
    elif is_array or any(line.startswith("{") for line in opening):
        yield from _objects(path)
    elif opening and is_table(opening[0]):
        yield from _rows(path)
    elif opening and ".jsonl" in path.suffixes:
        yield from _objects(path)  # its first records are none
    elif opening:
        raise RecordError(
            f"{path.name}: broken JSON, and no table either, whose first line would name its "
            f"columns: it opens with {opening[0]!r:.60}"
        )


def _is_json(text: str) -> bool:
    return not isinstance(_value_or_error("", text), RecordError)


def _opening(path: Path) -> list[str]:
    """The first two lines that are not blank, without the blanks before them, or their starts."""
    found: list[str] = []
    try:
        with open_text(path) as text:
            # an array may be one line, which is not to be held whole
            while len(found) < 2 and (line := text.readline(CHUNK)):
                if line.strip():
                    found.append(line.strip())
    except UNREADABLE as error:
        if not found:
            raise _refusal(path, "the start", error) from None
    return found


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Objects, one a line; or the only one that the file holds, over one line or several."""
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
    """The objects in an object that holds nothing else, under their ids; none if it does.

    Raises:
        RecordError: they are columns.
    """
    # CounterFact's records may have this one field alone, which holds an object
    nested = all(isinstance(value, dict) for value in whole.values())
    if not nested or "requested_rewrite" in whole:
        return []
    if "subject" in whole:
        raise RecordError(
            f"{path.name}: its records lie in columns, as pandas writes them by default: write "
            "them by to_json(FILE, orient='records')"
        )
    return [(f"{path.name}, record {id!r:.60}", value) for id, value in whole.items()]


def _whole(path: Path) -> Any:
    """The file as one JSON value; None if it is none."""
    try:
        with open_text(path) as text:
            return json.loads(text.read())
    except (*UNREADABLE, ValueError, RecursionError):
        return None


def _rows(path: Path) -> Iterator[tuple[str, Record | RecordError]]:
    """The rows of a table."""
    try:
        with open_text(path, newline="") as text:
            yield from rows(path.name, text)
    except UNREADABLE as error:
        raise _refusal(path, "the start", error) from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The value of each line that is not blank, or the error that it gave."""
    number = 0
    try:
        with open_text(path) as text:
            for number, line in enumerate(text, 1):
                location = f"{path.name}, line {number}"
                if line.strip():
                    yield location, _value_or_error(location, line)
    except UNREADABLE as error:
        raise _refusal(path, f"line {number}", error) from None


def _elements(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of an array; of its text no more is held than a chunk and the longest need."""
    reached = "the start"
    try:
        with open_text(path) as file:
            text = _Window(file)
            text.next()
            text.at += 1
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
                raise RecordError(f"{path.name}: broken JSON: there is text behind the array")
    except UNREADABLE as error:
        raise _refusal(path, reached, error) from None


class _Window:
    """The text of a file from `at` on: read when it is wanted, forgotten when it is passed."""

    def __init__(self, file: TextIOWrapper) -> None:
        self.file, self.held, self.at = file, "", 0

    def next(self) -> str:
        """The next character that is no blank, not passed yet; "" at the end."""
        while True:
            self.at = BLANKS.match(self.held, self.at).end()  # pyright: ignore
            if self.at < len(self.held) or not self._more():
                return self.held[self.at : self.at + 1]

    def value(self, location: str) -> Any:
        """The JSON value that comes next and has a comma or the array's end behind it, passed.

        Raises:
            RecordError: there is none.
        """
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.held, self.at)
                if DELIMITER.match(self.held, end):  # else the rest of a number may be unread
                    self.at = end
                    return value
                broken = "',' or ']' is wanted behind it"
            except RecursionError as error:
                raise RecordError(f"{location}: broken JSON: {error}") from None
            except ValueError as error:
                broken = getattr(error, "msg", error)  # its position is one in the window
            if not self._more():
                raise RecordError(f"{location}: broken JSON: {broken}")

    def _more(self) -> bool:
        # doubling: a record longer than the window is tried a few times, not once a chunk
        read = self.file.read(max(CHUNK, len(self.held) - self.at))
        self.held, self.at = self.held[self.at :] + read, 0
        return bool(read)


def open_text(path: Path, newline: str | None = None) -> TextIOWrapper:
    """The text of a file, plain or compressed.

    Args:
        newline: as `open` takes it.

    Raises:
        OSError: it cannot be opened.
        RecordError: it is an archive of another kind, or in UTF-16.
    """
    with open_bytes(path) as raw:
        start = raw.read(8)
    for magic, refusal in UNREAD.items():
        if start.startswith(magic):
            raise RecordError(f"{path.name} {refusal}")
    if UTF_16.match(start):
        raise RecordError(f"{path.name} is in UTF-16: save it as UTF-8")
    opener = next((own for magic, own in OPENERS.items() if start.startswith(magic)), open)
    # some editors put a byte order mark first
    return TextIOWrapper(open_bytes(path, opener), encoding="utf-8-sig", newline=newline)


def open_bytes(path: Path, opener: Callable[..., Any] = open) -> Any:
    """A file's bytes.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return opener(path, "rb")
    except ValueError as error:  # a NUL in the path, which no file's name has
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def _value_or_error(location: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: 5,000 digits
        # of a line's own text: its number is in the location
        wrong = getattr(error, "msg", error)
        at = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        return RecordError(f"{location}: broken JSON: {wrong}{at}")


def _refusal(path: Path, reached: str, error: Exception) -> RecordError:
    """What is wrong with a file as a whole, and how far it could be read."""
    if isinstance(error, UnicodeDecodeError):
        return RecordError(f"{path.name}: not UTF-8 after {reached}: {error}")
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return RecordError(f"{path}: cannot be read: {error.strerror or error}")
    return RecordError(f"{path.name}: broken off after {reached}: {error}")
