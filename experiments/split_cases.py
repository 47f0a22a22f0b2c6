"""Cases to tune on, to validate with and to test with, before the first number is seen."""

from dataclasses import dataclass
from pathlib import Path

from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """Which cases, and how many of them for what."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    cases: str = "auto"
    """A file of records, as build_rake writes them (auto: what it wrote)."""
    tune: int = 250
    """Cases that settings are chosen on, at most."""
    validate: int = 220
    """Cases that a choice is confirmed on, at most."""
    test: int = 0
    """Cases that are looked at once, at most; 0: all that are left."""
    seen: int = 10
    """So many cases, the first that compare_editors draws by the seed, were tuned on already."""
    seed: int = 0
    """Of the draw."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    out: str = ""
    """The folder of the files (default: results/split_cases/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Scores what the model prefers, splits by subject, and writes a file for each part."""
    from dataclasses import replace

    from experiments._score import benchmark, chosen, score_cases
    from experiments._splits import PARTS, finish, own_prompt_only, preferred, split
    from kedit.errors import InputError
    from kedit.scoring.score import Scoring

    config = replace(config, cases=chosen(config.cases, config.model))
    cases, _ = benchmark(config.cases)
    with open_run("split_cases", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        efficacy = [own_prompt_only(case) for case in cases]
        scores = score_cases(folder, model, efficacy, Scoring(say=False), 0)
        known = preferred(cases, scores)
        if not known:
            raise InputError(f"{config.cases}: the model prefers the true object in no case")
        sizes = dict(zip(PARTS, (config.tune, config.validate, config.test), strict=True))
        parts = split(cases, known, sizes, config.seen, config.seed)
        finish(config, folder, cases, known, parts)
    return folder.path


_EXPLAINED = """\
tune.jsonl, validate.jsonl, test.jsonl   the records of each part, as they are in the source
splits.json      ids, numbers by relation, and what was left out
records.jsonl    how likely the model finds the true and the new object after each edit's prompt

Only cases whose true object the model finds likelier than the new one are in any part. No subject
is in two of them. Relations take turns, so that every part has as many as possible of each.
"""


if __name__ == "__main__":
    command(Config, run)
