"""Compares editors: how well each changes facts, from which side, and at what cost."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, open_run
from experiments._engine import run_study
from experiments._forms import PUBLISHED
from experiments._spread import Spread
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which editors edit which cases, from which side, and what is measured."""

    model: str = options.model()
    editors: str = option(
        default="rome,memit,ft",
        help=f"The editors, comma-separated: any of {', '.join(names())}, each with changes to its "
        "settings, as in rome,rome:where=last:training.clamp=2,memit:layers=(4,5); or a tuned.json "
        f"of tune_editors. {PUBLISHED}",
    )
    perspective: Literal["both", "entity", "relation", "together"] = "both"
    """The side that is edited. both: each side in an edit of its own. together: both requests of a
    case in one edit, by one editor, or by two as in "memit&joint" (entity side & relation side);
    "memit&" edits the entity side only."""
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
    """Measure the rank of each relation's name among all relation names (slower)."""
    say: bool = False
    """Generate text with each edited model, and measure whether it opens with the target (slow)."""
    seed: int = options.seed(
        "the choice of cases, the contexts, the text of self, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("compare_editors")
    spread: Spread = option(default_factory=Spread)


def run(config: Config) -> Path:
    """Edits and scores cases, draws and prints; finished edits in the run's folder are reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show, show_text
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
        result = run_study(config, folder, lambda model, journal: compare(
            model, found.cases, parse_specs(config.editors),
            perspective=found.sides, labels=labels_of(found.every) if config.ranks else (),
            say=config.say, text=config.text, tokens_per_dim=config.tokens_per_dim,
            held_out_text=config.held_out, chunks=config.chunks, chunk_tokens=config.chunk_tokens,
            tuned=config.editors.endswith(".json"), seed=config.seed, journal=journal,
        ))  # fmt: skip
        say_unscored(unscored(found.cases, folder), len(found.cases))
        result.save(folder)
        save(comparison(result), folder.path, "comparison")
        save(of_comparison(result), folder.path, "frontier")
        papers, *sides = result.tables()
        for table in (*sides, papers):
            show(table, max(140, 50 + 20 * len(result.editors) // len(sides)))
        show_text(result.note)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and one for each edit of it: scores, seconds,
                memory, perplexity and KL of held-out text, norm, and trouble
comparison.*    all measures before and after, by edited side and editor: .md, .csv and .json
tests.csv       paired tests of every editor against the first one
comparison.png, frontier.png (and .pdf)   the figures
skipped.json    records of the data that could not be used, with the reason

An edit is in trouble if it is not finite, moves no weight or no logit, or doubles the perplexity of
held-out text. It counts as failed and is undone: in all means it has the scores of the unedited
model. Its own scores are in records.jsonl.
"""


if __name__ == "__main__":
    command(Config, run)
