"""Facts that were traced in one way: their traces, and those that were left out."""

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
    """Facts that were traced in one way, and those that were left out.

    Args:
        model: its name.
        settings: how they were traced.
        by_part: every trace, by the part that was corrupted; those too that averages leave out.
        left_out: facts, or parts of them, that were not traced.
        relations: names by id.
    """

    model: str
    settings: Tracing
    by_part: Mapping[str, tuple[FactTrace, ...]]
    left_out: tuple[LeftOut, ...]
    relations: Mapping[str, str]

    def __repr__(self) -> str:
        told = ", ".join(f"{part}: {len(done)}" for part, done in self.by_part.items())
        return f"Traces({self.model}; {told}; left out: {len(self.left_out)})"

    @property
    def averaged(self) -> dict[str, tuple[FactTrace, ...]]:
        """The traces whose corruption took enough (`Tracing.corrupts`), by part."""
        return {
            part: tuple(one for one in done if self.settings.corrupts(one.kept_share))
            for part, done in self.by_part.items()
        }

    @property
    def counts(self) -> Counts:
        """How many facts are averaged, and how many are not."""
        kept = self.averaged
        reasons = Counter(one.why for one in self.left_out if not one.part)
        lost = Counter(one.part for one in self.left_out)
        return Counts(
            {part: len(done) for part, done in kept.items()},
            {part: len({trace.relation for trace in done}) for part, done in kept.items()},
            {why: reasons[why] for why in (WRONG, UNUSABLE, NO_REPLACEMENT)},
            {
                part: {WEAK: len(done) - len(kept[part]), NO_REPLACEMENT: lost[part]}
                for part, done in self.by_part.items()
            },
        )

    def averages(self, metric: str = "prob", baseline: Baseline = "own") -> TraceAverages:
        """Averages over token buckets and facts, what the corruption costs, and the screens.

        Args:
            metric: which score tables and figures show.
            baseline: what is subtracted from a restored score; "pooled" as in ROME's notebook.

        Raises:
            InputError: there is nothing to average.
        """
        kept = {part: done for part, done in self.averaged.items() if done}
        if not kept:
            raise InputError(f"no fact could be traced: {self.counts}")
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
        """Every indirect effect of every fact, a row each."""
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
        """The table of their averages."""
        return self.averages(metric).table(part)

    def _repr_html_(self) -> str:
        return self.averages()._repr_html_()

    @classmethod
    def load(cls, folder: str | Path) -> "Traces":
        """The traces that a run's folder holds; no model is loaded.

        Raises:
            InputError: there are none, or they cannot be read.
        """
        path = Path(folder)
        told = TraceAverages.load(path)
        by_part: dict[str, list[FactTrace]] = {part: [] for part in told.settings.parts}
        left_out = []
        for key, record in read_lines(path / "records.jsonl").records.items():
            left_out += left_out_of(record)
            if "traces" in record:  # a study of these traces adds records of its own
                for part, one in _read(path, key, record).items():
                    by_part[part].append(one)
        traces = {part: tuple(done) for part, done in by_part.items()}
        return cls(told.model, told.settings, traces, tuple(left_out), told.relations)


def left_out_of(record: Mapping[str, Any]) -> list[LeftOut]:
    """What a finished record says was not traced."""
    if "skipped" in record:
        return [LeftOut(record.get("prompt", ""), record["why"], record["skipped"])]
    return [
        LeftOut(record["traces"][0]["prompt"], NO_REPLACEMENT, reason, part)
        for part, reason in record.get("uncorrupted", {}).items()
    ]


def _read(path: Path, key: str, record: Mapping[str, Any]) -> dict[str, FactTrace]:
    """A fact's traces, by part."""
    file = path / "tensors" / f"{key}.safetensors"
    try:
        tensors, told = cache.read(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if cache.checksum_of(tensors, told) != record.get("tensors"):
        raise InputError(f"{file} is damaged: the run's command, given again, makes it anew")
    return fact_traces(record, tensors)
