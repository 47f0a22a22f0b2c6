"""Measures over cases, and what a model makes of a benchmark before any edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from kedit.errors import InputError
from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Row, Table, percent, plural, two_digits

# statistics of single prompts (kedit.scoring.summary.STATISTICS says how each is taken)
OF_PROMPTS = (
    "success", "magnitude", "probability", "rival's probability", "exact match", "says it",
    "says the rival", "reciprocal rank", "ranks first",
)  # fmt: skip
SHOWN = {  # statistic: its column's heading
    "success": "success",
    "magnitude": "magnitude",
    "exact match": "exact",
    "says it": "says it",
    "reciprocal rank": "1/rank",
}
# of measures: what their intervals are
INTERVALS = "95 % intervals over cases (Wilson's of rates, else by the bootstrap)"
_EXPLAINED = (
    f"Means in percent with {INTERVALS}. success: answer likelier than its rival; magnitude: "
    "difference of their probabilities; exact: all tokens likeliest, teacher-forced; says it: "
    "greedy text opens with it; 1/rank: of the relation's name among all relations' names. n: "
    "prompts."
)


class Key(NamedTuple):
    """Which side, which probes, which statistic of theirs."""

    perspective: str
    group: str
    statistic: str


@dataclass(frozen=True)
class Measure:
    """A number before and after an edit, over cases.

    Args:
        key: what it is.
        before, after, lift: means with 95 % intervals over cases, of rates Wilson's, else by the
            bootstrap; lift = after - before, case by case. Without an edit only `before`; Scores on
            lifts have only `after`. What a single case has is without an interval.
        n_cases, n_prompts: that it rests on.
    """

    key: Key
    before: Interval | None
    after: Interval | None
    lift: Interval | None
    n_cases: int
    n_prompts: int

    def row(self) -> dict[str, Any]:
        """Plain numbers in one row; None for what there is not."""
        columns = {
            f"{name}{bound}": None
            for name in ("before", "after", "lift")
            for bound in ("", " low", " high")
        }
        counts = {"n_cases": self.n_cases, "n_prompts": self.n_prompts}
        return self.key._asdict() | columns | self._numbers() | counts

    def to_record(self) -> dict[str, Any]:
        """`row` without the columns that it has no number for."""
        counts = {"n_cases": self.n_cases, "n_prompts": self.n_prompts}
        return self.key._asdict() | self._numbers() | counts

    def _numbers(self) -> dict[str, float | None]:
        named = {"before": self.before, "after": self.after, "lift": self.lift}
        found = [one.named(name) for name, one in named.items() if one is not None]
        return {column: value for columns in found for column, value in columns.items()}


@dataclass(frozen=True)
class Scores(Result):
    """Where a model stands before any edit: every measure over all cases, and of each relation.

    Args:
        model, seed: what was measured; `seed` drew texts and the bootstrap.
        overall: measures of all cases.
        by_relation: of each relation's cases, by its name.
        kinds: how each relation behaves (kedit.facts.Kind).
        perplexity: of held-out text, over `n_chunks` chunks of it.
        text: what that text is.
        n_cases: that were scored.
        skipped: why others were not, by their ids or places.
    """

    FILE: ClassVar[str] = "measures.json"

    model: str
    seed: int
    overall: tuple[Measure, ...]
    by_relation: Mapping[str, tuple[Measure, ...]]
    kinds: Mapping[str, str]
    perplexity: Interval
    text: str
    n_chunks: int
    n_cases: int
    skipped: Mapping[str, str]

    def table(self, by: str = "") -> Table:
        """A row for each group of probes, a column for each statistic.

        Args:
            by: "" for all cases together, "relation" for those of each relation apart.

        Raises:
            InputError: `by` is neither.
        """
        if by not in ("", "relation"):
            raise InputError(f"a table by {by!r}: '' or 'relation' is wanted")
        parts = self.by_relation if by else {"": self.overall}
        rows = [(part, row) for part, found in parts.items() for row in measure_rows(found)]
        return Table(
            f"{self.model} before any edit, {plural(self.n_cases, 'case')}",
            ("side", "prompts", *SHOWN.values(), "cases", "n"),
            tuple(row for _, row in rows),
            _EXPLAINED,
            tuple(part for part, _ in rows) if by else (),
        )

    def summary(self) -> Table:
        """What is not of single prompts: Scores (percent), the entropy of generated text (bits)."""
        rows = [
            (
                one.key.perspective,
                f"{one.key.group}, {one.key.statistic}",
                (two_digits if "entropy" in one.key.statistic else percent)(one.before),
                str(one.n_cases),
            )
            for one in self.overall
            if one.key.statistic not in OF_PROMPTS
        ]
        return Table("", ("side", "measure", "before any edit", "cases"), tuple(rows))

    def rows(self) -> list[dict[str, Any]]:
        """Every measure, of all cases and of each relation's."""
        sets = {"all": self.overall, **self.by_relation}
        return [{"cases of": name, **one.row()} for name, found in sets.items() for one in found]


def measure_rows(found: Sequence[Measure]) -> list[Row]:
    """A row for each group of probes, of an unedited model."""
    groups: dict[tuple[str, str], dict[str, Measure]] = {}
    for one in found:
        groups.setdefault(one.key[:2], {})[one.key.statistic] = one
    rows = []
    for (side, group), by_statistic in groups.items():
        shown = [by_statistic[name] for name in SHOWN if name in by_statistic]
        if shown:
            cells = [
                percent(by_statistic[name].before) if name in by_statistic else "" for name in SHOWN
            ]
            rows.append((side, group, *cells, str(shown[0].n_cases), str(shown[0].n_prompts)))
    return rows
