"""What a comparison of editors found: measures, shares, paired tests and costs of each of them."""

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
Norms = Literal["own", "equal"]  # of edits: as they are made, or that of their case's smallest
SCALED = "Edits are scaled down to the norm of the smallest of their case and side. "
# what is printed, from top to bottom; `rows` has every statistic
PRINTED = {
    "success": "success",
    "magnitude": "magnitude",
    "reciprocal rank": "1/rank among all relations",
    "says it": "says it",
    **dict.fromkeys(LIFTS, "Scores"),
    "gain": "Scores",
}


@dataclass(frozen=True)
class Comparison(Result):
    """Editors compared on the same cases.

    Args:
        perplexity: of the held-out text before any edit.
        held_out: what that text is called.
        editors: each on each side, in the order they were given.
        norms: of the edits.
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
        """The editors by the side that they edited."""
        found: dict[str, list[Compared]] = {}
        for one in self.editors:
            found.setdefault(one.side, []).append(one)
        return found

    @property
    def note(self) -> str:
        """What a reader of the tables needs to know."""
        n_failed = sum(one.costs.failed for one in self.editors)
        return (
            f"Means in percent with {INTERVALS}, if there are two cases or more; -: nothing to "
            f"measure; perplexity and KL on {self.held_out}. Score: harmonic mean of what was "
            "gained of what there was to gain and of what was kept: by success (lifts), by "
            "magnitude (kept: 1 - how far a magnitude has moved), and by all of these; transfer: "
            "the share gained on the side that was not edited. "
            f"*: unlike {self.editors[0].editor}, p < {ALPHA} (sign flips over cases, Holm over "
            "one table; of Scores bootstrap draws of the cases, Holm over the Scores). "
            f"{plural(n_failed, 'edit')} failed (records.jsonl says why) and count as no edit. "
            f"{SCALED if self.norms == 'equal' else ''}Seed {self.seed}."
        )

    def table(self, side: str = "") -> Table:
        """Measures before and after, by editor, of one edited side; by default of the first.

        Raises:
            InputError: that side was not edited.
        """
        sides = self.sides
        side = side or next(iter(sides))
        if side not in sides:
            raise InputError(f"side {side!r} was not edited; {' and '.join(sides)} were")
        ones = sides[side]
        found = list(self._lines(ones))
        return Table(
            f"{edited_from(side)}: {self.model}, {plural(self.n_cases, 'case')}",
            ("", "before", *(one.label for one in ones)),
            tuple(cells for _, cells in found),
            parts=tuple(part for part, _ in found),
        )

    def tables(self) -> list[Table]:
        """The paper's own table, then one for each side that was edited."""
        papers = papers_table(
            {(one.side, one.editor): one.measures for one in self.editors}, INTERVALS
        )
        return [papers, *map(self.table, self.sides)]

    def to_markdown(self) -> str:
        """All tables, and what a reader needs to know of them."""
        return "\n\n".join([*(one.to_markdown() for one in self.tables()), self.note])

    def _repr_html_(self) -> str:
        tables = "".join(one._repr_html_() for one in self.tables()[1:])
        return f"{tables}<p><small>{self.note}</small></p>"

    def rows(self) -> list[dict[str, Any]]:
        """Every measure of every editor and side."""
        return [
            {"edited": one.side, "editor": one.editor, **measure.to_record()}
            for one in self.editors
            for measure in one.measures
        ]

    def test_rows(self) -> list[dict[str, Any]]:
        """All tests against the first editor of each side."""
        return [
            {"edited": one.side, "editor": one.editor, **test.row()}
            for one in self.editors
            for test in one.tests
        ]

    def test(self, against: str, statistic: str = "magnitude", side: str = "") -> Table:
        """Paired tests of every other editor against one: sign flips over cases, Holm over all.

        Args:
            statistic: "success" or "magnitude".

        Raises:
            InputError: there is no such editor, or no such statistic of it.
        """
        side = side or next(iter(self.sides))
        ones = {one.editor: one for one in self.sides.get(side, ())}
        if against not in ones:
            raise InputError(f"editor {against!r}: {' or '.join(ones)} was compared")
        first = {
            one.key: one.values for one in ones.pop(against).by_case
            if one.key.statistic == statistic
        }  # fmt: skip
        if not first:
            raise InputError(f"statistic {statistic!r}: success or magnitude is wanted")
        tests = {
            (name, one.key): paired(one.values, first[one.key], seed=self.seed)
            for name, other in ones.items()
            for one in other.by_case
            if one.key in first
        }
        adjusted = holm(np.array([test.p for test in tests.values()])) if tests else ()
        return Table(
            f"{statistic}: unlike {against}? {edited_from(side)}",
            ("editor", "measure", "difference", "p", "p (Holm)"),
            tuple(
                (name, f"{key.perspective} {key.group}", percent(test.difference),
                 f"{test.p:.2g}", f"{p:.2g}")
                for ((name, key), test), p in zip(tests.items(), adjusted, strict=True)
            ),
            f"In percentage points, 95 % intervals by the bootstrap; p: sign flips over "
            f"{plural(self.n_cases, 'case')}, Holm over this table; seed {self.seed}.",
        )  # fmt: skip

    def save(self, folder: RunFolder) -> None:
        """comparison.json, .csv and .md, and tests.csv."""
        super().save(folder)
        folder.write("tests.csv", csv_text(self.test_rows()))
        folder.write("comparison.md", self.to_markdown() + "\n")

    def _lines(self, ones: Sequence[Compared]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What is printed of the editors of one side: by statistic, then costs."""
        side = ones[0].side
        sure = [{t.key for t in one.tests if t.adjusted < ALPHA} for one in ones]
        for statistic, part in PRINTED.items():
            for first in ones[0].measures:
                key = first.key
                # a Score of the side that was not edited weighs what nobody asked for
                unasked = statistic in LIFTS and side not in (key.perspective, "together")
                if key.statistic != statistic or unasked:
                    continue
                cells = [
                    percent(own.after if (own := one.measure(key)) else None) + "*" * (key in keys)
                    for one, keys in zip(ones, sure, strict=True)
                ]
                name = f"{key.perspective} {key.group}"
                name += f" ({statistic})" if statistic in LIFTS else ""
                yield part, (name, percent(first.before), *cells)
        costs: list[Mapping[str, float | None]] = [one.costs.named() for one in ones]
        for name in costs[0]:
            cells = ["-" if (cost := own[name]) is None else f"{cost:.3g}" for own in costs]
            before = f"{self.perplexity:.3g}" if name == "perplexity" else ""
            yield "costs", (name, before, *cells)


def edited_from(side: str) -> str:
    """A heading: "Edited from the entity side", or from both ("together")."""
    return "Edited from both sides" if side == "together" else f"Edited from the {side} side"
