"""Records of JSON and JSON Lines files, plain or compressed, with errors that name the place."""

import errno
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from kedit.data.fields import Record
from kedit.errors import RecordError

OPENERS = {".xz": lzma.open, ".gz": gzip.open}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError)
CHUNK = 1 << 20  # characters of an array that are read at a time
BLANKS = re.compile(r"[ \t\n\r]*")
DELIMITER = re.compile(r"[ \t\n\r]*[,\]]")
DECODER = json.JSONDecoder()


def records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Each record of a file, with its place ("facts.jsonl, line 3") for messages.

    A `.jsonl` file (or `.jsonl.xz`, `.jsonl.gz`) holds an object a line, any other an array.

    Raises:
        RecordError: no such file, a truncated archive, broken JSON, or a record that is no object.
    """
    for place, record in records_and_errors(path):
        if isinstance(record, RecordError):
            raise record
        yield place, record


def records_and_errors(path: str | Path) -> Iterator[tuple[str, Record | RecordError]]:
    """As `records`, but a broken one gives its error, and what comes behind it is still read.

    Raises:
        RecordError: where nothing behind can be found: a truncated archive, a broken array.
    """
    path = Path(path)
    for place, value in _lines(path) if ".jsonl" in path.suffixes else _elements(path):
        if isinstance(value, dict | RecordError):
            yield place, value
        else:
            wrong = f"{place}: an object is wanted, got {type(value).__name__}"
            yield place, RecordError(wrong)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The value of each line that is not blank, or the error that it gave."""
    number = 0
    try:
        with open_text(path) as text:
            for number, line in enumerate(text, 1):
                place = f"{path.name}, line {number}"
                if line.strip():
                    yield place, _value_or_error(place, line)
    except UNREADABLE as error:
        raise _refusal(path, f"line {number}", error) from None


def _elements(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of an array; of its text no more is held than a chunk and the longest need."""
    reached = "the start"
    try:
        with open_text(path) as file:
            text = _Window(file)
            if text.next() != "[":
                raise _no_array(path.name, text.rest())
            text.at += 1
            number, mark = 0, text.next()
            while mark != "]":
                reached = f"record {number}"
                place = f"{path.name}, {reached}"
                yield place, text.value(place)
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

    def value(self, place: str) -> Any:
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
                raise RecordError(f"{place}: broken JSON: {error}") from None
            except ValueError as error:
                broken = getattr(error, "msg", error)  # its position is one in the window
            if not self._more():
                raise RecordError(f"{place}: broken JSON: {broken}")

    def rest(self) -> str:
        while self._more():
            pass
        return self.held[self.at :]

    def _more(self) -> bool:
        # doubling: a record longer than the window is tried a few times, not once a chunk
        read = self.file.read(max(CHUNK, len(self.held) - self.at))
        self.held, self.at = self.held[self.at :] + read, 0
        return bool(read)


def open_text(path: Path) -> TextIOWrapper:
    """The text of a file, plain or compressed.

    Raises:
        OSError: it cannot be opened.
    """
    raw: Any = open_bytes(path, OPENERS.get(path.suffix, open))
    return TextIOWrapper(raw, encoding="utf-8-sig")  # some editors put a byte order mark first


def open_bytes(path: Path, opener: Callable[..., Any] = open) -> Any:
    """A file's bytes.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return opener(path, "rb")
    except ValueError as error:  # a NUL in the path, which no file's name has
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def _value_or_error(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: 5,000 digits
        return RecordError(f"{place}: broken JSON: {error}")


def _no_array(name: str, text: str) -> RecordError:
    whole = _value_or_error(name, text)
    if isinstance(whole, RecordError):
        return whole
    kind = type(whole).__name__
    return RecordError(f"{name}: an array of records is wanted, got {kind}")


def _refusal(path: Path, reached: str, error: Exception) -> RecordError:
    """What is wrong with a file as a whole, and how far it could be read."""
    if isinstance(error, UnicodeDecodeError):
        return RecordError(f"{path.name}: not UTF-8 after {reached}: {error}")
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return RecordError(f"{path}: cannot be read: {error.strerror or error}")
    return RecordError(f"{path.name}: broken off after {reached}: {error}")
