"""What the settings of editors that were tried came to, the best of each editor first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.results.base import Result
from kedit.results.frontier import FrontierPoint
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from kedit.tables import Table, csv_text, percent, plural


@dataclass(frozen=True)
class Try:
    """Settings of an editor, and what its edits came to.

    Args:
        spec: which tells them, as `kedit.editors.registry.make_editor` reads it.
        score, by_magnitude, mean: the Score, that by magnitude alone, and the mean share.
        point: what was kept and what was gained.
        shares: that the Score is made of, by their names.
        n_failed: edits in trouble.
    """

    spec: str
    score: Interval
    by_magnitude: Interval
    mean: Interval
    point: FrontierPoint
    shares: Mapping[str, Interval]
    n_failed: int

    def row(self) -> dict[str, Any]:
        """Its numbers, under names of their own."""
        named = {
            "Score": self.score, "Score by magnitude": self.by_magnitude, "mean share": self.mean,
            **self.shares,
        }  # fmt: skip
        return {
            "told": self.spec,
            "failed": self.n_failed,
            **{
                column: value
                for name, interval in named.items()
                for column, value in interval.named(name).items()
            },
        }


@dataclass(frozen=True)
class TunedEditor:
    """An editor as it was named, and the settings of it that were tried, the best ones first."""

    name: str
    tries: tuple[Try, ...]

    @property
    def best(self) -> Try:
        """The try with the highest Score."""
        return self.tries[0]


@dataclass(frozen=True)
class Tuning(Result):
    """As many settings of each editor, tried on the same cases.

    Args:
        perspective: the side that was edited, whose probes alone were scored.
        tuned: the editors in the order they were given.
    """

    FILE = "tuned.json"

    model: str
    perspective: str
    n_cases: int
    seed: int
    tuned: tuple[TunedEditor, ...]

    @property
    def best(self) -> dict[str, str]:
        """The spec of each editor's best settings, by the editor's name."""
        return {one.name: one.best.spec for one in self.tuned}

    @property
    def edits(self) -> str:
        """What the numbers are of, in words."""
        return f"{self.perspective} edits of {plural(self.n_cases, 'case')}"

    def table(self) -> Table:
        """The best of each editor."""
        n_tries = len(self.tuned[0].tries)
        rows = []
        for one in (own.best for own in self.tuned):
            numbers = (one.score, one.by_magnitude, one.mean, *reversed(one.point))
            rows.append((one.spec, *map(percent, numbers), str(one.n_failed)))
        return Table(
            f"The best of {n_tries} settings of each editor: {self.model}, {self.edits}",
            ("", "Score", "by magnitude", "mean share", "gained", "kept", "failed"),
            tuple(rows),
            "Percent, 95 % bootstrap intervals over cases; the best of several tries looks better "
            "than it is.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each try, the best of each editor first."""
        return [
            {"editor": own.name, "place": place, **one.row()}
            for own in self.tuned
            for place, one in enumerate(own.tries, 1)
        ]

    def to_record(self) -> dict[str, Any]:
        """With the best specs under "editors", where `read_tuned` of kedit.editors finds them."""
        return {"editors": self.best, **super().to_record()}

    def save(self, folder: RunFolder) -> None:
        """tuned.json, from which `load` has it back, and tries.csv."""
        folder.write_json(self.FILE, self.to_record())
        folder.write("tries.csv", csv_text(self.rows()))
