"""Tables of records: CSV or TSV, the first line naming the columns."""

import csv
from collections.abc import Iterable, Iterator

from kedit.data.fields import Record
from kedit.errors import RecordError

DELIMITERS = "\t,;"
NEEDED = "subject"  # a column that every form of records has


def is_table(line: str) -> bool:
    """Whether `line`, a file's first, names the columns of a table of records."""
    return NEEDED in _named(line)


def rows(name: str, lines: Iterable[str]) -> Iterator[tuple[str, Record | RecordError]]:
    """Each row as a record of texts, with its location; cells that are empty are left out.

    Args:
        name: of the file.
        lines: with their ends, so that quoted cells may hold new lines.
    """
    numbered = enumerate(lines, 1)
    first, header = next(one for one in numbered if one[1].strip())
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
                    f"{location}: {len(cells)} cells, but the first line names {len(columns)} columns"
                    ": a text that holds what parts the cells belongs in quotation marks"
                ),
            )
        elif any(cell.strip() for cell in cells):
            named = zip(columns, cells, strict=False)
            yield location, {column: cell for column, cell in named if column and cell.strip()}


def _named(header: str) -> list[str]:
    """The columns, as records name their fields."""
    try:
        cells = next(csv.reader([header], delimiter=_delimiter(header), skipinitialspace=True), [])
    except csv.Error:  # a NUL, or more in one cell than the module takes
        return []
    return [cell.strip().lower().replace(" ", "_") for cell in cells]


def _delimiter(header: str) -> str:
    """What parts the cells: what there is most of in the first line."""
    return max(DELIMITERS, key=header.count)
