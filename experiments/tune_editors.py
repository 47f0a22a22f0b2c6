"""Tunes editors: tries the same number of settings for each, on the same cases."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, open_run
from experiments._engine import run_study
from experiments._spread import Spread


@dataclass(frozen=True)
class Config:
    """Which editors are tuned, on which cases, and how many settings of each are tried."""

    model: str = options.model()
    editors: str = "rome,memit,rome@last,w_out,w_o,joint"
    """The editors, comma-separated; settings that are given stay fixed, as in rome:layer=5."""
    perspective: Literal["entity", "relation"] = "relation"
    """The side that is edited; only the test prompts of this side are scored."""
    tries: int = 8
    """The number of settings to try per editor. The first are its settings for the model."""
    space: str = ""
    """A JSON file with the values of each field, as in {"training.clamp": [0.5, 1]}. Empty: kedit's
    own values."""
    cases: str = options.cases("Use cases for tuning only: the tune.jsonl of split_cases.")
    limit: int = options.n_cases(16)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks(1)
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind(2)
    seed: int = options.seed(
        "the tried settings, the choice of cases, the contexts, the text of self, and the bootstrap"
    )
    save: bool = False
    """Save the best settings of each editor for this model: from then on, all commands use them."""
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("tune_editors")
    spread: Spread = option(default_factory=Spread)


def run(config: Config) -> Path:
    """Tries settings, draws and prints; finished edits in the run's folder are used again."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show
    from figures.frontier import of_tuning
    from figures.style import save
    from figures.tuning import tuning
    from kedit.editors.lists import parse_specs
    from kedit.studies.prepare import one_sided
    from kedit.studies.scoring import unscored
    from kedit.studies.tuning import read_space, tune

    found = to_edit(config, [config.perspective])
    config = replace(config, cases=found.source)
    cases = one_sided(found.cases, config.perspective)
    with open_run("tune_editors", config, outside=("save",)) as folder:
        folder.write("README.txt", _EXPLAINED)
        result = run_study(config, folder, lambda model, journal: tune(
            model, cases, parse_specs(config.editors),
            perspective=config.perspective, tries=config.tries,
            space=read_space(config.space) if config.space else None, text=config.text,
            tokens_per_dim=config.tokens_per_dim, held_out_text=config.held_out,
            chunks=config.chunks, chunk_tokens=config.chunk_tokens, seed=config.seed,
            journal=journal,
        ))  # fmt: skip
        say_unscored(unscored(cases, folder), len(cases))
        result.save(folder)
        save(tuning(result), folder.path, "tuning")
        save(of_tuning(result), folder.path, "frontier")
        show(result.table(), 180)
        if config.save:
            say(f"The best settings are saved, and used from now on: {result.save_settings()}")
        say("To compare the tuned editors on other cases:")
        file = folder.path / result.FILE
        say(f"python -m experiments.compare_editors --editors {file}")
    return folder.path


_EXPLAINED = """\
tuned.json      each editor with its best settings, and all settings that were tried;
                give it to compare_editors as --editors tuned.json
tries.csv       every try: its settings, its Score, and the shares that the Score combines
tuning.png, frontier.png (and .pdf)   the figures
records.jsonl   a line for each case before any edit, and one for each edit of it

Score: the harmonic mean of the shares that an edit gained (of what was missing before it) and kept
(of what was there before it), by success and by magnitude. If the Score of a try is 0, the Score by
magnitude alone decides, then the plain mean. An edit in trouble (kedit.editing.checks) counts as no
edit. The best of several tries looks better than it is: measure it on other cases.
"""


if __name__ == "__main__":
    command(Config, run)
