"""A run's folder as one page for any browser, offline: maps to point at, facts, figures, tables."""

import base64
import csv
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simple_parsing import DashVariant, parse
from simple_parsing import field as option

if TYPE_CHECKING:
    from figures._run_files import RunFiles

ROWS = 400  # of a table; a long one belongs in a spreadsheet


@dataclass(frozen=True)
class Config:
    """Which run is shown, and where the page goes."""

    run: str = option(positional=True, metavar="RUN")
    """The run's folder, as its experiment printed it."""
    facts: int = 40
    """How many single facts the page holds at most, the first ones traced."""
    out: str = ""
    """The page's file (default: report.html in the run's folder)."""


class ReportTable(NamedTuple):
    """A CSV file: its heading and first rows, each cell with whether it is (above) a number."""

    name: str
    head: list[tuple[str, bool]]
    rows: list[list[tuple[str, bool]]]
    n_rows: int


def run(config: Config) -> Path:
    """Writes the page.

    Raises:
        InputError: no run lies there, a file of it cannot be read, or `facts` is negative.
    """
    from figures._run_files import PAGE, read_run
    from kedit.bounds import broken
    from kedit.errors import InputError

    if found := broken("report", "facts", config.facts):
        raise InputError(f"--facts {found[0]}: {found[1]} is wanted")
    folder = Path(config.run)
    text = page(read_run(folder), config.facts)
    out = Path(config.out) if config.out else folder / PAGE
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def page(files: "RunFiles", n_facts: int) -> str:
    """The whole page, with `n_facts` single facts at most; it loads nothing from anywhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from figures._report_data import page_data
    from figures.style import METRIC_NAMES

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson writes <, >, & and ' as code points: no token can end the block it stands in
    compact = {"allow_nan": False, "separators": (",", ":")}
    templates.policies["json.dumps_kwargs"] = compact
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
    return templates.get_template("report_page.html").render(
        title=files.name + (f": {files.settings['model']}" if "model" in files.settings else ""),
        about=list(_about(files)),
        sections=[(name, SECTIONS[name]) for name, part in parts.items() if part],
        metrics=METRIC_NAMES,
        data=data,
        n_left_out=len(files.traced) - len(data["facts"]),
        n_lost=n_traced - len(files.traced),
        pictures=parts["figures"],
        **{name: parts[name] for name in ("totals", "tables", "texts", "settings")},
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
    """What was done, on how much, in a line or two."""
    from kedit.tables import plural

    told = files.settings
    yield from _outcome(files)
    if "corrupt" in told and "by" in told:
        parts = ("relation", "subject") if told["corrupt"] == "both" else (told["corrupt"],)
        noise = f"under noise ({told['noise']}, {told['samples']} samples a fact)"
        how = "replaced by others" if told["by"] == "replacement" else noise
        yield f"Corrupted: {' or '.join(f'the {part}’s' for part in parts)} words, {how}."
    counted = files.averages.get("facts", {})
    if counted:
        traced = dict.fromkeys(
            f"{plural(n, 'fact')}, {plural(counted['relations'][part], 'relation')}"
            for part, n in counted["traced"].items()
        )
        yield f"{'; '.join(traced)}. {files.averages['left out']}."
    for one in files.averages.get("screens", []):
        yield (
            f"Screened, {one['part']} corrupted, {one['grid']}: of {one['n_cells']:.0f} cells a "
            f"fact, {one['n_kept']:.0f} and a sample of {one['n_sampled']:.0f} were restored; the "
            "others' effects are estimates, in the averages too."
        )
    if "seed" in told:
        yield f"Seed {told['seed']}."


def _outcome(files: "RunFiles") -> Iterator[str]:
    """What was edited, of what, and how it went."""
    from kedit.tables import number, plural

    if "verdict" in files.edited:
        asked, told = files.edited["request"][0], files.edited
        yield f"{asked['subject']}: {asked['object']} → {asked['target']}, by {told['editor']}."
        yield told["verdict"]
        n_prompts = len(told.get("rows", ())) or sum(len(one["rows"]) for one in told["facts"])
        yield f"{plural(n_prompts, 'prompt')}, each before and after the edit."
    n_cases = sum("probes" in record for record in files.records)
    for one in files.compared:
        lost = one["costs"].get("failed")
        scores = ", ".join(
            f"{name} {number(one[name]['mean'])}"
            for name in ("generalisation", "locality")
            if one.get(name, {}).get("mean") is not None
        )
        side = "both sides" if one["side"] == "together" else f"the {one['side']} side"
        yield (
            f"{one['editor']}, edited from {side}: {scores or 'no scores'}; "
            f"{plural(n_cases, 'case')}, {lost or 0} failed."
        )


def _totals(averages: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """By part and run: the scores with their intervals, a metric a column."""
    for part, by_run in averages.get("total effects", {}).items():
        for name, total in by_run.items():
            bounds = zip(total["mean"], total["low"], total["high"], strict=True)
            yield part, name, [_estimate(*scores) for scores in bounds]


def _embedded(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _table(file: Path) -> ReportTable:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        names = next(rows, [])
        kept = [[_cell(text) for text in row] for row in itertools.islice(rows, ROWS)]
        above = {column for row in kept for column, (_, number) in enumerate(row) if number}
        head = [(name, column in above) for column, name in enumerate(names)]
        return ReportTable(file.name, head, kept, len(kept) + sum(1 for _ in rows))


def _cell(text: str) -> tuple[str, bool]:
    """A number to two significant digits, a whole one as it is; any other text as it is."""
    from kedit.tables import number

    try:
        value = float(text)
    except ValueError:
        return text, False
    whole = text.lstrip("-").isdigit()
    return text.replace("-", "−") if whole else number(value), True


def _estimate(mean: float | None, low: float | None, high: float | None) -> str:
    """A number and its interval, of which there may be none."""
    from kedit.tables import estimate

    return estimate(*(math.nan if value is None else value for value in (mean, low, high)))


def _settings(files: "RunFiles") -> Iterator[tuple[str, dict[str, str]]]:
    """Tables of names and values; the last has what lies in the folder and not on the page."""
    from kedit.tables import plural

    for name, values in (("config.json", files.settings), ("versions.json", files.versions)):
        if values:
            yield name, {key: _plain(value) for key, value in values.items()}
    sizes: dict[str, list[int]] = {}
    for file in files.others:
        inside = file.relative_to(files.path)
        name = f"{inside.parts[0]}/" if len(inside.parts) > 1 else file.name
        sizes.setdefault(name, []).append(file.stat().st_size)
    if sizes:
        told = {name: f"{sum(each) / 1e3:,.0f} kB" for name, each in sizes.items()}
        yield (
            "not on this page",
            {
                name: f"{plural(len(sizes[name]), 'file')}, {size}" if name.endswith("/") else size
                for name, size in told.items()
            },
        )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """The command; what a user can mend is told in one line."""
    from kedit.screen import print_anything

    print_anything()
    config = parse(
        Config,
        prog="python -m figures.report",
        add_config_path_arg=False,
        add_option_string_dash_variants=DashVariant.DASH,
        description=__doc__,
    )
    from rich.console import Console

    from kedit.errors import InputError

    try:
        out = run(config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or config.out}: {error.strerror}")
    screen = Console(soft_wrap=True, highlight=False)
    screen.print(f"The page is in {out} ({out.stat().st_size / 1e6:.1f} MB)", markup=False)


if __name__ == "__main__":
    main()
