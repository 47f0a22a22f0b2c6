"""Measures as tables: for the screen, and as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._run import write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from kedit.measures import Measure
    from kedit.stats import Interval

SHOWN = ("success", "magnitude", "exact match", "says it", "reciprocal rank")
FIELDS = [
    "cases of", "perspective", "group", "statistic",
    *(f"{name}{bound}" for name in ("before", "after", "lift") for bound in ("", " low", " high")),
    "n_cases", "n_prompts",
]  # fmt: skip


def measures_table(found: "Sequence[Measure]", title: str) -> "Table":
    """One row a group of probes, one column a statistic; then the Scores and the texts' entropy."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        caption="Means in percent (entropy: bits) with 95 % bootstrap intervals over cases.\n"
        "success: answer likelier than its rival; magnitude: difference of the two probabilities; "
        "exact: all tokens likeliest, teacher-forced;\nsays it: greedy text opens with it; "
        "rank: mean reciprocal rank of the relation's name among all relations' names.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for column in ("side", "prompts", *SHOWN, "cases", "prompts"):
        table.add_column(column, no_wrap=True)
    rows: dict[tuple[str, str], dict[str, Measure]] = {}
    for one in found:
        rows.setdefault(one.key[:2], {})[one.key.statistic] = one
    for (side, group), by_statistic in rows.items():
        shown = [name for name in SHOWN if name in by_statistic]
        if shown:
            any_of = by_statistic[shown[0]]
            cells = [_percent(by_statistic[name].before) if name in shown else "" for name in SHOWN]
            table.add_row(side, group, *cells, str(any_of.n_cases), str(any_of.n_prompts))
    for one in found:
        if not {one.key.statistic} & set(rows_of_probes()):
            value = _bits(one.before) if "entropy" in one.key.statistic else _percent(one.before)
            table.add_row(
                one.key.perspective, f"{one.key.group}, {one.key.statistic}", value,
                *[""] * (len(SHOWN) - 1), str(one.n_cases), str(one.n_prompts),
            )  # fmt: skip
    return table


def rows_of_probes() -> Sequence[str]:
    """The statistics that are of single probes."""
    from kedit.measures import STATISTICS

    return tuple(STATISTICS)


def write_csv(path: Path, found: "Mapping[str, Sequence[Measure]]") -> None:
    """Every measure of every set of cases, a line each."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for name, measured in found.items():
        writer.writerows({"cases of": name, **one.to_record()} for one in measured)
    write_whole(path, text.getvalue())


def _percent(interval: "Interval | None") -> str:
    if interval is None:
        return ""
    mean, low, high = (100 * float(value) for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _bits(interval: "Interval | None") -> str:
    if interval is None:
        return ""
    return f"{float(interval.mean):.2f} [{float(interval.low):.2f}, {float(interval.high):.2f}]"
