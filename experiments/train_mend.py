"""Trains a MEND for a model: a network that turns the gradient of one edit into the edit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, loaded, open_run
from experiments._printing import say, show


@dataclass(frozen=True)
class Config:
    """What is practised, which matrices are edited, and how long."""

    model: str = options.model()
    cases: str = "auto"
    """What is practised on, with commas between: builtin, toy, or files of edits (CounterFact,
    EasyEdit's, zsRE, rake.jsonl); auto: the toy's own for the toy, else what build_rake made, else
    builtin."""
    exclude: str = ""
    """Files whose subjects are left out, with commas between: what is scored later."""
    perspective: Literal["both", "entity", "relation"] = "both"
    """Which sides' edits are practised."""
    removal: bool = False
    """Relation edits ask for their removal too; no published code does that."""
    layers: tuple[int, ...] = ()
    """Whose matrices are edited; none named: the last three."""
    matrices: str = "W_in,W_out"
    """Of W_in, W_gate, W_out, W_V, W_O."""
    rank: int = 64
    """Of the network's layers; 1,920 in the published ones."""
    rate: float = 2e-4
    """Of every matrix's edit before training."""
    lr: float = 1e-3
    """Of Adam, for the network; falls to a tenth of it by a cosine."""
    lr_rate: float = 5e-6
    """The same, for the rates."""
    edit_weight: float = 0.2
    """Of the edit's loss against the KL of what should stay (0.1 in the paper)."""
    batch: int = 8
    """Edits that are made side by side, each by itself."""
    accumulate: int = 1
    """Batches to a step of Adam."""
    steps: int = 1200
    """Of Adam, at most."""
    validate_every: int = 100
    """Steps between validations; each writes a checkpoint."""
    patience: int = 500
    """Steps without a better validation after which training ends."""
    n_validate: int = 96
    """Requests that are validated with; no subject of theirs is trained on."""
    locality_text: str = ""
    """Running text that should stay: a file, hf:NAME, self for what the model says, or "" for
    kedit's text (the toy: self)."""
    seed: int = 0
    """Of the split, of what is drawn, and of the network's start."""
    device: str = options.device()
    out: str = options.out("train_mend")


def run(config: Config) -> Path:
    """Trains, validates, saves the best; a run that was stopped goes on from its checkpoint.

    Raises:
        InputError: a loss that is NaN or infinite; what was kept stays.
    """
    from dataclasses import fields, replace

    from experiments._early import require_possible
    from figures.style import save
    from figures.training import losses
    from kedit.data.choose import cases_source
    from kedit.studies.mend import train_mend
    from kedit.studies.mend_requests import SIDES, read_requests
    from kedit.studies.mend_training import Recipe

    require_possible(config, "train_mend")  # in a notebook no command has done so
    cases = ",".join(cases_source(source, config.model) for source in config.cases.split(","))
    config = replace(config, cases=cases)
    told = {field.name: getattr(config, field.name) for field in fields(Recipe)}
    recipe = Recipe(**{**told, "matrices": tuple(config.matrices.split(","))})
    sides = SIDES if config.perspective == "both" else (config.perspective,)
    requests = read_requests(
        config.cases, config.model, exclude=config.exclude, sides=sides,
        n_validate=config.n_validate, seed=config.seed,
    )  # fmt: skip
    with open_run("train_mend", config) as folder:
        folder.write("README.txt", _EXPLAINED)
        model = loaded(config, folder)
        found = train_mend(
            model, requests, recipe, locality_text=config.locality_text,
            removal=config.removal, seed=config.seed, journal=folder,
        )  # fmt: skip
        found.save(folder)
        folder.write("validation.md", found.table().to_markdown() + "\n")
        save(losses(found), folder.path, "training")
        show(found.table())
        size = Path(found.file).stat().st_size / 2**20
        say(f"{size:.1f} MiB. To compare it: --editors mend:file={found.file}")
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
mend.safetensors   the network that validated best: compare_editors --editors mend:file=...
records.jsonl      a line each validation: losses of training since the last one and of validation;
                   then a line each held-out request, with what the best network does with it
validation.*       the means of these: .md, .csv and .json
training.png, .pdf the losses
checkpoint.safetensors   where training goes on if the same command is given again
"""


if __name__ == "__main__":
    command(Config, run)
