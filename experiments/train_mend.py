"""Trains a MEND for a model: a network that turns the gradient of one edit into the edit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._early import require_possible
from experiments._run import command, open_run


@dataclass(frozen=True)
class Config:
    """What is practised, which matrices are edited, and how long."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    cases: str = "auto"
    """What is practised on, with commas between: builtin, toy, or files of edits (CounterFact,
    EasyEdit's, zsRE, rake.jsonl); auto: the toy's own for the toy, else what build_rake made, else
    builtin."""
    but: str = ""
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
    validate: int = 100
    """Steps between validations; each writes a checkpoint."""
    patience: int = 500
    """Steps without a better validation after which training ends."""
    held_out: int = 96
    """Requests that are validated with; no subject of theirs is trained on."""
    text: str = ""
    """Running text that should stay: a file, hf:NAME, self for what the model says, or "" for
    kedit's text (the toy: self)."""
    seed: int = 0
    """Of the split, of what is drawn, and of the network's start."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    out: str = ""
    """The run's folder (default: results/train_mend/MODEL-HASH)."""


def run(config: Config) -> Path:
    """Trains, validates, saves the best; a run that was stopped goes on from its checkpoint.

    Raises:
        InputError: a loss that is NaN or infinite; what was kept stays.
    """
    from dataclasses import replace

    from experiments._exercises import practice_of, requests_for
    from experiments._mend_report import finish
    from experiments._mend_training import train
    from experiments._score import chosen

    require_possible(config, "train_mend")  # in a notebook nothing has done so yet
    cases = ",".join(chosen(source, config.model) for source in config.cases.split(","))
    config = replace(config, cases=cases)
    requests = requests_for(config)
    with open_run("train_mend", config) as folder:
        folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
        model = folder.load(config)
        practice = practice_of(config, model, requests)
        train(config, folder, model, practice)
        finish(config, folder, model, practice)
    return folder.path


_EXPLAINED = """\
mend.safetensors   the network that validated best: compare_editors --editors mend:file=...
records.jsonl      a line each validation: losses of training since the last one and of validation
validation.*       what the best network does with requests it never saw: .md and .json
training.png, .pdf the losses
checkpoint.safetensors   where training goes on if the same command is given again
"""


if __name__ == "__main__":
    command(Config, run)
