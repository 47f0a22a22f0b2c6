"""Explains edits: which activations and heads carry the new answer, for each editor."""

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
    """Which edits of which cases are explained."""

    model: str = options.model()
    editors: str = option(
        default="rome,memit,joint",
        help=f"The editors, comma-separated: any of {', '.join(names())}, each with changes to its "
        f"settings. {PUBLISHED}",
    )
    perspective: Literal["entity", "relation"] = "entity"
    """The side that is edited."""
    cases: str = options.cases("")
    limit: int = options.n_cases(20)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    seed: int = options.seed(
        "the choice of cases, the contexts, the text of --text self, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("explain_edit")


def run(config: Config) -> Path:
    """Traces edits, draws and prints; finished edits in the run's folder are reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, show
    from figures.anatomy import carried
    from figures.style import save
    from kedit.editors.lists import parse_specs
    from probes.studies.anatomy import explain_edits

    found = to_edit(config, [config.perspective])
    config = replace(config, cases=found.source)
    with open_run("explain_edit", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        result = explain_edits(
            loaded(config, folder), found.cases, parse_specs(config.editors),
            perspective=config.perspective, text=config.text,
            tokens_per_dim=config.tokens_per_dim, seed=config.seed, journal=folder,
        )  # fmt: skip
        result.save(folder)
        save(carried(result), folder.path, "anatomy")
        show(result.table(), 200)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl    a line for each edit; tensors/ has its effects on the logit difference
anatomy.json     the averages of each editor, by layer, token and head
anatomy.csv      the same numbers
anatomy.png, .pdf   the figure

The effect of an edit is the change of logit(answer) - logit(foil) after the edited prompt. The
answer is the target, and the foil is the token that the unedited model finds likeliest apart from
it. A share of 1 means that one activation of the edited model, put into the unedited one, brings
about the whole effect. Intervals are 95 % bootstrap intervals over cases.
"""


if __name__ == "__main__":
    command(Config, run)
