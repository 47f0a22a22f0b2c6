"""Which editor changes a fact best, from which side, and at what cost? Edit, score, undo."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, loaded, open_run
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which editors on which cases, from which side, and what is measured."""

    model: str = options.model()
    editors: str = option(
        default="rome,memit,ft",
        help=f"Any of {', '.join(names())}; each with changes to its settings if wanted: "
        "rome,rome:where=last:training.clamp=2,memit:layers=(4,5). GPT-2 and GPT-J have published "
        "settings; the published ROME is rome:key=legacy:moments=('FILE.npz',), with the authors' "
        "C. Or a tuned.json of tune_editors.",
    )
    perspective: Literal["both", "entity", "relation", "together"] = "both"
    """Which side is edited; both: each by itself; together: both requests of a case in one edit,
    by one editor or by two: "memit&joint", of which either may be left out, as in "memit&"."""
    cases: str = options.cases()
    limit: int = options.n_cases(20)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks()
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind()
    ranks: bool = True
    """Rank each relation's name among all (slower)."""
    say: bool = False
    """Let each edited model speak after its prompts, and look whether it says the target (slow)."""
    seed: int = options.seed("the choice of cases, of contexts, own text and the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("compare_editors")


def run(config: Config) -> Path:
    """Edits, scores, sums up, draws and prints; what is in the run's folder is not done again."""
    from experiments._edit_options import to_edit
    from experiments._printing import console, say, say_unscored, show
    from figures.compare import comparison
    from figures.frontier import of_comparison
    from figures.style import save
    from kedit.data.choose import labels_of
    from kedit.editors.lists import parse_specs
    from kedit.studies.comparing import compare, sides_of
    from kedit.studies.scoring import unscored

    found = to_edit(config, sides_of(config.perspective))
    config = replace(config, cases=found.source)
    with open_run("compare_editors", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        folder.write_json("skipped.json", found.skipped)
        result = compare(
            loaded(config, folder), found.cases, parse_specs(config.editors),
            perspective=found.sides, labels=labels_of(found.every) if config.ranks else (),
            say=config.say, text=config.text, tokens_per_dim=config.tokens_per_dim,
            held_out_text=config.held_out, chunks=config.chunks, chunk_tokens=config.chunk_tokens,
            tuned=config.editors.endswith(".json"), seed=config.seed, journal=folder,
        )  # fmt: skip
        say_unscored(unscored(found.cases, folder), len(found.cases))
        result.save(folder)
        save(comparison(result), folder.path, "comparison")
        save(of_comparison(result), folder.path, "frontier")
        papers, *sides = result.tables()
        for table in (*sides, papers):
            show(table, max(140, 50 + 20 * len(result.editors) // len(sides)))
        console().print(result.note, highlight=False)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and one for each edit of it: what was scored,
                seconds, memory, perplexity and KL of held-out text, norm, and what was wrong
comparison.*    all measures before and after, by edited side and editor: .md, .csv and .json
tests.csv       paired tests of every editor against the first one
comparison.png, frontier.png (and .pdf)   the figures
skipped.json    records of the data that could not be used, with the reason

An edit that is not finite, moves no weight or no logit, or doubles the perplexity of held-out text
is in trouble: it counts as failed, is taken back, and enters all means with the unedited model's
scores. Its own are in records.jsonl.
"""


if __name__ == "__main__":
    command(Config, run)
