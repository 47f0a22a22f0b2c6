"""Makes many edits in one model, by each editor: what is gained, and what is left of the first."""

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
    """Which editors make how many edits in one model."""

    model: str = options.model()
    editors: str = option(
        default="rome,memit,joint",
        help=f"The editors, comma-separated: any of {', '.join(names())}, each with changes to its "
        f"settings. {PUBLISHED}",
    )
    counts: list[int] = option(
        default_factory=lambda: [1, 10, 100],
        help="The numbers of edits in one model. At each number all cases are edited, in as many "
        "models as this takes.",
    )
    order: Literal["both", "batch", "sequential"] = "both"
    """How the edits of a model are made. batch: one edit of all facts. sequential: one edit after
    the other, each made on the model with the edits before it. Editors that edit fact by fact, such
    as rome, do the same in both."""
    perspective: Literal["entity", "relation"] = "entity"
    """The side that is edited."""
    cases: str = options.cases("")
    limit: int = options.n_cases(100)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks(2)
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind()
    seed: int = options.seed(
        "the choice of cases, the contexts, the text of --text self, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("edit_many")
    spread: Spread = option(default_factory=Spread)


def run(config: Config) -> Path:
    """Edits and scores, draws and prints; finished models in the run's folder are reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show
    from figures.many_edits import many_edits
    from figures.style import save
    from kedit.editors.lists import parse_specs
    from kedit.results.many_edits import ORDERS
    from kedit.studies.many_edits import compare_many
    from kedit.studies.scoring import unscored

    found = to_edit(config, [config.perspective])
    config = replace(config, cases=found.source)
    with open_run("edit_many", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        result = run_study(config, folder, lambda model, journal: compare_many(
            model, found.cases, parse_specs(config.editors), counts=config.counts,
            orders=[order for order in ORDERS if config.order in ("both", order)],
            perspective=config.perspective, text=config.text,
            tokens_per_dim=config.tokens_per_dim, held_out_text=config.held_out,
            chunks=config.chunks, chunk_tokens=config.chunk_tokens, seed=config.seed,
            journal=journal,
        ))  # fmt: skip
        say_unscored(unscored(found.cases, folder), len(found.cases))
        result.save(folder)
        save(many_edits(result), folder.path, "many_edits")
        show(result.table(), 160)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl    a line for each case before any edit, and one for each edited model: the scores of
                 its cases, held-out text, and which cases have no edit and why
many_edits.json  Scores, shares and costs by editor, order and number of edits per model
many_edits.csv   the same numbers
many_edits.png, .pdf   the figure

All cases are edited at each number of edits per model. Gained and kept are means of the shares that
edits gain of what was missing, and keep of what was there. The first and the last fifth are the
edits that a model got first and last. Intervals are 95 % bootstrap intervals over cases; with few
models they do not show how much another choice of companions would change.
"""


if __name__ == "__main__":
    command(Config, run)
