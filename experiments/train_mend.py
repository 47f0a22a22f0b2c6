"""Trains MEND for a model: a network that turns the gradient of one edit into the edit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import command, open_run
from experiments._loading import loaded
from experiments._printing import say, show


@dataclass(frozen=True)
class Config:
    """Which edits MEND trains on, which matrices it edits, and how long it trains."""

    model: str = options.model()
    cases: str = "auto"
    """The training cases, comma-separated: builtin, toy, or files of edits (CounterFact, EasyEdit,
    zsRE, rake.jsonl). auto: toy for the model toy, else the rake.jsonl that build_rake wrote by
    default, else builtin."""
    exclude: str = ""
    """Files whose subjects are left out, comma-separated, such as cases that are scored later."""
    perspective: Literal["both", "entity", "relation"] = "both"
    """The sides whose edits MEND trains on."""
    removal: bool = False
    """Relation edits also request the removal; no published code does that."""
    layers: tuple[int, ...] = ()
    """The layers whose matrices are edited. Empty: the last three."""
    matrices: str = "W_in,W_out"
    """The edited matrices, comma-separated: any of W_in, W_gate, W_out, W_V, W_O."""
    rank: int = 64
    """The rank of the network's layers; 1,920 in the published networks."""
    rate: float = 2e-4
    """The learning rate in the edit of every matrix, before training changes it."""
    lr: float = 1e-3
    """Adam's learning rate for the network; a cosine schedule lowers it to a tenth."""
    lr_rate: float = 5e-6
    """Adam's learning rate for the rates of the edits; it has the same schedule."""
    edit_weight: float = 0.2
    """The weight of the edit's loss against the KL of text that should stay (paper: 0.1)."""
    batch: int = 8
    """The number of edits per batch. Each edit is made alone."""
    accumulate: int = 1
    """The number of batches per step of Adam."""
    steps: int = 1200
    """The most steps of Adam."""
    validate_every: int = 100
    """The number of steps between validations. Each validation writes a checkpoint."""
    patience: int = 500
    """Training ends after this many steps without a better validation."""
    n_validate: int = 96
    """The number of requests for validation. MEND does not train on their subjects."""
    locality_text: str = ""
    """Running text whose likelihoods should stay: a text file, hf:NAME, self for text sampled from
    the model, or empty for kedit's text (for the toy: self)."""
    seed: int = options.seed("the split, the drawn batches, and the network's initial weights")
    device: str = options.device()
    dtype: str = options.dtype("The network and its training are always float32.")
    out: str = options.out("train_mend")


def run(config: Config) -> Path:
    """Trains and validates MEND and saves the best network; a stopped run resumes its checkpoint.

    Raises:
        InputError: a loss is NaN or infinite. The best network so far and the checkpoint stay.
    """
    from dataclasses import fields, replace

    from experiments._early import require_possible
    from figures.style import save
    from figures.training import losses
    from kedit.data.choose import cases_source
    from kedit.studies.mend import train_mend
    from kedit.studies.mend_requests import SIDES, read_requests
    from kedit.studies.mend_training import Recipe

    require_possible(config, "train_mend")  # a notebook calls `run` without `command`
    cases = ",".join(cases_source(source, config.model) for source in config.cases.split(","))
    config = replace(config, cases=cases)
    settings = {field.name: getattr(config, field.name) for field in fields(Recipe)}
    recipe = Recipe(**{**settings, "matrices": tuple(config.matrices.split(","))})
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
        say(f"The network has {size:.1f} MiB. To use it: --editors mend:file={found.file}")
        say(f"Everything is in {folder.path}")
    return folder.path


_EXPLAINED = """\
mend.safetensors   the network with the best validation: --editors mend:file=...
records.jsonl      a line per validation: the validation losses, and the training losses since the
                   last one; then a line per held-out request: what its edit by the best network did
validation.*       means over the held-out requests: .md, .csv and .json
training.png, .pdf the losses
checkpoint.safetensors   the state from which the same command continues the training
"""


if __name__ == "__main__":
    command(Config, run)
