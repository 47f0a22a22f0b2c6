"""The result of tracing many facts: average indirect effects, total effects and counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kedit.forward.metrics import METRICS
from kedit.records import from_record, to_record
from kedit.results.averages import Baseline
from kedit.results.base import Result
from kedit.results.screens import ScreenQuality
from kedit.results.site_names import tower_of, within_tower
from kedit.results.traces import AverageEffect
from kedit.results.tracing import WEAK, Counts, Tracing
from kedit.stats import Interval
from kedit.tables import Table, csv_text, estimate, plural

if TYPE_CHECKING:
    from kedit.run_folder import RunFolder

LAST = "last corrupted"
SIGNIFICANT = 0.05
Totals = Mapping[str, Mapping[str, Interval]]  # by part; "clean", "corrupted", "total effect"


@dataclass(frozen=True)
class TraceAverages(Result):
    """Average indirect effects by part, grid, token bucket and layer, with intervals.

    Args:
        model: name of the model.
        settings: how the facts were traced.
        metric: the metric that tables and figures show; all metrics are averaged.
        baseline: what was subtracted from restored scores (`kedit.results.averages.average`).
        counts: numbers of facts that are averaged and of facts that are left out.
        relations: names of the relations, by id.
        total_effects: mean clean score, corrupted score and total effect, by part; each is an
            array over metrics.
        total_effects_of_all: the same including the facts that the averages leave out because the
            corruption hardly changes their answer; only of parts that have such facts.
        effects: the averages of all parts and grids.
        screens: how well screens chose cells; empty if all cells were restored.
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
        """The corrupted parts that have averages."""
        return tuple(self.total_effects)

    def grids(self, part: str) -> dict[str, AverageEffect]:
        """The averages of a part, by EffectGrid.name."""
        return {effect.name: effect for effect in self.effects if effect.part == part}

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers with averages: ("",), or T5's "encoder" and "decoder"."""
        return tuple(dict.fromkeys(tower_of(effect.name) for effect in self.effects))

    def of_tower(self, tower: str) -> "TraceAverages":
        """Returns the averages of one of `towers`, with the names of sites that other models have.

        For T5 the model's name then includes the tower, and buckets without tokens in this tower
        are left out, apart from that of the last corrupted token.
        """
        if not tower:
            return self
        effects = tuple(
            replace(effect, name=within_tower(effect.name)).without_empty(kept=LAST)
            for effect in self.effects
            if tower_of(effect.name) == tower
        )
        return replace(self, model=f"{self.model}, {tower}", effects=effects)

    def rows(self) -> list[dict[str, Any]]:
        """A row for the peak of each grid and bucket: layer (and head), average effect, interval.

        A bucket with too few facts (`AverageEffect.enough`) has a row without a peak.
        """
        metric = METRICS.index(self.metric)
        return [row for effect in self.effects for row in _peaks(effect, metric)]

    def table(self, part: str = "", tower: str = "") -> Table:
        """The peaks of the average effects, by bucket and grid.

        Args:
            part: whose words were corrupted; "" for the first part with averages.
            tower: one of `towers`; "" for the first.
        """
        part = part or self.parts[0]
        if tower := tower or self.towers[0]:
            table = self.of_tower(tower).table(part)
            return replace(table, title=f"{table.title}, {tower}")
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
            f"Corrupted {part}: peaks of the average indirect effect ({self.metric})",
            ("token", *heads),
            tuple(lines),
            self._note(part),
        )

    def tables(self) -> Iterator[Table]:
        """The tables of all parts and towers."""
        return (self.table(part, tower) for part in self.parts for tower in self.towers)

    def save(self, folder: "RunFolder") -> None:
        """Writes averages.json and table.csv."""
        folder.write_json(self.FILE, self.to_record())
        folder.write("table.csv", csv_text(self.rows()))

    def to_record(self) -> dict[str, Any]:
        """The record for averages.json, which the page of figures.report reads too."""
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
            effects=tuple(from_record(AverageEffect, effect) for effect in record["averages"]),
            screens=tuple(from_record(ScreenQuality, screen) for screen in record["screens"]),
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables())

    def _note(self, part: str) -> str:
        """The note below the table of a part."""
        scores, counts = _scores(self.total_effects[part], self.metric), self.counts
        if part in self.total_effects_of_all:
            n_weak = counts.left_out_of[part][WEAK]
            of_all = _scores(self.total_effects_of_all[part], self.metric)
            scores += f".\nIncluding {n_weak} facts whose answer hardly changes: {of_all}"
        spread = f"95 % bootstrap interval over facts (seed {self.settings.seed})"
        if counts.traced[part] == 1:
            spread = "no interval over a single fact"
        return (
            f"{plural(counts.traced[part], 'fact')}, "
            f"{plural(counts.relations[part], 'relation')}; {scores}.\n"
            f"Cells: peak layer, average indirect effect, {spread}. The peak is chosen and "
            "measured on the same facts. Buckets in which too few facts have tokens have no peak."
            + self._starred(part)
        )

    def _starred(self, part: str) -> str:
        """What a star means, if cells were tested."""
        if any(effect.p is None for effect in self.grids(part).values()):
            return ""
        return (
            f"\n*: p < {SIGNIFICANT} for an effect other than 0, by signs flipped over facts; "
            "corrected for the number of cells of the column: layers, buckets and heads."
        )


def _peaks(effect: AverageEffect, metric: int) -> Iterator[dict[str, Any]]:
    """The rows of one grid: the largest average effect in each bucket."""
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
            cell = (metric, index, *peak)
            row |= {
                "layer": int(peak[0]),
                "head": int(peak[1]) if len(peak) > 1 else "",
                "effect": float(mean[peak]),
                "low": float(effect.low[cell]),
                "high": float(effect.high[cell]),
                "p": "" if effect.p is None else float(effect.p[cell]),
            }
        yield row


def _cell(row: Mapping[str, Any]) -> str:
    """A row of `rows` as one cell: "L12 0.21 [0.15, 0.27]*"; the star if it is significant."""
    if "layer" not in row:
        return f"only {plural(row['facts'], 'fact')}" if row["facts"] else "-"
    where = f"L{row['layer']}" + (f"H{row['head']}" if row["head"] != "" else "")
    star = "*" if row["p"] != "" and row["p"] < SIGNIFICANT else ""
    return f"{where} {estimate(row['effect'], row['low'], row['high'])}{star}"


def _scores(total: Mapping[str, Interval], metric: str) -> str:
    """Clean score, corrupted score and total effect as a phrase."""
    index = METRICS.index(metric)
    return ", ".join(
        f"{name} {estimate(*(float(values[index]) for values in interval))}"
        for name, interval in total.items()
    )


def _totals(record: Mapping[str, Mapping[str, Any]]) -> Totals:
    return {
        part: {name: from_record(Interval, mean) for name, mean in by_run.items()}
        for part, by_run in record.items()
    }
