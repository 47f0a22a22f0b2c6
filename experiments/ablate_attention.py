"""What does attention add to a relation edit? W_out, W_O, both, and random heads of W_O."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, loaded, open_run


@dataclass(frozen=True)
class Config:
    """Which cases, from which side, and how the editors are set."""

    model: str = options.model()
    tuned: str = ""
    """What tune_editors wrote with --editors w_out,w_o,joint; none: the model's own settings."""
    perspective: Literal["entity", "relation"] = "relation"
    """Which side is edited."""
    n_random_heads: int = 0
    """Random heads a layer whose rows of W_O may change, beside W_out; 0: half of all."""
    draws: int = 3
    """Of these heads."""
    cases: str = options.cases("Take others than those that settings were tuned on.")
    limit: int = options.n_cases(20)
    skip: int = options.skip()
    text: str = options.text()
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out()
    chunks: int = options.chunks()
    chunk_tokens: int = options.chunk_tokens()
    prompts_per_kind: int = options.prompts_per_kind()
    seed: int = options.seed(
        "the choice of cases and of heads, of contexts, own text and the bootstrap"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("ablate_attention")


def run(config: Config) -> Path:
    """Edits, scores, sums up, draws and prints; what is in the run's folder is not done again."""
    from experiments._edit_options import to_edit
    from experiments._printing import say, say_unscored, show
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
        say(result.note)
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
records.jsonl   a line for each case before any edit, and two for each edit of it: as it was made
                ("free"), and scaled down to the norm of the smallest of that case ("equal")
ablation.json   Scores, the shares that they are made of, and paired differences from "both", for
                all cases and by kind of relation; 95 % bootstrap intervals over cases
ablation.csv    the same numbers
ablation.png, .pdf   the figure

Norm: Frobenius, over all matrices of an edit together. Score: the harmonic mean of what was gained
of what there was to gain and of what was kept. Random heads: W_out, and W_O's rows of some heads;
their numbers are means over the draws. p: twice the share of bootstrap draws of the cases in which
the difference of the Scores has the other sign.
"""


if __name__ == "__main__":
    command(Config, run)
