"""Tables of results: for a terminal, a notebook, Markdown and CSV; numbers with their intervals."""

import csv
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from kedit.records import to_record
from kedit.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table as RichTable

Row = tuple[str, ...]
# by metric, as kedit.forward.metrics.METRICS has them: what its differences are in
EFFECT_UNITS = {"prob": "probability", "logprob": "nats", "logit_diff": "logits"}
WIDTH = 100  # of a table at least, where the screen has it: title and note break at its edge
# what begins a cell, a tag, emphasis, code, a link, a formula
_MARKUP = re.compile(r"[\\|<*`\[$]")


@dataclass(frozen=True)
class Table:
    """Rows of cells that are ready to be read, under a title and over a note.

    Args:
        rows: as many cells in each as there are columns.
        note: what a reader needs to know of the numbers: n, intervals, seed.
        parts: the part that each row belongs to; rows of one part stand together. () for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()  # plain: no colours, and no HTML in a notebook
        width = max(WIDTH, *map(len, self._lines()))
        Console(
            file=text, width=width, color_system=None, force_jupyter=False, force_terminal=False
        ).print(self.to_rich())
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        return str(self)

    def to_rich(self, width: int = WIDTH) -> "RichTable":
        """For a terminal of `width` characters."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(self.title), caption=Text(self.note), box=box.SIMPLE_HEAD,
            title_justify="left", caption_justify="left", padding=(0, 1, 0, 0),
            min_width=min(WIDTH, width),
        )  # fmt: skip
        for column in self.columns:
            table.add_column(Text(column))
        for part, rows in self._by_part():
            if part:
                table.add_row(Text(part, style="italic"))
            for first, *rest in rows:
                table.add_row(Text(f" {first}" if part else first), *map(Text, rest))
            if self.parts:
                table.add_section()
        return table

    def to_markdown(self) -> str:
        """Title, table and note; texts of users are shown as they are."""
        columns, rows = self._with_parts()
        lines = (columns, ["---"] * len(columns), *rows)
        body = "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)
        return "\n\n".join(
            filter(None, (self.title and f"### {escaped(self.title)}", body, self.note))
        )

    def to_csv(self) -> str:
        """The cells as CSV, without title and note."""
        columns, rows = self._with_parts()
        return csv_text([dict(zip(columns, row, strict=True)) for row in rows])

    def to_pandas(self) -> "DataFrame":
        """The cells as a data frame; the numbers themselves are in the result's own `to_pandas`."""
        columns, rows = self._with_parts()
        return frame([dict(zip(columns, row, strict=True)) for row in rows])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        columns, rows = self._with_parts()
        head = "".join(f"<th>{html.escape(one)}</th>" for one in columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows
        )
        return (
            f"<table><caption>{html.escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table><p><small>{html.escape(self.note)}</small></p>"
        )

    def _by_part(self) -> Iterable[tuple[str, list[Row]]]:
        parts = self.parts or ("",) * len(self.rows)
        for part, pairs in groupby(zip(parts, self.rows, strict=True), key=lambda pair: pair[0]):
            yield part, [row for _, row in pairs]

    def _with_parts(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows, with the parts as a first column where there are any."""
        if not self.parts:
            return [*self.columns], [[*row] for row in self.rows]
        pairs = zip(self.parts, self.rows, strict=True)
        return ["", *self.columns], [[part, *row] for part, row in pairs]

    def _lines(self) -> list[str]:
        return ["   ".join(row) for row in (self.columns, *self.rows)]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, a line each; a field that a row lacks is empty, as is one that is NaN."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(to_record(row) for row in rows)
    return text.getvalue()


def frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Rows as a data frame of pandas, which TransformerLens brings."""
    import pandas

    return pandas.DataFrame([dict(row) for row in rows])


def escaped(text: str) -> str:
    """`text` on one line, so that Markdown shows it as it is: subjects may hold "<b>" or "|"."""
    return _MARKUP.sub(r"\\\g<0>", text.replace("\n", "↵"))


def percent(interval: Interval | None) -> str:
    """A share in percent, as in "81 [75, 86]"; tenths where it has one digit before the point."""
    return _bracketed(interval, lambda value: _short(100 * value))


def two_digits(interval: Interval | None) -> str:
    """A number that is no share, with its interval, to two significant digits."""
    return "" if interval is None else estimate(*interval.floats())


def number(value: float) -> str:
    """Two significant digits; all of them in front of the point, for 1.2e+02 is hard to read."""
    text = f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"
    return text.replace("e-0", "e-").replace("-", "−")


def estimate(mean: float, low: float, high: float) -> str:
    """A number and its interval, all to the second significant digit of the largest.

    The number alone where there is no interval; "-" where there is no number.
    """
    if not np.isfinite(mean):
        return "-"
    there = (mean, low, high) if np.isfinite(low + high) else (mean,)
    largest = max(map(abs, there))
    decimals = min(6, max(0, 1 - int(np.floor(np.log10(largest))))) if largest > 0 else 0
    texts = [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in there]  # no -0.0
    text = texts[0] + (f" [{', '.join(texts[1:])}]" if texts[1:] else "")
    return text.replace("-", "−")


def plural(n: int | str, noun: str) -> str:
    """A count, or several in words: "1 fact", "3 facts", "1 or 2 facts"."""
    return f"{n} {noun}" if str(n) == "1" else f"{n} {noun}s"


def _bracketed(interval: Interval | None, spelt: Callable[[float], str]) -> str:
    """A mean with its interval, if it has one; "-" if it is NaN, "" if there is no such thing."""
    if interval is None:
        return ""
    mean, low, high = interval.floats()
    if not math.isfinite(mean):
        return "-"
    return f"{spelt(mean)} [{spelt(low)}, {spelt(high)}]" if low <= high else spelt(mean)


def _short(value: float) -> str:
    """Tenths where there is only one digit before the point."""
    text = f"{value:.0f}" if abs(value) >= 9.95 or value == 0 else f"{value:.1f}"
    return text.replace("-0.0", "0.0")
