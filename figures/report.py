"""Makes an HTML page from a run folder: interactive maps, single facts, figures and tables.

Several runs get a page each, and an index with the options in which they differ. The pages work
offline in any browser.
"""

import base64
import csv
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simple_parsing import field as option

from figures._command import command

if TYPE_CHECKING:
    from figures._run_files import RunFiles

INDEX = "index.html"
ROWS = 400  # rows shown of a table; longer tables are easier to read in a spreadsheet


@dataclass(frozen=True)
class Config:
    """Which runs are shown, and where the page is written."""

    runs: list[str] = option(positional=True, metavar="RUN [RUN ...]", nargs="+")
    """The run folders, as printed by the experiments."""
    facts: int = 40
    """Largest number of single facts on the page; the first traced facts are shown."""
    out: str = ""
    """The file of the page, or of the index of several runs (default: report.html in the run
    folder; index.html in the folder that holds all of the runs)."""


class ReportTable(NamedTuple):
    """A CSV file as a table of the page.

    Args:
        name: name of the file.
        head: column heads, each with whether there are numbers in the column.
        rows: the first rows; each cell with whether it is a number.
        n_rows: number of rows in the file.
    """

    name: str
    head: list[tuple[str, bool]]
    rows: list[list[tuple[str, bool]]]
    n_rows: int


def run(config: Config) -> Path:
    """Writes the page, or the index with the pages of several runs, and returns its path.

    Raises:
        InputError: there is no run folder, a file cannot be read, or `facts` is negative.
    """
    from figures._report_index import index
    from figures._run_files import PAGE, read_run
    from kedit.bounds import broken
    from kedit.errors import InputError

    if found := broken("report", "facts", config.facts):
        raise InputError(f"--facts {found[0]}: must be {found[1]}")
    # each run once, and all of them read before the first page is written
    runs = [read_run(Path(folder)) for folder in dict.fromkeys(config.runs)]
    pages = {one.path / PAGE: one for one in runs}
    if len(runs) == 1:
        return _written(page(runs[0], config.facts), Path(config.out or next(iter(pages))))
    for file, one in pages.items():
        _written(page(one, config.facts), file)
    whole = Path(os.path.commonpath([one.path.resolve().parent for one in runs]))
    out = Path(config.out or whole / INDEX).resolve()
    return _written(index({file.resolve(): one for file, one in pages.items()}, out), out)


def _written(text: str, out: Path) -> Path:
    """Writes a page, and returns its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def page(files: "RunFiles", n_facts: int) -> str:
    """The page as text, with at most `n_facts` single facts; it loads no other files."""
    from figures._report_data import page_data
    from figures._templates import environment
    from figures.style import METRIC_NAMES

    data = page_data(files, n_facts)
    n_traced = sum("traces" in record for record in files.records)
    parts = {
        "totals": list(_totals(files.averages)),
        "maps": data["maps"],
        "facts": n_traced,
        "figures": [(file.name, _embedded(file)) for file in files.pictures],
        "tables": [_table(file) for file in files.tables],
        "texts": [(file.name, file.read_text(encoding="utf-8")) for file in files.texts],
        "settings": list(_settings(files)),
    }
    return (
        environment()
        .get_template("report_page.html")
        .render(
            title=files.name
            + (f": {files.settings['model']}" if "model" in files.settings else ""),
            about=list(_about(files)),
            sections=[(name, SECTIONS[name]) for name, part in parts.items() if part],
            metrics=METRIC_NAMES,
            data=data,
            n_left_out=len(files.traced) - len(data["facts"]),
            n_lost=n_traced - len(files.traced),
            pictures=parts["figures"],
            **{name: parts[name] for name in ("totals", "tables", "texts", "settings")},
        )
    )


SECTIONS = {
    "totals": "Total effects",
    "maps": "Average indirect effects",
    "facts": "Single facts",
    "figures": "Figures",
    "tables": "Tables",
    "texts": "Texts",
    "settings": "Configuration and versions",
}


def _about(files: "RunFiles") -> Iterator[str]:
    """The lines below the page's title: what was done, and on how many facts."""
    from kedit.tables import plural

    settings = files.settings
    yield from _outcome(files)
    if "corrupt" in settings and "by" in settings:
        corrupt = settings["corrupt"]
        parts = ("relation", "subject") if corrupt == "both" else (corrupt,)
        noise = f"with noise added ({settings['noise']}, {settings['samples']} samples per fact)"
        how = "replaced by others" if settings["by"] == "replacement" else noise
        yield f"Corrupted: {' or '.join(f'the {part}’s' for part in parts)} words, {how}."
    counted = files.averages.get("facts", {})
    if counted:
        traced = dict.fromkeys(
            f"{plural(n, 'fact')}, {plural(counted['relations'][part], 'relation')}"
            for part, n in counted["traced"].items()
        )
        yield f"{'; '.join(traced)}. {files.averages['left out']}."
    for screen in files.averages.get("screens", []):
        yield (
            f"Screen, {screen['part']} corrupted, {screen['grid']}: of {screen['n_cells']:.0f} "
            f"cells per fact, {screen['n_kept']:.0f} chosen ones and a random sample of "
            f"{screen['n_sampled']:.0f} were restored. All other effects are estimates, also in "
            "the averages."
        )
    if "seed" in settings:
        yield f"Seed {settings['seed']}."


