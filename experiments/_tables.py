"""Measures as tables: for the screen, and as CSV."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._run import console, write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from figures.frontier import Place
    from kedit.scoring.summary import Measure, Shares
    from kedit.stats import Interval

SHOWN = {  # statistic: its column's heading
    "success": "success",
    "magnitude": "magnitude",
    "exact match": "exact",
    "says it": "says it",
    "reciprocal rank": "1/rank",
}
FIELDS = [
    "cases of", "perspective", "group", "statistic",
    *(f"{name}{bound}" for name in ("before", "after", "lift") for bound in ("", " low", " high")),
    "n_cases", "n_prompts",
]  # fmt: skip


# of measures: what their intervals are
INTERVALS = "95 % intervals over cases (Wilson's of rates, else by the bootstrap)"


def place_of(found: "Shares") -> "Place":
    """What an editor keeps and what it gains, for the frontier."""
    from figures.frontier import Place
    from kedit.stats import row_interval

    return Place(row_interval(found.locality), row_interval(found.generalisation))


def measures_table(found: "Sequence[Measure]", title: str) -> "Table":
    """One row a group of probes, one column a statistic, of an unedited model."""
    table = plain_table(
        title,
        f"Means in percent with {INTERVALS}. success: answer likelier than its rival; magnitude: "
        "difference of their probabilities; exact: all tokens likeliest, teacher-forced; says it: "
        "greedy text opens with it; 1/rank: of the relation's name among all relations' names. n: "
        "prompts.",
        ("side", "prompts", *SHOWN.values(), "cases", "n"),
    )
    rows: dict[tuple[str, str], dict[str, Measure]] = {}
    for one in found:
        rows.setdefault(one.key[:2], {})[one.key.statistic] = one
    for (side, group), by_statistic in rows.items():
        shown = [name for name in SHOWN if name in by_statistic]
        if shown:
            cells = [percent(by_statistic[name].before) if name in shown else "" for name in SHOWN]
            counts = by_statistic[shown[0]]
            table.add_row(side, group, *cells, str(counts.n_cases), str(counts.n_prompts))
    return table


def scores_table(found: "Sequence[Measure]") -> "Table":
    """What is not of single probes: Scores (percent) and the entropy of generated text (bits)."""
    from kedit.scoring.summary import STATISTICS

    table = plain_table("", "", ("side", "measure", "before any edit", "cases"))
    for one in found:
        if one.key.statistic not in STATISTICS:
            value = (
                two_digits(one.before) if "entropy" in one.key.statistic else percent(one.before)
            )
            name = f"{one.key.group}, {one.key.statistic}"
            table.add_row(one.key.perspective, name, value, str(one.n_cases))
    return table


WIDTH = 100  # of a table at least, where the screen has it: title and caption break at its edge


def plain_table(title: str, caption: str, columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        min_width=min(WIDTH, console().width),
    )
    for column in columns:
        table.add_column(column)
    return table


def write_csv(path: Path, found: "Mapping[str, Sequence[Measure]]") -> None:
    """Every measure of every set of cases, a line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for name, measured in found.items():
        writer.writerows({"cases of": name, **one.to_record()} for one in measured)
    write_whole(path, text.getvalue())


def write_rows(path: Path, rows: "Sequence[Mapping[str, Any]]") -> None:
    """As CSV, a line each; a field that a row lacks is empty, as is one that is NaN."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(listed(row) for row in rows)
    write_whole(path, text.getvalue())


def listed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as nested lists, and None for NaN, which JSON does not have."""
    import numpy as np

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in fields.items()}


def percent(interval: "Interval | None") -> str:
    return _bracketed(interval, lambda value: _short(100 * value))


def two_digits(interval: "Interval | None") -> str:
    """A number that is no percentage, with its interval, to two significant digits."""
    from figures.style import estimate

    return "" if interval is None else estimate(*map(float, interval))


def _bracketed(interval: "Interval | None", spelt: Callable[[float], str]) -> str:
    """A mean with its interval, if it has one; "-" if it is NaN, "" if there is no such thing."""
    if interval is None:
        return ""
    mean, low, high = map(float, interval)
    if not math.isfinite(mean):
        return "-"
    return f"{spelt(mean)} [{spelt(low)}, {spelt(high)}]" if low <= high else spelt(mean)


def _short(value: float) -> str:
    """Tenths where there is only one digit before the point."""
    text = f"{value:.0f}" if abs(value) >= 9.95 or value == 0 else f"{value:.1f}"
    return text.replace("-0.0", "0.0")
