"""Average effects of traced facts, with all that their table and their figures say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kedit.forward.metrics import METRICS
from kedit.records import from_record, to_record
from kedit.results.averages import Baseline
from kedit.results.base import Result
from kedit.results.screens import ScreenQuality
from kedit.results.traces import AverageEffect
from kedit.results.tracing import WEAK, Counts, Tracing
from kedit.stats import Interval
from kedit.tables import Table, csv_text, estimate, plural

if TYPE_CHECKING:
    from kedit.run_folder import RunFolder

Totals = Mapping[str, Mapping[str, Interval]]  # by part; clean, corrupted and their difference


@dataclass(frozen=True)
class TraceAverages(Result):
    """Average indirect effects by part, grid, token bucket and layer, all with intervals.

    Args:
        model: its name.
        settings: how the facts were traced.
        metric: which score tables and figures show; all are averaged.
        baseline: what was subtracted (`kedit.results.averages.average`).
        counts: of the facts that are in the averages, and of those that are not.
        relations: names by id.
        total_effects: clean and corrupted scores and their difference, by metric.
        total_effects_of_all: of a part whose averages leave out facts that the corruption harms too
            little, the same with these facts.
        effects: of all parts and grids.
        screens: what a screen kept and missed; empty where all cells were restored.
    """

    FILE: ClassVar[str] = "averages.json"

    model: str
    settings: Tracing
    metric: str
    baseline: Baseline
    counts: Counts
    relations: Mapping[str, str]
    total_effects: Totals
    total_effects_of_all: Totals
    effects: tuple[AverageEffect, ...]
    screens: tuple[ScreenQuality, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that there are averages of."""
        return tuple(self.total_effects)

    def grids(self, part: str) -> dict[str, AverageEffect]:
        """The effects of a part, by EffectGrid.name."""
        return {one.name: one for one in self.effects if one.part == part}

    def rows(self) -> list[dict[str, Any]]:
        """The peak of each grid and bucket: layer (and head), average effect, interval.

        A bucket of too few facts (`AverageEffect.enough`) has no peak.
        """
        metric = METRICS.index(self.metric)
        return [row for effect in self.effects for row in _peaks(effect, metric)]

    def table(self, part: str = "") -> Table:
        """Where restoring brings the answer back: the peaks, by bucket and grid.

        Args:
            part: whose words were corrupted; "" for the first part that there is.
        """
        part = part or self.parts[0]
        rows = [row for row in self.rows() if row["part"] == part]
        names = list(dict.fromkeys(row["grid"] for row in rows if "severed" not in row["grid"]))
        window = self.settings.window
        heads = [f"{name}, window {window}" if name.endswith("_out") else name for name in names]
        lines = []
        for bucket in dict.fromkeys(row["bucket"] for row in rows):
            cells = [row for row in rows if row["bucket"] == bucket and row["grid"] in names]
            lines.append((bucket, *map(_cell, cells)))
        for row in rows:
            if "severed" in row["grid"] and row["tokens"] and row["bucket"] == "last corrupted":
                held = row["grid"].split("-")[-1].removesuffix("_out")
                lines.append((f"  with {held} severed", _cell(row), *[""] * (len(names) - 1)))
        return Table(
            f"Corrupted {part}: where restoring brings the answer back ({self.metric})",
            ("token", *heads),
            tuple(lines),
            self._note(part),
        )

    def save(self, folder: "RunFolder") -> None:
        """Writes averages.json and table.csv."""
        folder.write_json(self.FILE, self.to_record())
        folder.write("table.csv", csv_text(self.rows()))

    def to_record(self) -> dict[str, Any]:
        """For averages.json; the report's page reads it too."""
        counts = self.counts
        return {
            "model": self.model,
            "settings": to_record(self.settings),
            "metric": self.metric,
            "baseline": self.baseline,
            "facts": {
                "traced": dict(counts.traced),
                "relations": dict(counts.relations),
                "left out": dict(counts.left_out),
                "left out of one part": to_record(counts.left_out_of),
            },
            "left out": str(counts),
            "screens": to_record(self.screens),
            "relations": dict(self.relations),
            "total effects": to_record(self.total_effects),
            "total effects of all": to_record(self.total_effects_of_all),
            "averages": to_record(self.effects),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TraceAverages":
        counted = record["facts"]
        return cls(
            model=record["model"],
            settings=from_record(Tracing, record["settings"]),
            metric=record["metric"],
            baseline=record["baseline"],
            counts=Counts(
                counted["traced"], counted["relations"], counted["left out"],
                counted["left out of one part"],
            ),
            relations=record["relations"],
            total_effects=_totals(record["total effects"]),
            total_effects_of_all=_totals(record["total effects of all"]),
            effects=tuple(from_record(AverageEffect, one) for one in record["averages"]),
            screens=tuple(from_record(ScreenQuality, one) for one in record["screens"]),
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return "".join(self.table(part)._repr_html_() for part in self.parts)

    def _note(self, part: str) -> str:
        scores, counts = _scores(self.total_effects[part], self.metric), self.counts
        if part in self.total_effects_of_all:
            n_weak = counts.left_out_of[part][WEAK]
            of_all = _scores(self.total_effects_of_all[part], self.metric)
            scores += f".\nWith the {n_weak} that it harms too little: {of_all}"
        spread = f"95 % bootstrap interval over facts (seed {self.settings.seed})"
        if counts.traced[part] == 1:
            spread = "no interval over a single fact"
        return (
            f"{plural(counts.traced[part], 'fact')}, "
            f"{plural(counts.relations[part], 'relation')}; {scores}.\n"
            f"Peak layer, average indirect effect, {spread}; the peak is chosen on the same facts, "
            "and not where too few of them have such tokens."
        )


def _peaks(effect: AverageEffect, metric: int) -> Iterator[dict[str, Any]]:
    for index, bucket in enumerate(effect.buckets):
        row: dict[str, Any] = {
            "part": effect.part,
            "grid": effect.name,
            "bucket": bucket,
            "tokens": effect.n_tokens[index],
            "facts": effect.n_facts[index],
        }
        mean = effect.mean[metric, index]
        if effect.enough[index]:
            peak = np.unravel_index(np.argmax(mean), mean.shape)
            at = (metric, index, *peak)
            row |= {
                "layer": int(peak[0]),
                "head": int(peak[1]) if len(peak) > 1 else "",
                "effect": float(mean[peak]),
                "low": float(effect.low[at]),
                "high": float(effect.high[at]),
            }
        yield row


def _cell(row: Mapping[str, Any]) -> str:
    if "layer" not in row:
        return f"only {plural(row['facts'], 'fact')}" if row["facts"] else "-"
    where = f"L{row['layer']}" + (f"H{row['head']}" if row["head"] != "" else "")
    return f"{where} {estimate(row['effect'], row['low'], row['high'])}"


def _scores(total: Mapping[str, Interval], metric: str) -> str:
    index = METRICS.index(metric)
    return ", ".join(
        f"{name} {estimate(*(float(values[index]) for values in interval))}"
        for name, interval in total.items()
    )


def _totals(record: Mapping[str, Mapping[str, Any]]) -> Totals:
    return {
        part: {name: from_record(Interval, one) for name, one in by_run.items()}
        for part, by_run in record.items()
    }