def _outcome(files: "RunFiles") -> Iterator[str]:
    """Lines about an edit or a comparison of editors: what was edited, and the result."""
    from kedit.tables import number, plural

    if "verdict" in files.edited:
        request, edited = files.edited["request"][0], files.edited
        change = f"{request['subject']}: {request['object']} → {request['target']}"
        yield f"{change}, by {edited['editor']}."
        yield edited["verdict"]
        n_prompts = len(edited.get("rows", ())) or sum(
            len(fact["rows"]) for fact in edited["facts"]
        )
        yield f"{plural(n_prompts, 'prompt')}, each scored before and after the edit."
    n_cases = sum("probes" in record for record in files.records)
    for editor in files.compared:
        failed = editor["costs"].get("failed")
        scores = ", ".join(
            f"{name} {number(editor[name]['mean'])}"
            for name in ("generalisation", "locality")
            if editor.get(name, {}).get("mean") is not None
        )
        side = "both sides" if editor["side"] == "together" else f"the {editor['side']} side"
        yield (
            f"{editor['editor']}, edited from {side}: {scores or 'no scores'}; "
            f"{plural(n_cases, 'case')}, {failed or 0} failed."
        )


def _totals(averages: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """The rows of the table of total effects: part, run, and the scores by metric as text."""
    for part, by_run in averages.get("total effects", {}).items():
        for name, total in by_run.items():
            bounds = zip(total["mean"], total["low"], total["high"], strict=True)
            yield part, name, [_estimate(*scores) for scores in bounds]


def _embedded(picture: Path) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _table(file: Path) -> ReportTable:
    """Reads a CSV file as a table of the page."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        names = next(rows, [])
        shown = [[_cell(text) for text in row] for row in itertools.islice(rows, ROWS)]
        numbers = {column for row in shown for column, (_, number) in enumerate(row) if number}
        head = [(name, column in numbers) for column, name in enumerate(names)]
        return ReportTable(file.name, head, shown, len(shown) + sum(1 for _ in rows))


def _cell(text: str) -> tuple[str, bool]:
    """The text of a cell, and whether it is a number.

    Numbers are rounded to two significant digits, except whole numbers.
    """
    from kedit.tables import number

    try:
        value = float(text)
    except ValueError:
        return text, False
    whole = text.lstrip("-").isdigit()
    return text.replace("-", "−") if whole else number(value), True


def _estimate(mean: float | None, low: float | None, high: float | None) -> str:
    """A number with its interval as text; None means that there is no such number."""
    from kedit.tables import estimate

    return estimate(*(math.nan if value is None else value for value in (mean, low, high)))


def _settings(files: "RunFiles") -> Iterator[tuple[str, dict[str, str]]]:
    """The tables of options and versions, and of files that are not on the page."""
    from figures._report_index import shown
    from kedit.tables import plural

    for name, values in (("config.json", files.settings), ("versions.json", files.versions)):
        if values:
            yield name, {key: shown(value) for key, value in values.items()}
    sizes: dict[str, list[int]] = {}
    for file in files.others:
        inside = file.relative_to(files.path)
        name = f"{inside.parts[0]}/" if len(inside.parts) > 1 else file.name
        sizes.setdefault(name, []).append(file.stat().st_size)
    if sizes:
        totals = {name: f"{sum(each) / 1e3:,.0f} kB" for name, each in sizes.items()}
        yield (
            "not on this page",
            {
                name: f"{plural(len(sizes[name]), 'file')}, {size}" if name.endswith("/") else size
                for name, size in totals.items()
            },
        )


def _told(config: Config) -> str:
    out = run(config)
    what = "page" if len(config.runs) == 1 else "index"
    return f"The {what} is in {out} ({out.stat().st_size / 1e6:.1f} MB)"


def main() -> None:
    """The command line."""
    command(Config, "figures.report", __doc__, _told)


if __name__ == "__main__":
    main()
