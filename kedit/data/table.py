"""Reads records from tables: CSV or TSV files whose first line names the columns."""

import csv
from collections.abc import Iterable, Iterator

from kedit.data.fields import Record
from kedit.errors import RecordError

DELIMITERS = "\t,;"
NEEDED = "subject"  # a column that every format of records has


def is_table(line: str) -> bool:
    """Whether the first line of a file names the columns of a table of records."""
    return NEEDED in _named(line)


def rows(name: str, lines: Iterable[str]) -> Iterator[tuple[str, Record | RecordError]]:
    """Yields location and record of each row, without its empty cells; all values are texts.

    Args:
        name: name of the file.
        lines: lines with their line ends, since a quoted cell may contain line ends.
    """
    numbered = enumerate(lines, 1)
    first, header = next((number, line) for number, line in numbered if line.strip())
    columns = _named(header)
    rest = (line for _, line in numbered)
    reader = csv.reader(rest, delimiter=_delimiter(header), skipinitialspace=True)
    start = first + 1
    while True:
        location = f"{name}, line {start}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield location, RecordError(f"{location}: broken table: {error}")
            cells = []
        start = first + reader.line_num + 1
        if len(cells) > len(columns):
            yield (
                location,
                RecordError(
                    f"{location}: {len(cells)} cells, but the first line names {len(columns)} "
                    "columns: put quotation marks around a text that contains the separator"
                ),
            )
        elif any(cell.strip() for cell in cells):
            named = zip(columns, cells, strict=False)
            yield location, {column: cell for column, cell in named if column and cell.strip()}


def _named(header: str) -> list[str]:
    """Returns the names of the columns, in lower case with underscores, as fields are named."""
    try:
        cells = next(csv.reader([header], delimiter=_delimiter(header), skipinitialspace=True), [])
    except csv.Error:  # a NUL, or a cell longer than the csv module allows
        return []
    return [cell.strip().lower().replace(" ", "_") for cell in cells]


def _delimiter(header: str) -> str:
    """Returns the separator of cells: the most frequent of DELIMITERS in the first line."""
    return max(DELIMITERS, key=header.count)
