"""Cases to tune on, to validate with and to test with, before the first number is seen."""

from dataclasses import dataclass
from pathlib import Path

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, loaded, open_run


@dataclass(frozen=True)
class Config:
    """Which cases, and how many of them for what."""

    model: str = options.model()
    cases: str = option(
        default="auto", help="A file of records, as build_rake writes them (auto: what it wrote)."
    )
    tune: int = 250
    """Cases that settings are chosen on, at most."""
    validate: int = 220
    """Cases that a choice is confirmed on, at most."""
    test: int = 0
    """Cases that are looked at once, at most; 0: all that are left."""
    seen: int = 10
    """So many cases, the first that compare_editors draws by the seed, were tuned on already."""
    seed: int = options.seed("the draw")
    device: str = options.device()
    out: str = option(
        default="", help="The folder of the files (default: results/split_cases/MODEL-HASH)."
    )


def run(config: Config) -> Path:
    """Scores what the model prefers, splits by subject, and writes a file for each part."""
    from dataclasses import replace

    from experiments._printing import say, show
    from kedit.data.choose import cases_source, usable_cases
    from kedit.studies.splits import lines_of, split_by_preference

    config = replace(config, cases=cases_source(config.cases, config.model))
    cases, _ = usable_cases(config.cases)
    sizes = {"tune": config.tune, "validate": config.validate, "test": config.test}
    with open_run("split_cases", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        model = loaded(config, folder)
        splits = split_by_preference(
            model, cases, sizes, seen=config.seen, seed=config.seed, journal=folder
        )
        for part, lines in lines_of(config.cases, splits.parts).items():
            folder.write(f"{part}.jsonl", lines)
        splits.save(folder)
        show(splits.table())
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
tune.jsonl, validate.jsonl, test.jsonl   the records of each part, as they are in the source
splits.json      ids, numbers by relation, and what was left out
splits.csv       cases of each relation in each part
records.jsonl    how likely the model finds the true and the new object after each edit's prompt

Only cases whose true object the model finds likelier than the new one are in any part. No subject
is in two of them. Relations take turns, so that every part has as many as possible of each.
"""


if __name__ == "__main__":
    command(Config, run)
