"""Splits cases into parts for tuning, validation and test, before anything is measured on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded


@dataclass(frozen=True)
class Config:
    """Which cases are split, and how many go into each part."""

    model: str = options.model()
    cases: str = option(
        default="auto",
        help="The cases, as build_rake writes them (auto: what it wrote), or builtin.",
    )
    known: Literal["preferred", "answered"] = "preferred"
    """Which cases are used. preferred: the model finds the true object likelier than the new one.
    answered: it also answers the prompt with the true object."""
    tune: int = 250
    """The most cases for tuning, on which settings are chosen."""
    validate: int = 220
    """The most cases for validation, on which a choice is confirmed."""
    test: int = 0
    """The most cases for the final test; 0: all that are left."""
    seen: int = 10
    """The number of cases that earlier tuning used: the first that compare_editors draws with this
    seed. They go into the part for tuning or into none."""
    seed: int = options.seed("the draw of cases")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = option(
        default="", help="The folder of the files (default: results/split_cases/MODEL-HASH)."
    )


def run(config: Config) -> Path:
    """Scores which objects the model prefers, splits by subject, and writes one file per part."""
    from dataclasses import replace

    from experiments._printing import say, say_skipped, show
    from kedit.data.choose import cases_source, usable_cases
    from kedit.studies.splits import lines_of, split_known

    config = replace(config, cases=cases_source(config.cases, config.model))
    cases, skipped = usable_cases(config.cases)
    say_skipped(config.cases, skipped, len(cases))
    sizes = {"tune": config.tune, "validate": config.validate, "test": config.test}
    with open_run("split_cases", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        model = loaded(config, folder)
        splits = split_known(
            model, cases, sizes, known=config.known, seen=config.seen, seed=config.seed,
            journal=folder,
        )  # fmt: skip
        for part, lines in lines_of(config.cases, cases, splits.parts).items():
            folder.write(f"{part}.jsonl", lines)
        splits.save(folder)
        show(splits.table())
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
tune.jsonl, validate.jsonl, test.jsonl   the records of each part; those of a file are unchanged
splits.json      ids, numbers by relation, and what was left out
splits.csv       the number of cases of each relation in each part
records.jsonl    log-probabilities of the true and the new object after the prompt of each edit

A case is in a part only if the model knows it (--known). No subject is in two parts. The cases of
each relation go to the parts in turn, so that every part has about the same number of them.
"""


if __name__ == "__main__":
    command(Config, run)
