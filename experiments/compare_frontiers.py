"""Compares frontiers: which editor gains more where both keep equally much."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command, open_run
from experiments._forms import PUBLISHED
from experiments._loading import loaded
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which editors edit which cases, and which setting is varied."""

    model: str = options.model()
    editors: str = option(
        default="joint,w_out,w_o",
        help=f"The editors, comma-separated: any of {', '.join(names())}, each with changes to its "
        f"settings. All of them need the setting that is varied. {PUBLISHED}",
    )
    field: str = "weight"
    """The setting that is varied, such as weight or training.clamp: one that makes edits stronger
    or weaker."""
    values: list[float] = option(
        default_factory=lambda: [1.0, 10.0, 100.0, 1000.0, 10000.0],
        help="The values of the setting.",
    )
    perspective: Literal["entity", "relation"] = "relation"
    """The side that is edited."""
    cases: str = options.cases("Use other cases than those that settings were tuned on.")
    limit: int = options.n_cases(20)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks(1)
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind()
    seed: int = options.seed(
        "the choice of cases, the contexts, the text of --text self, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("compare_frontiers")


def run(config: Config) -> Path:
    """Edits and scores cases, draws and prints; finished edits in the run's folder are reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show
    from figures.frontier import of_frontiers
    from figures.style import save
    from kedit.editors.lists import parse_specs
    from kedit.studies.frontiers import compare_frontiers
    from kedit.studies.scoring import unscored

    found = to_edit(config, [config.perspective])
    config = replace(config, cases=found.source)
    with open_run("compare_frontiers", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        result = compare_frontiers(
            loaded(config, folder), found.cases, parse_specs(config.editors), field=config.field,
            values=config.values, perspective=config.perspective, text=config.text,
            tokens_per_dim=config.tokens_per_dim, held_out_text=config.held_out,
            chunks=config.chunks, chunk_tokens=config.chunk_tokens, seed=config.seed,
            journal=folder,
        )  # fmt: skip
        say_unscored(unscored(found.cases, folder), len(found.cases))
        result.save(folder)
        save(of_frontiers(result), folder.path, "frontiers")
        for table in result.tables():
            show(table, 140)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl    a line for each case before any edit, and one for each edit of it
frontiers.json   locality, generalisation and Score of each editor with each value of the setting,
                 and the gaps between the editors' frontiers
frontiers.csv    the same numbers; gaps.csv: the gaps
frontiers.png, .pdf   the figure

Locality is the mean of the shares that were kept, generalisation that of the shares that were
gained, by success and by magnitude. A frontier joins the points that no other value of the setting
exceeds in both. A gap is the mean distance of two frontiers over the range that both reach, with a
95 % bootstrap interval over cases.
"""


if __name__ == "__main__":
    command(Config, run)
