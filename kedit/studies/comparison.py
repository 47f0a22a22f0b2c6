"""The result of comparing editors: measures, shares, paired tests and costs of each editor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kedit.errors import InputError
from kedit.results.base import Result
from kedit.results.compared import Compared
from kedit.results.measures import INTERVALS
from kedit.run_folder import RunFolder
from kedit.scoring.summary import LIFTS
from kedit.stats import holm, paired
from kedit.studies.papers_table import papers_table
from kedit.tables import Table, csv_text, percent, plural

ALPHA = 0.05
# own: edits keep their norms; equal: scaled down to the smallest edit of their case and side
Norms = Literal["own", "equal"]
SCALED = "Edits are scaled down to the norm of the smallest edit of their case and side. "
# the statistics of the printed tables, from top to bottom, and the part of the table that each is
# in; `rows` has every statistic
PRINTED = {
    "success": "success",
    "magnitude": "magnitude",
    "reciprocal rank": "1/rank among all relations",
    "says it": "says it",
    "says the rival": "still says the old object or relation",
    "rival's probability": "probability of the old object or relation",
    **dict.fromkeys(LIFTS, "Scores"),
    "gain": "Scores",
}
# groups of prompts whose rival is what the edit should replace: the old object or the old relation
REPLACED = (("entity", "efficacy"), ("relation", "removal"), ("relation", "removal paraphrase"))


@dataclass(frozen=True)
class Comparison(Result):
    """Editors that were compared on the same cases.

    Args:
        perplexity: perplexity of the held-out text before any edit.
        held_out: name of that text.
        editors: the results of each editor on each side, in the order in which editors were given.
        norms: whether edits kept their norms or were scaled to equal norms.
    """

    FILE = "comparison.json"

    model: str
    n_cases: int
    seed: int
    perplexity: float
    held_out: str
    editors: tuple[Compared, ...]
    norms: Norms = "own"

    def __repr__(self) -> str:
        return "\n\n".join([*map(str, self.tables()[1:]), self.note])

    @property
    def sides(self) -> dict[str, list[Compared]]:
        """The results of the editors, by the side that was edited."""
        found: dict[str, list[Compared]] = {}
        for editor in self.editors:
            found.setdefault(editor.side, []).append(editor)
        return found

    @property
    def note(self) -> str:
        """The note that explains the tables."""
        n_failed = sum(editor.costs.failed for editor in self.editors)
        return (
            f"Means in percent with {INTERVALS}, if there are at least two cases; -: nothing to "
            f"measure. Perplexity and KL are measured on {self.held_out}. Score: the harmonic mean "
            "of the shares that were gained (of what was missing before the edit) and kept (of "
            "what was there before): by success (lifts), by magnitude (kept: 1 - how far a "
            "magnitude moved), and by both. Transfer: the share gained on the side that was not "
            f"edited. *: differs from {self.editors[0].editor} with p < {ALPHA} (sign flips over "
            "cases, Holm over one table; for Scores bootstrap draws of the cases, Holm over the "
            f"Scores). {plural(n_failed, 'edit')} failed (for the reasons see records.jsonl) and "
            "count as no edit. "
            f"{SCALED if self.norms == 'equal' else ''}Seed {self.seed}."
        )

    def table(self, side: str = "") -> Table:
        """Returns the measures before and after the edits of one side, by editor.

        Args:
            side: the side that was edited; "": the first one.

        Raises:
            InputError: that side was not edited.
        """
        sides = self.sides
        side = side or next(iter(sides))
        if side not in sides:
            raise InputError(f"side {side!r} was not edited, expected {' or '.join(sides)}")
        editors = sides[side]
        lines = list(self._lines(editors))
        return Table(
            f"{edited_from(side)}: {self.model}, {plural(self.n_cases, 'case')}",
            ("", "before", *(editor.label for editor in editors)),
            tuple(cells for _, cells in lines),
            parts=tuple(part for part, _ in lines),
        )

    def tables(self) -> list[Table]:
        """Returns the table of the RaKE paper, then one table per side that was edited."""
        papers = papers_table(
            {(editor.side, editor.editor): editor.measures for editor in self.editors}, INTERVALS
        )
        return [papers, *map(self.table, self.sides)]

    def to_markdown(self) -> str:
        """Returns all tables and the note that explains them."""
        return "\n\n".join([*(table.to_markdown() for table in self.tables()), self.note])

    def _repr_html_(self) -> str:
        tables = "".join(table._repr_html_() for table in self.tables()[1:])
        return f"{tables}<p><small>{self.note}</small></p>"

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per editor, side and measure."""
        return [
            {"edited": editor.side, "editor": editor.editor, **measure.to_record()}
            for editor in self.editors
            for measure in editor.measures
        ]

    def test_rows(self) -> list[dict[str, Any]]:
        """Returns one row per test against the first editor of each side."""
        return [
            {"edited": editor.side, "editor": editor.editor, **test.row()}
            for editor in self.editors
            for test in editor.tests
        ]

    def test(self, against: str, statistic: str = "magnitude", side: str = "") -> Table:
        """Tests every other editor against one editor, by paired tests.

        The p-values are of sign flips over cases; Holm's method adjusts them for the whole table.

        Args:
            against: the editor that the others are tested against.
            statistic: "success" or "magnitude".
            side: the side that was edited; "": the first one.

        Raises:
            InputError: the editor was not compared on this side, or has no such statistic.
        """
        side = side or next(iter(self.sides))
        others = {editor.editor: editor for editor in self.sides.get(side, ())}
        if against not in others:
            raise InputError(
                f"editor {against!r} was not compared on the side {side!r}, expected "
                f"{' or '.join(others) or 'another side'}"
            )
        reference = {
            measured.key: measured.values for measured in others.pop(against).by_case
            if measured.key.statistic == statistic
        }  # fmt: skip
        if not reference:
            raise InputError(f"statistic {statistic!r}: must be success or magnitude")
        tests = {
            (name, measured.key): paired(measured.values, reference[measured.key], seed=self.seed)
            for name, other in others.items()
            for measured in other.by_case
            if measured.key in reference
        }
        adjusted = holm(np.array([test.p for test in tests.values()])) if tests else ()
        return Table(
            f"Does {statistic} differ from {against}? {edited_from(side)}",
            ("editor", "measure", "difference", "p", "p (Holm)"),
            tuple(
                (name, f"{key.perspective} {key.group}", percent(test.difference),
                 f"{test.p:.2g}", f"{p:.2g}")
                for ((name, key), test), p in zip(tests.items(), adjusted, strict=True)
            ),
            f"Differences in percentage points, with 95 % bootstrap intervals; p: sign flips over "
            f"{plural(self.n_cases, 'case')}, Holm over this table; seed {self.seed}.",
        )  # fmt: skip

    def save(self, folder: RunFolder) -> None:
        """Writes comparison.json, .csv and .md, and tests.csv."""
        super().save(folder)
        folder.write("tests.csv", csv_text(self.test_rows()))
        folder.write("comparison.md", self.to_markdown() + "\n")

    def _lines(self, editors: Sequence[Compared]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yields the part and the cells of each table row: by statistic, then costs.

        Args:
            editors: the results of the editors on one side.
        """
        side = editors[0].side
        significant = [{t.key for t in editor.tests if t.adjusted < ALPHA} for editor in editors]
        for statistic, part in PRINTED.items():
            for first in editors[0].measures:
                key = first.key
                # the Score of the other side counts as gained what the edit was not asked to change
                unasked = statistic in LIFTS and side not in (key.perspective, "together")
                if key.statistic != statistic or unasked:
                    continue
                if "rival" in statistic and (key.perspective, key.group) not in REPLACED:
                    continue
                measures = [editor.measure(key) for editor in editors]
                cells = [
                    percent(measure.after if measure else None) + "*" * (key in keys)
                    for measure, keys in zip(measures, significant, strict=True)
                ]
                name = f"{key.perspective} {key.group}"
                name += f" ({statistic})" if statistic in LIFTS else ""
                yield part, (name, percent(first.before), *cells)
        costs: list[Mapping[str, float | None]] = [editor.costs.named() for editor in editors]
        for name in costs[0]:
            of_editors = [by_name[name] for by_name in costs]
            cells = ["-" if cost is None else f"{cost:.3g}" for cost in of_editors]
            before = f"{self.perplexity:.3g}" if name == "perplexity" else ""
            yield "costs", (name, before, *cells)


def edited_from(side: str) -> str:
    """Returns a heading such as "Edited from the entity side"."""
    return "Edited from both sides" if side == "together" else f"Edited from the {side} side"
