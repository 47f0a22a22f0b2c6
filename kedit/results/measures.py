"""Measures over cases of a benchmark, and the result of `score_model`: Scores before any edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from kedit.errors import InputError
from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Row, Table, percent, plural, two_digits

# statistics of single prompts (kedit.scoring.summary.STATISTICS says how each is computed)
OF_PROMPTS = (
    "success", "magnitude", "probability", "rival's probability", "exact match", "says it",
    "says the rival", "reciprocal rank", "ranks first",
)  # fmt: skip
SHOWN = {  # statistic: heading of its column
    "success": "success",
    "magnitude": "magnitude",
    "exact match": "exact",
    "says it": "says it",
    "reciprocal rank": "1/rank",
}
# explains the intervals of measures
INTERVALS = "95 % intervals over cases (Wilson's for rates, bootstrap otherwise)"
_EXPLAINED = (
    f"Means in percent with {INTERVALS}. success: the answer is likelier than its rival; "
    "magnitude: probability of the answer minus that of its rival; exact: each token of the "
    "answer is the likeliest one, given those before it; says it: the greedy continuation starts "
    "with the answer; 1/rank: rank of the relation's name among the names of all relations."
)


class Key(NamedTuple):
    """What a measure measures: the side, the group of probes, and the statistic of these probes."""

    perspective: str
    group: str
    statistic: str


@dataclass(frozen=True)
class Measure:
    """A number before and after an edit, over cases.

    Args:
        key: what is measured.
        before, after: means over cases with 95 % intervals over cases (Wilson's for rates,
            bootstrap otherwise). Without an edit there is only `before`; Scores on lifts have only
            `after`. There is no interval over a single case.
        lift: mean of after - before, paired by case.
        n_cases, n_prompts: number of cases and of prompts.
    """

    key: Key
    before: Interval | None
    after: Interval | None
    lift: Interval | None
    n_cases: int
    n_prompts: int

    def row(self) -> dict[str, Any]:
        """One row of plain numbers; None for a number that does not exist."""
        columns = {
            f"{name}{bound}": None
            for name in ("before", "after", "lift")
            for bound in ("", " low", " high")
        }
        counts = {"n_cases": self.n_cases, "n_prompts": self.n_prompts}
        return self.key._asdict() | columns | self._numbers() | counts

    def to_record(self) -> dict[str, Any]:
        """`row` without the columns that have no number."""
        counts = {"n_cases": self.n_cases, "n_prompts": self.n_prompts}
        return self.key._asdict() | self._numbers() | counts

    def _numbers(self) -> dict[str, float | None]:
        named = {"before": self.before, "after": self.after, "lift": self.lift}
        found = [mean.named(name) for name, mean in named.items() if mean is not None]
        return {column: value for columns in found for column, value in columns.items()}


@dataclass(frozen=True)
class Scores(Result):
    """Scores of an unedited model: all measures over all cases, and for each relation.

    Args:
        model: name of the model.
        seed: seed of the generated texts and of the bootstrap.
        overall: measures over all cases.
        by_relation: measures over each relation's cases, by the relation's name.
        kinds: kind of each relation (`kedit.facts.Kind`), by its name.
        perplexity: perplexity of held-out text, with an interval.
        text: name of that text.
        n_chunks: number of chunks of that text.
        n_cases: number of cases that were scored.
        skipped: why other cases were not scored, by their ids or their positions in the file.
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
        """A table with a row for each group of probes and a column for each statistic.

        Args:
            by: "" for all cases together, "relation" for a part of the table per relation.

        Raises:
            InputError: `by` is neither.
        """
        if by not in ("", "relation"):
            raise InputError(f"by={by!r}: must be '' or 'relation'")
        parts = self.by_relation if by else {"": self.overall}
        rows = [(part, row) for part, found in parts.items() for row in measure_rows(found)]
        return Table(
            f"{self.model} before any edit, {plural(self.n_cases, 'case')}",
            ("side", "group", *SHOWN.values(), "cases", "prompts"),
            tuple(row for _, row in rows),
            _EXPLAINED,
            tuple(part for part, _ in rows) if by else (),
        )

    def summary(self) -> Table:
        """The measures that are not of single prompts: Scores (percent), entropy of text (bits)."""
        rows = [
            (
                measure.key.perspective,
                f"{measure.key.group}, {measure.key.statistic}",
                (two_digits if "entropy" in measure.key.statistic else percent)(measure.before),
                str(measure.n_cases),
            )
            for measure in self.overall
            if measure.key.statistic not in OF_PROMPTS
        ]
        return Table("", ("side", "measure", "before any edit", "cases"), tuple(rows))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each measure, over all cases and over each relation's cases."""
        sets = {"all": self.overall, **self.by_relation}
        return [
            {"cases of": name, **measure.row()}
            for name, measures in sets.items()
            for measure in measures
        ]


def measure_rows(found: Sequence[Measure]) -> list[Row]:
    """Rows of `Scores.table`: one for each group of probes, with the values before any edit."""
    groups: dict[tuple[str, str], dict[str, Measure]] = {}
    for measure in found:
        groups.setdefault(measure.key[:2], {})[measure.key.statistic] = measure
    rows = []
    for (side, group), by_statistic in groups.items():
        shown = [by_statistic[name] for name in SHOWN if name in by_statistic]
        if shown:
            cells = [
                percent(by_statistic[name].before) if name in by_statistic else "" for name in SHOWN
            ]
            rows.append((side, group, *cells, str(shown[0].n_cases), str(shown[0].n_prompts)))
    return rows
