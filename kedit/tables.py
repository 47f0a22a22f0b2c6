"""Formats results as tables for terminals, notebooks, Markdown and CSV.

The functions at the end format single numbers, with their intervals if they have them.
"""

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
# the unit of a metric's differences, by the metric's name in kedit.forward.metrics.METRICS
EFFECT_UNITS = {"prob": "probability", "logprob": "nats", "logit_diff": "logits"}
# Least width of a table, in characters, on screens that have it: title and note wrap there
WIDTH = 100
# characters that begin a cell, a tag, emphasis, code, a link or a formula in Markdown
_MARKUP = re.compile(r"[\\|<*`\[$]")


@dataclass(frozen=True)
class Table:
    """A table of formatted cells, with a title above and a note below.

    Args:
        columns: the heads of the columns.
        rows: the cells of each row, one per column.
        note: what a reader needs to know about the numbers: n, intervals, seed.
        parts: the heading under which each row belongs; rows of one part are adjacent. () for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()  # plain text: no colours, and no HTML in a notebook
        width = max(WIDTH, *map(len, self._lines()))
        Console(
            file=text, width=width, color_system=None, force_jupyter=False, force_terminal=False
        ).print(self.to_rich())
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        return str(self)

    def to_rich(self, width: int = WIDTH) -> "RichTable":
        """Converts to a table of rich, for a terminal of `width` characters."""
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
        """Converts to Markdown, with title and note; markup in users' texts is escaped."""
        columns, rows = self._with_parts()
        lines = (columns, ["---"] * len(columns), *rows)
        body = "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)
        return "\n\n".join(
            filter(None, (self.title and f"### {escaped(self.title)}", body, self.note))
        )

    def to_csv(self) -> str:
        """Converts the cells to CSV, without title and note."""
        columns, rows = self._with_parts()
        return csv_text([dict(zip(columns, row, strict=True)) for row in rows])

    def to_pandas(self) -> "DataFrame":
        """Converts the formatted cells to a data frame; a result's `to_pandas` has the numbers."""
        columns, rows = self._with_parts()
        return frame([dict(zip(columns, row, strict=True)) for row in rows])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        columns, rows = self._with_parts()
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
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
        """Columns and rows, with the parts, if there are any, as the first column."""
        if not self.parts:
            return [*self.columns], [[*row] for row in self.rows]
        pairs = zip(self.parts, self.rows, strict=True)
        return ["", *self.columns], [[part, *row] for part, row in pairs]

    def _lines(self) -> list[str]:
        return ["   ".join(row) for row in (self.columns, *self.rows)]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Converts rows to CSV, one line per row; missing fields and NaN become empty."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(to_record(row) for row in rows)
    return text.getvalue()


def frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Converts rows to a data frame of pandas."""
    import pandas  # no dependency of kedit's own: TransformerLens requires it

    return pandas.DataFrame([dict(row) for row in rows])


def escaped(text: str) -> str:
    """Escapes `text` for Markdown and puts it on one line: subjects may contain "<b>" or "|"."""
    return _MARKUP.sub(r"\\\g<0>", text.replace("\n", "↵"))


def percent(interval: Interval | None) -> str:
    """Formats a share in percent, such as "81 [75, 86]"; below 10 with one decimal."""
    return _bracketed(interval, lambda value: _short(100 * value))


def two_digits(interval: Interval | None) -> str:
    """Formats a number that is not a share, with its interval, to two significant digits."""
    return "" if interval is None else estimate(*interval.floats())


def number(value: float) -> str:
    """Formats a number to two significant digits, or to all digits before the point.

    That is "120", not "1.2e+02", which is hard to read.
    """
    text = f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"
    return text.replace("e-0", "e-").replace("-", "−")


def estimate(mean: float, low: float, high: float) -> str:
    """Formats a number and its interval, all to the second significant digit of the largest.

    Without an interval it is the number alone; without a number it is "-".
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
    """Formats a count with its noun, such as "1 fact", "3 facts" or "1 or 2 facts"."""
    return f"{n} {noun}" if str(n) == "1" else f"{n} {noun}s"


def _bracketed(interval: Interval | None, formatted: Callable[[float], str]) -> str:
    """Formats a mean with its interval, if it has one; "-" for NaN, "" for None."""
    if interval is None:
        return ""
    mean, low, high = interval.floats()
    if not math.isfinite(mean):
        return "-"
    if not low <= high:  # a bound is NaN: there is no interval
        return formatted(mean)
    return f"{formatted(mean)} [{formatted(low)}, {formatted(high)}]"


def _short(value: float) -> str:
    """Formats a number without decimals, or with one decimal if it is below 10."""
    text = f"{value:.0f}" if abs(value) >= 9.95 or value == 0 else f"{value:.1f}"
    return text.replace("-0.0", "0.0")
