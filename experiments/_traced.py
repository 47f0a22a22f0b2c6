"""Runs a tracing, from the options to averages and figures, for all commands that trace facts."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._command import open_run
from experiments._engine import run_study
from experiments._printing import say, say_skipped, show
from experiments._so_far import drawn_so_far
from experiments._trace import DRAWING, Config, settled

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.facts import Fact
    from kedit.journal import Journal
    from kedit.results.traced import Traces
    from kedit.results.tracing import Tracing
    from kedit.run_folder import RunFolder


class Traced(NamedTuple):
    """The traces of a finished run, with its folder, and what a further study has found in them."""

    folder: "RunFolder"
    traces: "Traces"
    found: Any


def tracing(config: Config) -> "Tracing":
    """The settings of tracing that the options describe."""
    from kedit.results.tracing import Tracing

    return Tracing(
        corrupt=config.corrupt, by=config.by, noise=config.noise, samples=config.samples,
        keep_all=config.keep_all, answer=config.answer, sites=tuple(config.sites),
        window=config.window, screen=config.screen, screen_steps=config.screen_steps,
        seed=config.seed,
    )  # fmt: skip


@contextlib.contextmanager
def traced(
    config: Config,
    experiment: str,
    enough: "Callable[[Sequence[Sequence[Fact]], int], None] | None" = None,
    then: "Callable[[HookedTransformer, Traces, Sequence[Fact], Journal], Any] | None" = None,
) -> Iterator[Traced]:
    """Traces facts and writes averages, figures and tables; the folder stays open in the block.

    Args:
        enough: raises InputError if the drawn facts (one list of wordings per fact, in the drawn
            order) and --limit are too few for the study that follows.
        then: the study that follows; it gets the model, the traces, all facts and the journal.
    """
    from kedit.data.choose import of_relations, spread_facts, usable_facts

    config = settled(config)
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped, len(pool))
    facts = of_relations(pool, config.relations)
    if enough is not None:
        enough(spread_facts(facts, config.seed), config.limit)
    with open_run(experiment, config, DRAWING) as folder:
        from probes.studies.tracing import trace_facts

        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", skipped)
        so_far = drawn_so_far(config, folder) if config.spread.engine == "local" else None

        def study(model: "HookedTransformer", journal: "Journal") -> "tuple[Traces, Any]":
            traces = trace_facts(
                model, facts, tracing(config), pool=pool, limit=config.limit, journal=journal,
                so_far=so_far,
            )  # fmt: skip
            return traces, then(model, traces, pool, journal) if then else None

        masked = experiment == "trace_relation"
        traces, found = run_study(config, folder, study, masked)
        _write(config, folder, traces)
        yield Traced(folder, traces, found)


def _write(config: Config, folder: "RunFolder", traces: "Traces") -> None:
    """Writes the averages, draws their figures and prints their tables."""
    from figures.style import save
    from figures.traced import every, single_facts

    averages = traces.averages(config.metric, config.baseline)
    averages.save(folder)
    for name, figure in every(averages):
        save(figure, folder.path, name)
    for name, figure in single_facts(traces, config.heatmaps, config.metric):
        save(figure, folder.path / "facts", name)
    for table in averages.tables():
        show(table)
    for screen in averages.screens:
        say(str(screen))
    say(f"{averages.counts} (records.jsonl gives the reasons).")


_EXPLAINED = """\
config.json    the options
versions.json  the versions of the packages, and the machine
records.jsonl  one line per finished fact: its prompt, tokens and corruption, or the reason why it
               was skipped
tensors/       the scores of each fact (metric x layer x position [x head]): restored, clean and
               corrupted
skipped.json   records of the file of facts that cannot be used, with the reason
averages.json  the numbers of the figures: average effects by bucket of positions, with intervals
table.csv      the same numbers as one table
heads.*        only patch_heads: which heads each relation uses, and how relations compare
kinds.*        only relation_kinds: attention's share of recall by kind of relation
*.png, *.pdf   the figures; while facts are traced, those of the facts so far
"""
