"""Measures what attention adds to an edit: it edits W_out, W_O, both, or W_out and random heads."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded


@dataclass(frozen=True)
class Config:
    """Which cases are edited, from which side, and with which settings of the editors."""

    model: str = options.model()
    tuned: str = ""
    """The tuned.json of tune_editors --editors w_out,w_o,joint. Empty: the settings that kedit has
    for the model."""
    perspective: Literal["entity", "relation"] = "relation"
    """The side that is edited."""
    n_random_heads: int = 0
    """The number of random heads per layer whose rows of W_O may change besides W_out; 0: half of
    the heads."""
    draws: int = 3
    """The number of times that the random heads are drawn."""
    cases: str = options.cases("Use other cases than those that settings were tuned on.")
    limit: int = options.n_cases(20)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks()
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind()
    seed: int = options.seed(
        "the choice of cases and heads, the contexts, the text of --text self, and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("ablate_attention")


def run(config: Config) -> Path:
    """Edits and scores cases, draws and prints; finished edits in the run's folder are reused."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show, show_text
    from figures.ablation import ablation
    from figures.style import save
    from kedit.editors.lists import read_tuned
    from kedit.results.ablation import ABLATED
    from kedit.studies.ablating import ablate
    from kedit.studies.scoring import unscored

    found = to_edit(config, [config.perspective])
    config = replace(config, cases=found.source)
    with open_run("ablate_attention", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        names = tuple(ABLATED.values())
        tuned = read_tuned(config.tuned, names) if config.tuned else {}
        result = ablate(
            loaded(config, folder), found.cases,
            {arm: tuned.get(name, name) for arm, name in ABLATED.items()},
            perspective=config.perspective, n_random_heads=config.n_random_heads,
            draws=config.draws, text=config.text, tokens_per_dim=config.tokens_per_dim,
            held_out_text=config.held_out, chunks=config.chunks,
            chunk_tokens=config.chunk_tokens, seed=config.seed, journal=folder,
        )  # fmt: skip
        say_unscored(unscored(found.cases, folder), len(found.cases))
        result.save(folder)
        save(ablation(result), folder.path, "ablation")
        for table in result.tables():
            show(table, 160)
        show_text(result.note)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and two for each edit of it: as the editor
                made it ("free"), and scaled down to the norm of the case's smallest edit ("equal")
ablation.json   Scores, the shares that they combine, and paired differences from "both", for all
                cases and by kind of relation, with 95 % bootstrap intervals over cases
ablation.csv    the same numbers
ablation.png, .pdf   the figure

Norm: the Frobenius norm over all matrices of an edit together. Score: the harmonic mean of the
shares that an edit gained (of what was missing before it) and kept (of what was there before it).
Random heads: W_out and the rows of W_O of some heads; these numbers are means over the draws of
heads. p: twice the share of bootstrap draws of cases in which the difference of the Scores has the
other sign.
"""


if __name__ == "__main__":
    command(Config, run)
