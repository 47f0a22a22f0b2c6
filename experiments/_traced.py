"""A run of tracing, from its options to its averages, for all commands that trace facts."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from experiments._command import loaded, open_run
from experiments._printing import say, say_skipped, show
from experiments._trace import DRAWING, Config, settled

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.facts import Fact
    from kedit.results.traced import Traces
    from kedit.results.tracing import Tracing
    from kedit.run_folder import RunFolder


class Traced(NamedTuple):
    """A finished run: its traces, and what further studies of them need."""

    folder: "RunFolder"
    model: "HookedTransformer"
    facts: "Sequence[Fact]"
    traces: "Traces"


def tracing(config: Config) -> "Tracing":
    """How the options have facts traced."""
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
) -> Iterator[Traced]:
    """A run of tracing, with its averages, figures and tables; its folder stays open.

    Args:
        enough: raises InputError where facts, in their order, are too few for what is made of them.
    """
    from kedit.data.choose import of_relations, spread_facts, usable_facts

    config = settled(config)
    pool, skipped = usable_facts(config.facts)
    say_skipped(config.facts, skipped)
    facts = of_relations(pool, config.relations)
    if enough is not None:
        enough(spread_facts(facts, config.seed), config.limit)
    with open_run(experiment, config, DRAWING) as folder:
        from probes.studies.tracing import trace_facts

        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", skipped)
        model = loaded(config, folder)
        traces = trace_facts(
            model, facts, tracing(config), pool=pool, limit=config.limit, journal=folder
        )
        _write(config, folder, traces)
        yield Traced(folder, model, pool, traces)


def _write(config: Config, folder: "RunFolder", traces: "Traces") -> None:
    """Averages, their figures and tables."""
    from figures.style import save
    from figures.traced import every, single_facts

    averages = traces.averages(config.metric, config.baseline)
    averages.save(folder)
    for name, figure in every(averages):
        save(figure, folder.path, name)
    for name, figure in single_facts(traces, config.heatmaps, config.metric):
        save(figure, folder.path / "facts", name)
    for part in averages.parts:
        show(averages.table(part))
    for screen in averages.screens:
        say(str(screen))
    say(f"{averages.counts} (records.jsonl says why).")


_EXPLAINED = """\
config.json    what was asked for
versions.json  the packages and the machine
records.jsonl  one line a fact as it is finished: prompt, tokens, corruption; or why it was skipped
tensors/       its scores (metric x layer x position [x head]), restored, clean and corrupted
skipped.json   records of the file of facts that cannot be used, with the reason
averages.json  what the figures show: average effects by bucket, with intervals
*.png, *.pdf   the figures
"""
