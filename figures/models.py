"""Draws the same study of several models side by side, from their run folders.

It writes a figure (PNG and PDF) and a CSV file with the numbers that the figure shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simple_parsing import field as option

from figures._command import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kedit.results.base import Result


@dataclass(frozen=True)
class Config:
    """Which runs are drawn, and where the figure is written."""

    runs: list[str] = option(positional=True, metavar="RUN [RUN ...]", nargs="+")
    """The run folders of one study, one or more for each model, in the order of the legend."""
    out: str = "results/models"
    """The folder of the figure and of the CSV file; both are named after the study."""


class Drawing(NamedTuple):
    """How a study is drawn.

    Args:
        result: the type of its result.
        draw: makes the figure of several results.
        rows: the numbers of that figure, one row each.
    """

    result: "type[Result]"
    draw: "Callable[[Sequence[Any]], Figure]"
    rows: Callable[[Sequence[Any]], list[dict[str, Any]]]


def drawings() -> dict[str, Drawing]:
    """How each study is drawn, by the name of its command."""
    from figures import by_depth, by_model
    from kedit.results.head_answers import HeadAnswers
    from kedit.results.kinds import KindsCompared
    from kedit.results.sites import SiteFindings
    from kedit.results.trace_averages import TraceAverages
    from kedit.studies.comparison import Comparison

    return {
        "trace_relation": Drawing(TraceAverages, by_depth.effects, by_depth.effect_rows),
        "relation_kinds": Drawing(KindsCompared, by_model.shares, by_model.share_rows),
        "ask_heads": Drawing(HeadAnswers, by_depth.knockouts, by_depth.knockout_rows),
        "choose_sites": Drawing(SiteFindings, by_depth.write_sites, by_depth.write_site_rows),
        "compare_editors": Drawing(Comparison, by_model.editors, by_model.editor_rows),
    }


def run(config: Config) -> tuple[Path, Path]:
    """Draws the runs and returns the paths of the PNG and of the CSV file.

    Raises:
        InputError: a folder is no run folder or is not finished, the runs are of different studies
            or settings, or no figure shows several models of this study.
    """
    from figures._run_files import read_run
    from figures.style import save
    from kedit.errors import InputError
    from kedit.tables import csv_text

    studies = {folder: read_run(Path(folder)).name for folder in config.runs}
    study, *others = dict.fromkeys(studies.values())
    if others:
        told = "; ".join(f"{folder}: {name}" for folder, name in studies.items())
        raise InputError(f"the runs are of different studies ({told}): give runs of one study")
    known = drawings()
    if study not in known:
        raise InputError(
            f"no figure shows {study} of several models; there are figures of {', '.join(known)}"
        )
    drawing, out = known[study], Path(config.out)
    found = [drawing.result.load(folder) for folder in config.runs]
    png, _ = save(drawing.draw(found), out, study)
    table = out / f"{study}.csv"
    table.write_bytes(csv_text(drawing.rows(found)).encode())
    return png, table


def _told(config: Config) -> str:
    png, table = run(config)
    return f"The figure is in {png}, its numbers are in {table}"


def main() -> None:
    """The command line."""
    command(Config, "figures.models", __doc__, _told)


if __name__ == "__main__":
    main()
