"""From a run's traces to its averages, figures and closing table."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._facts import of_relations, say_skipped, spread_out, usable_facts
from experiments._run import RunFolder, console, file_name, open_run
from experiments._screens import in_words, screened
from experiments._tables import listed, plain_table, write_rows
from experiments._trace import (
    DRAWING,
    NO_REPLACEMENT,
    UNUSABLE,
    WEAK,
    WRONG,
    Config,
    corrupting,
    corruption_in_words,
    settled,
    trace_facts,
)

if TYPE_CHECKING:
    from kedit.facts import Fact
    from kedit.results.traces import AverageEffect, FactTrace
    from kedit.stats import Interval

MAPPED = ("resid_post", "mlp_out", "attn_out")
ORDINARY, SEVERED = "resid_post", ("resid_post-severed-mlp_out", "resid_post-severed-attn_out")


def traced(
    experiment: str,
    config: Config,
    more: "Callable[[Config, RunFolder, Mapping[str, Sequence[FactTrace]]], None] | None" = None,
    enough: "Callable[[Sequence[Sequence[Fact]], int], None] | None" = None,
) -> Path:
    """A whole tracing experiment, from its configuration to its folder.

    Args:
        more: what else is made of the traces, by part.
        enough: raises InputError where the facts, in their order, and so many of them are too few
            for that.
    """
    config = settled(config)
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
    order = spread_out(of_relations(pool, config.relations), config.seed)
    if enough is not None:
        enough(order, config.limit)
    with open_run(experiment, config, DRAWING) as folder:
        folder.write_json("skipped.json", skipped)
        traces = trace_facts(config, folder, pool, order)
        names = {worded[0].relation.id: worded[0].relation.name for worded in order}
        finish(config, folder, traces, names)
        if more is not None:
            more(config, folder, corrupting(config, traces))
        console().print(f"Everything is in {folder.path}", soft_wrap=True)
    return folder.path


def finish(
    config: Config,
    folder: RunFolder,
    every: "Mapping[str, Sequence[FactTrace]]",
    names: Mapping[str, str] | None = None,
) -> None:
    """Averages, figures and tables into the folder; the table to the screen.

    Args:
        every: traces by part, those too that are left out of the averages.
        names: of relations, by their ids.

    Raises:
        InputError: there is nothing to average.
    """
    from kedit.errors import InputError
    from probes.trace import average, total_effects

    traces = corrupting(config, every)
    counted = _counted(config, folder, every)
    if not any(traces.values()):
        raise InputError(f"no fact could be traced: {_told(counted)}; see {folder.path}")
    averages = {
        part: {name: average(done, name, config.baseline, config.seed) for name in done[0].grids}
        for part, done in traces.items()
        if done
    }
    totals = {part: total_effects(done, config.seed) for part, done in traces.items() if done}
    with_all = {
        part: total_effects(every[part], config.seed)
        for part in totals
        if len(every[part]) > len(traces[part])
    }
    screens = screened(config, traces)
    folder.write_json(
        "averages.json",
        {
            "facts": counted,
            "left out": _told(counted),
            "screens": screens,
            "relations": dict(names or {}),
            "total effects": _listed(totals),
            "total effects of all": _listed(with_all),
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
        own = [row for row in rows if row["part"] == part]
        screen.print(_table(config, part, counted, total, with_all.get(part), own))
    for one in screens:
        screen.print(in_words(one))
    screen.print(f"{_told(counted)} (records.jsonl says why).", markup=False, highlight=False)


def _listed(totals: "Mapping[str, Mapping[str, Interval]]") -> dict[str, Any]:
    return {
        part: {name: listed(interval._asdict()) for name, interval in total.items()}
        for part, total in totals.items()
    }


def _counted(
    config: Config, folder: RunFolder, every: "Mapping[str, Sequence[FactTrace]]"
) -> dict[str, Any]:
    """How many facts are averaged, by part, and how many are left out, by reason."""
    traces, records = corrupting(config, every), folder.records.values()
    reasons = Counter(record["why"] for record in records if "skipped" in record)
    lost = Counter(part for record in records for part in record.get("uncorrupted", ()))
    return {
        "traced": {part: len(done) for part, done in traces.items()},
        "relations": {
            part: len({trace.relation for trace in done}) for part, done in traces.items()
        },
        "left out": {why: reasons[why] for why in (WRONG, UNUSABLE, NO_REPLACEMENT)},
        "left out of one part": {
            part: {WEAK: len(done) - len(traces[part]), NO_REPLACEMENT: lost[part]}
            for part, done in every.items()
        },
    }


def _told(counted: Mapping[str, Any]) -> str:
    """How many facts are left out, and why."""
    in_words = {
        WRONG: "that the model answers otherwise",
        UNUSABLE: "that could not be used",
        NO_REPLACEMENT: "without words of as many tokens to put in the place of theirs",
        WEAK: "whose answer keeps more than half of its probability (--keep-all keeps them)",
    }
    of_all = counted["left out"]
    of_parts = counted["left out of one part"]
    told = []
    groups = {"": of_all} | {f"of the {part}'s ": own for part, own in of_parts.items()}
    for whose, reasons in groups.items():
        counts = [f"{n} {in_words[why]}" for why, n in reasons.items() if n]
        if counts:
            told.append(f"{whose}{', '.join(counts)}")
    lost = sum(reasons[NO_REPLACEMENT] for reasons in (of_all, *of_parts.values()))
    if lost > sum(counted["traced"].values()):
        told.append("--by noise needs no other words")
    return f"Facts left out: {'; '.join(told) or 'none'}"


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
        study = Study(len(traces[part]), f"the {part}'s {how}", config.metric, config.seed,
                      config.model)  # fmt: skip
        mapped = [grids[name] for name in grids if name in MAPPED]
        if mapped:
            save(maps(mapped, study, totals[part]["total effect"]), folder.path, f"{part}-maps")
        if "z" in grids:
            save(heads(grids["z"], study), folder.path, f"{part}-heads")
        cut = [grids[name] for name in SEVERED if name in grids]
        if cut and ORDINARY in grids:
            figure = severed(grids[ORDINARY], cut, study, totals[part]["total effect"])
            save(figure, folder.path, f"{part}-severed")
        for trace in traces[part][: config.heatmaps]:
            for name in trace.grids:
                if "severed" not in name:
                    title = file_name(f"{part}-{trace.relation}-{trace.subject}-{name}")
                    figure = heatmap(trace, name, config.metric, config.model)
                    save(figure, folder.path / "facts", title)
    both = [
        [averages[part][name] for name in averages[part] if name in MAPPED] for part in averages
    ]
    if len(both) == 2 and both[0]:
        counts = tuple(map(len, traces.values()))
        study = Study(counts, how, config.metric, config.seed, config.model)
        whole = {part: total["total effect"] for part, total in totals.items()}
        relation, subject = both
        save(sides(relation, subject, study, whole), folder.path, "relation-against-subject")


def _rows(
    config: Config, averages: "Mapping[str, Mapping[str, AverageEffect]]"
) -> Iterator[dict[str, Any]]:
    """The peak of each grid and bucket: layer (and head), average effect, interval.

    A bucket of too few facts (`AverageEffect.enough`) has no peak.
    """
    import numpy as np

    from kedit.forward.metrics import METRICS

    metric = METRICS.index(config.metric)
    for part, grids in averages.items():
        for name, effect in grids.items():
            for index, bucket in enumerate(effect.buckets):
                row = {
                    "part": part,
                    "grid": name,
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


def _table(
    config: Config,
    part: str,
    counted: Mapping[str, Any],
    total: "Mapping[str, Interval]",
    with_all: "Mapping[str, Interval] | None",
    rows: Sequence[Mapping[str, Any]],
):
    from figures.style import plural

    scores = _scores(config, total)
    if with_all is not None:
        n_weak = counted["left out of one part"][part][WEAK]
        scores += f".\nWith the {n_weak} that it harms too little: {_scores(config, with_all)}"
    spread = f"95 % bootstrap interval over facts (seed {config.seed})"
    if counted["traced"][part] == 1:
        spread = "no interval over a single fact"
    names = list(dict.fromkeys(row["grid"] for row in rows if "severed" not in row["grid"]))
    heads = [f"{name}, window {config.window}" if name.endswith("_out") else name for name in names]
    table = plain_table(
        f"Corrupted {part}: where restoring brings the answer back ({config.metric})",
        (
            f"{plural(counted['traced'][part], 'fact')}, "
            f"{plural(counted['relations'][part], 'relation')}; {scores}.\n"
            f"Peak layer, average indirect effect, {spread}; the peak is chosen on the same facts, "
            "and not where too few of them have such tokens."
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


def _scores(config: Config, total: "Mapping[str, Interval]") -> str:
    from figures.style import estimate
    from kedit.forward.metrics import METRICS

    metric = METRICS.index(config.metric)
    return ", ".join(
        f"{name} {estimate(*(float(values[metric]) for values in interval))}"
        for name, interval in total.items()
    )


def _cell(row: Mapping[str, Any]) -> str:
    from figures.style import estimate, plural

    if "layer" not in row:
        return f"only {plural(row['facts'], 'fact')}" if row["facts"] else "-"
    where = f"L{row['layer']}" + (f"H{row['head']}" if row["head"] != "" else "")
    return f"{where} {estimate(row['effect'], row['low'], row['high'])}"
