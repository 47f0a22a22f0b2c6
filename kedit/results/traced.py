"""The traces of a run's facts, their averages, and the facts that were left out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from kedit import cache
from kedit.errors import InputError
from kedit.journal import UNUSABLE
from kedit.lines import read_lines
from kedit.results.averages import Baseline, average, total_effects
from kedit.results.screens import quality
from kedit.results.trace_averages import TraceAverages
from kedit.results.traces import FactTrace, fact_traces
from kedit.results.tracing import NO_REPLACEMENT, WEAK, WRONG, Counts, LeftOut, Tracing
from kedit.tables import Table, frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Traces:
    """The traces of facts that were traced with the same settings, and the facts left out.

    Args:
        model: name of the model.
        settings: how the facts were traced.
        by_part: all traces by the part that was corrupted, including those that averages leave out.
        left_out: facts, or parts of facts, that were not traced.
        relations: names of the relations, by id.
    """

    model: str
    settings: Tracing
    by_part: Mapping[str, tuple[FactTrace, ...]]
    left_out: tuple[LeftOut, ...]
    relations: Mapping[str, str]

    def __repr__(self) -> str:
        counts = ", ".join(f"{part}: {len(done)}" for part, done in self.by_part.items())
        return f"Traces({self.model}; {counts}; left out: {len(self.left_out)})"

    @property
    def averaged(self) -> dict[str, tuple[FactTrace, ...]]:
        """The traces that are averaged, by part; see `Tracing.corrupts`."""
        return {
            part: tuple(trace for trace in done if self.settings.corrupts(trace.kept_share))
            for part, done in self.by_part.items()
        }

    @property
    def counts(self) -> Counts:
        """How many facts are averaged, and how many are left out for each reason."""
        averaged = self.averaged
        reasons = Counter(fact.why for fact in self.left_out if not fact.part)
        lost = Counter(fact.part for fact in self.left_out)
        return Counts(
            {part: len(done) for part, done in averaged.items()},
            {part: len({trace.relation for trace in done}) for part, done in averaged.items()},
            {why: reasons[why] for why in (WRONG, UNUSABLE, NO_REPLACEMENT)},
            {
                part: {WEAK: len(done) - len(averaged[part]), NO_REPLACEMENT: lost[part]}
                for part, done in self.by_part.items()
            },
        )

    def averages(self, metric: str = "prob", baseline: Baseline = "own") -> TraceAverages:
        """Averages the traces over token buckets and facts.

        Args:
            metric: the metric that tables and figures show.
            baseline: what is subtracted from a restored score: "own", or "pooled" as in ROME's
                notebook (`kedit.results.averages.average`).

        Raises:
            InputError: there is nothing to average.
        """
        kept = {part: done for part, done in self.averaged.items() if done}
        if not kept:
            raise InputError(f"there are no traces to average. {self.counts}")
        seed = self.settings.seed
        effects = [
            average(done, name, baseline, seed) for done in kept.values() for name in done[0].grids
        ]
        return TraceAverages(
            model=self.model,
            settings=self.settings,
            metric=metric,
            baseline=baseline,
            counts=self.counts,
            relations=self.relations,
            total_effects={part: total_effects(done, seed) for part, done in kept.items()},
            total_effects_of_all={
                part: total_effects(self.by_part[part], seed)
                for part, done in kept.items()
                if len(self.by_part[part]) > len(done)
            },
            effects=tuple(effects),
            screens=tuple(
                quality(done, name, metric, seed)
                for done in kept.values()
                for name, grid in done[0].grids.items()
                if grid.screen is not None
            ),
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each indirect effect of each fact."""
        about = ("part", "relation", "subject", "object", "prompt")
        return [
            {name: getattr(trace, name) for name in about} | row
            for done in self.by_part.values()
            for trace in done
            for row in trace.rows()
        ]

    def to_pandas(self) -> "DataFrame":
        """`rows` as a data frame."""
        return frame(self.rows())

    def table(self, part: str = "", metric: str = "prob") -> Table:
        """The table of the averages (`TraceAverages.table`)."""
        return self.averages(metric).table(part)

    def _repr_html_(self) -> str:
        return self.averages()._repr_html_()

    @classmethod
    def load(cls, folder: str | Path) -> "Traces":
        """Reads the traces from a run folder; no model is loaded.

        Raises:
            InputError: the folder has no traces, or they cannot be read.
        """
        path = Path(folder)
        found = TraceAverages.load(path)
        by_part: dict[str, list[FactTrace]] = {part: [] for part in found.settings.parts}
        left_out = []
        for key, record in read_lines(path / "records.jsonl").records.items():
            left_out += left_out_of(record)
            if "traces" in record:  # a study of these traces adds records of its own
                for part, one in _read(path, key, record).items():
                    by_part[part].append(one)
        traces = {part: tuple(done) for part, done in by_part.items()}
        return cls(found.model, found.settings, traces, tuple(left_out), found.relations)


def left_out_of(record: Mapping[str, Any]) -> list[LeftOut]:
    """The fact, or the parts of a fact, that a finished record lists as not traced."""
    if "skipped" in record:
        return [LeftOut(record.get("prompt", ""), record["why"], record["skipped"])]
    return [
        LeftOut(record["traces"][0]["prompt"], NO_REPLACEMENT, reason, part)
        for part, reason in record.get("uncorrupted", {}).items()
    ]


def _read(path: Path, key: str, record: Mapping[str, Any]) -> dict[str, FactTrace]:
    """Reads a fact's traces, by part."""
    file = path / "tensors" / f"{key}.safetensors"
    try:
        tensors, metadata = cache.read(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if cache.checksum_of(tensors, metadata) != record.get("tensors"):
        raise InputError(f"{file} is damaged. Repeat the run's command to compute it again")
    return fact_traces(record, tensors)
