"""From a run's traces to its averages, figures and closing table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._run import RunFolder, console, open_run
from experiments._screens import in_words, screened
from experiments._tables import listed, plain_table, write_rows
from experiments._trace import DRAWING, Config, corruption_in_words, settled, trace_facts

if TYPE_CHECKING:
    from kedit.results import AverageEffect, FactTrace
    from kedit.stats import Interval

MAPPED = ("resid_post", "mlp_out", "attn_out")
ORDINARY, SEVERED = "resid_post", ("resid_post-severed-mlp_out", "resid_post-severed-attn_out")


def traced(
    experiment: str,
    config: Config,
    more: "Callable[[Config, RunFolder, Mapping[str, Sequence[FactTrace]]], None] | None" = None,
) -> Path:
    """A whole tracing experiment, from its configuration to its folder.

    Args:
        more: what else is made of the traces, by part.
    """
    config = settled(config)
    with open_run(experiment, config, DRAWING) as folder:
        traces = trace_facts(config, folder)
        finish(config, folder, traces)
        if more is not None:
            more(config, folder, traces)
        console().print(f"Everything is in [bold]{folder.path}[/bold]")
    return folder.path


def finish(config: Config, folder: RunFolder, traces: "Mapping[str, Sequence[FactTrace]]") -> None:
    """Averages, figures and tables into the folder; the table to the screen.

    Raises:
        InputError: no fact could be traced.
    """
    from kedit.errors import InputError
    from probes.trace import average, total_effects

    counted = _counted(folder, traces)
    wrong, unusable = counted["answered wrong"], counted["not usable"]
    if not any(traces.values()):
        raise InputError(f"no fact could be traced ({wrong} answered wrong): see {folder.path}")
    averages = {
        part: {name: average(done, name, config.baseline, config.seed) for name in done[0].grids}
        for part, done in traces.items()
        if done
    }
    totals = {part: total_effects(done, config.seed) for part, done in traces.items() if done}
    screens = screened(config, traces)
    folder.write_json(
        "averages.json",
        {
            "facts": counted,
            "screens": screens,
            "total effects": {
                part: {name: listed(interval._asdict()) for name, interval in total.items()}
                for part, total in totals.items()
            },
            "averages": [
                listed(vars(effect)) for grids in averages.values() for effect in grids.values()
            ],
        },
    )
    _draw(config, folder, traces, averages, totals)
    screen = console()
    rows = list(_rows(config, averages))
    write_rows(folder.path / "table.csv", rows)
    for part, total in totals.items():
        screen.print(
            _table(config, part, counted, total, [row for row in rows if row["part"] == part])
        )
    for one in screens:
        screen.print(in_words(one))
    screen.print(
        f"{wrong} facts that the model answers otherwise and {unusable} that could not "
        "be used are left out (records.jsonl says why)."
    )


def _counted(folder: RunFolder, traces: "Mapping[str, Sequence[FactTrace]]") -> dict[str, Any]:
    """How many facts were traced, by part, and how many could not be."""
    reasons = [record["skipped"] for record in folder.records.values() if "skipped" in record]
    wrong = sum(reason.startswith("it says") for reason in reasons)
    return {
        "traced": {part: len(done) for part, done in traces.items()},
        "relations": {
            part: len({trace.relation for trace in done}) for part, done in traces.items()
        },
        "answered wrong": wrong,
        "not usable": len(reasons) - wrong,
    }


def _draw(
    config: Config,
    folder: RunFolder,
    traces: "Mapping[str, Sequence[FactTrace]]",
    averages: "Mapping[str, Mapping[str, AverageEffect]]",
    totals: "Mapping[str, Mapping[str, Interval]]",
) -> None:
    """Every figure that the measured grids allow, as PNG and PDF."""
    from figures.curves import severed, sides
    from figures.heads import heads
    from figures.style import Study, save
    from figures.trace import averages as maps
    from figures.trace import heatmap

    how = corruption_in_words(config)
    for part, grids in averages.items():
        study = Study(len(traces[part]), f"the {part}'s {how}", config.metric, config.seed)
        mapped = [grids[name] for name in grids if name in MAPPED]
        if mapped:
            save(maps(mapped, study, totals[part]["total effect"]), folder.path, f"{part}-maps")
        if "z" in grids:
            save(heads(grids["z"], study), folder.path, f"{part}-heads")
        cut = [grids[name] for name in SEVERED if name in grids]
        if cut and ORDINARY in grids:
            save(severed(grids[ORDINARY], cut, study), folder.path, f"{part}-severed")
        for trace in traces[part][: config.heatmaps]:
            for name in trace.grids:
                if "severed" not in name:
                    title = f"{part}-{trace.relation}-{trace.subject}-{name}".replace("/", "_")
                    save(heatmap(trace, name, config.metric), folder.path / "facts", title)
    both = [
        [averages[part][name] for name in averages[part] if name in MAPPED] for part in averages
    ]
    if len(both) == 2 and both[0]:
        study = Study(len(next(iter(traces.values()))), how, config.metric, config.seed)
        relation, subject = both
        save(sides(relation, subject, study), folder.path, "relation-against-subject")


def _rows(
    config: Config, averages: "Mapping[str, Mapping[str, AverageEffect]]"
) -> Iterator[dict[str, Any]]:
    """The peak of each grid and bucket: layer (and head), average effect, interval."""
    import numpy as np

    from kedit.metrics import METRICS

    metric = METRICS.index(config.metric)
    for part, grids in averages.items():
        for name, effect in grids.items():
            for index, bucket in enumerate(effect.buckets):
                row = {
                    "part": part,
                    "grid": name,
                    "bucket": bucket,
                    "tokens": effect.n_tokens[index],
                }
                mean = effect.mean[metric, index]
                if effect.n_tokens[index]:
                    peak = np.unravel_index(np.argmax(mean), mean.shape)
                    at = (metric, index, *peak)
                    row |= {
                        "facts": effect.n_facts[index],
                        "layer": int(peak[0]),
                        "head": int(peak[1]) if len(peak) > 1 else "",
                        "effect": float(mean[peak]),
                        "low": float(effect.low[at]),
                        "high": float(effect.high[at]),
                    }
                yield row


def _table(
    config: Config,
    part: str,
    counted: Mapping[str, Any],
    total: "Mapping[str, Interval]",
    rows: Sequence[Mapping[str, Any]],
):
    from kedit.metrics import METRICS

    metric = METRICS.index(config.metric)
    scores = ", ".join(
        f"{name} {mean[metric]:.2f} [{low[metric]:.2f}, {high[metric]:.2f}]"
        for name, (mean, low, high) in total.items()
    )
    names = list(dict.fromkeys(row["grid"] for row in rows if "severed" not in row["grid"]))
    heads = [f"{name}, window {config.window}" if name.endswith("_out") else name for name in names]
    table = plain_table(
        f"Corrupted {part}: where restoring brings the answer back ({config.metric})",
        (
            f"{counted['traced'][part]} facts, {counted['relations'][part]} relations; {scores}.\n"
            "Peak layer, average indirect effect, 95 % bootstrap interval over facts (seed "
            f"{config.seed}); the peak is chosen on the same facts."
        ),
        ("token", *heads),
    )
    severed = [row for row in rows if "severed" in row["grid"] and row["tokens"]]
    for bucket in dict.fromkeys(row["bucket"] for row in rows):
        cells = [row for row in rows if row["bucket"] == bucket and row["grid"] in names]
        table.add_row(bucket, *(_cell(row) for row in cells))
    for row in severed:
        if row["bucket"] == "last corrupted":
            held = row["grid"].split("-")[-1].removesuffix("_out")
            table.add_row(f"  with {held} severed", _cell(row), *[""] * (len(names) - 1))
    return table


def _cell(row: Mapping[str, Any]) -> str:
    if not row["tokens"]:
        return "-"
    where = f"L{row['layer']}" + (f"H{row['head']}" if row["head"] != "" else "")
    return f"{where} {row['effect']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
