"""Trains the network of a MEND on exercises, with validations and checkpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam
from transformer_lens import HookedTransformer

from kedit.bounds import broken
from kedit.editing.factors import LinearMap, MapName
from kedit.editing.hypernetwork import Hypernetwork, Origin
from kedit.editing.metalearning import Practised, factors_of, practise
from kedit.editing.provenance import fingerprint
from kedit.editors.mend import NAME
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.progress import progress
from kedit.studies.mend_checkpoint import resumed, save_checkpoint
from kedit.studies.mend_practice import Practice

FIT_BATCHES = 12  # batches for the means and standard deviations that normalise gradients
CLIP = 100.0  # largest norm of the gradient of a step, as in the published code
LAST_LR = 0.1  # learning rates of the last step, as a share of those of the first
EXERCISES_PER_BATCH = 8  # in validation
Losses = Mapping[str, float]  # by the names of the fields of Practised


@dataclass(frozen=True)
class Recipe:
    """Which matrices a MEND edits, and how it is trained.

    Args:
        layers: the layers whose matrices are edited; (): the last three.
        matrices: the matrices of these layers that are edited.
        rank: rank of the network's layers; 1,920 in the published networks.
        rate: initial learning rate of the edit of every matrix; it is trained too.
        lr: learning rate of Adam for the network; it falls to a tenth by a cosine.
        lr_rate: learning rate of Adam for the rates; it falls in the same way.
        edit_weight: weight of the edit's loss against the KL of prompts and text that should stay
            (0.1 in the paper).
        batch: number of edits per batch; each is made separately, on the unedited model.
        accumulate: number of batches per step of Adam.
        steps: largest number of steps of Adam.
        validate_every: number of steps between validations; each writes a checkpoint. The last
            step is validated too.
        patience: number of steps without a better validation after which training ends.
    """

    layers: tuple[int, ...] = ()
    matrices: tuple[MapName, ...] = ("W_in", "W_out")
    rank: int = 64
    rate: float = 2e-4
    lr: float = 1e-3
    lr_rate: float = 5e-6
    edit_weight: float = 0.2
    batch: int = 8
    accumulate: int = 1
    steps: int = 1200
    validate_every: int = 100
    patience: int = 500

    def __post_init__(self) -> None:
        """Raises InputError for a setting that is out of its bounds."""
        for name, value in vars(self).items():
            if found := broken("train_mend", name, value):
                raise InputError(f"{name}={found[0]}: must be {found[1]}")

    def total(self, found: Mapping[str, Losses]) -> float:
        """Returns the loss that training minimises, as a mean over sides.

        Args:
            found: losses of held-out exercises, by side.
        """
        totals = [self.edit_weight * losses["edit"] + losses["kl"] for losses in found.values()]
        return sum(totals) / len(totals)


def train(
    model: HookedTransformer,
    practice: Practice,
    recipe: Recipe,
    journal: Journal,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Trains the network, and saves the one that validates best in a file of the journal.

    Continues from the journal's checkpoint, if there is one. The journal has a record per
    validation, under the number of steps: losses of training since the last validation, and losses
    of the held-out exercises by side.

    Args:
        practice: what exercises are drawn from.
        about: saved with the recipe in the network's file.

    Raises:
        InputError: a loss is NaN or infinite. The best network so far and the checkpoint stay.
    """
    network, optimiser = started(model, practice, recipe)

    def save(step: int) -> None:
        reached = {"trained for": step, "validation": journal.records[str(step)]["validation"]}
        described = {**asdict(recipe), **(about or {}), **reached}
        origin = Origin(fingerprint(model), name_of(model), described)
        network.save(journal.file(NAME), origin, torch.bfloat16)

    step, best, at = resumed(journal, network, optimiser)
    if step == 0:
        # without a checkpoint, records of later steps are of no use
        first = {key: record for key, record in journal.records.items() if key == "0"}
        journal.replace(first)
        if "0" not in journal.records:
            found = validated(model, network, practice)
            _require_finite(found, recipe, step)
            journal.add("0", {"training": None, "validation": found})
        best = recipe.total(journal.records["0"]["validation"])
        save(step)
    validated_at = step
    sums: dict[str, float] = {}
    with progress("steps") as bars:
        bar = bars.add_task("training", total=recipe.steps, completed=step)
        while step < recipe.steps and step - at < recipe.patience:
            losses = _step(model, network, optimiser, practice, recipe, step)
            _require_finite({"training": losses}, recipe, step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            step += 1
            means = {name: total / (step - validated_at) for name, total in sums.items()}
            bars.update(bar, advance=1, description=_in_words(means))
            is_last = step == recipe.steps or step - at == recipe.patience
            if step % recipe.validate_every == 0 or is_last:
                found = validated(model, network, practice)
                _require_finite(found, recipe, step)
                # versions of kedit that did not validate the last step went on to edit held-out
                # requests: these records are of another network
                journal.replace(
                    {key: record for key, record in journal.records.items() if key.isdigit()}
                )
                journal.add(str(step), {"training": means, "validation": found})
                validated_at = step
                if recipe.total(found) < best:
                    best, at = recipe.total(found), step
                    save(step)
                save_checkpoint(journal, network, optimiser, step, best, at)
                sums = {}


def _require_finite(found: Mapping[str, Losses], recipe: Recipe, step: int) -> None:
    """Raises InputError if a loss is NaN or infinite, because no training can recover from it.

    Args:
        found: losses by side, or losses of training under "training".
    """
    for where, losses in found.items():
        for name, value in losses.items():
            if not math.isfinite(value):
                raise InputError(
                    f"after {step} steps the {name} loss ({where}) is {value}. Training stops, and "
                    "the best network so far is kept. Train again with smaller steps: lr (--lr) "
                    f"below {recipe.lr:g}, lr_rate (--lr-rate) below {recipe.lr_rate:g}, or rate "
                    f"(--rate) below {recipe.rate:g}; and with another journal (--out)"
                )


def started(
    model: HookedTransformer, practice: Practice, recipe: Recipe
) -> tuple[Hypernetwork, Adam]:
    """Builds the untrained network, fits how it normalises gradients, and builds its optimiser."""
    layers = recipe.layers or tuple(range(model.cfg.n_layers)[-3:])
    maps = [LinearMap(layer, name) for layer in layers for name in recipe.matrices]
    widths = {matrix: matrix.widths(model) for matrix in maps}
    network = Hypernetwork(widths, recipe.rank, recipe.rate, practice.seed)
    network = network.to(model.embed.W_E.device)
    seen = [
        factors_of(model, network.maps, practice.batch(model, recipe.batch, f"fit {number}"))
        for number in range(FIT_BATCHES)
    ]
    network.fit({matrix: [factors[matrix] for factors in seen] for matrix in maps})
    others = [value for name, value in network.named_parameters() if name != "rates"]
    groups = [
        {"params": others, "lr": recipe.lr},
        {"params": [network.rates], "lr": recipe.lr_rate},
    ]
    return network, Adam(groups)


def validated(
    model: HookedTransformer, network: Hypernetwork, practice: Practice
) -> dict[str, dict[str, float]]:
    """Returns the mean losses of the held-out exercises, by side."""
    found = {}
    for side, exercises in practice.validation(model).items():
        starts = range(0, len(exercises), EXERCISES_PER_BATCH)
        batches = [exercises[start : start + EXERCISES_PER_BATCH] for start in starts]
        losses = [practise(model, network, batch) for batch in batches]
        found[side] = _mean(losses, [len(batch) for batch in batches])
    return found


# six parameters: everything that a step needs or changes
def _step(
    model: HookedTransformer,
    network: Hypernetwork,
    optimiser: Adam,
    practice: Practice,
    recipe: Recipe,
    step: int,
) -> dict[str, float]:
    """Makes one step of Adam, and returns its losses.

    The exercises depend on the seed and the number of the step only, see `Practice.batch`.
    """
    share = LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
    for group, lr in zip(optimiser.param_groups, (recipe.lr, recipe.lr_rate), strict=True):
        group["lr"] = lr * share
    optimiser.zero_grad()
    losses = [
        practise(
            model, network, practice.batch(model, recipe.batch, f"{step} {number}"),
            recipe.edit_weight, 1 / recipe.accumulate,
        )
        for number in range(recipe.accumulate)
    ]  # fmt: skip
    clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    return _mean(losses, [1] * len(losses))


def _mean(losses: Sequence[Practised], weights: Sequence[int]) -> dict[str, float]:
    """Returns the weighted mean of each loss, by name."""
    return {
        name: sum(w * getattr(batch, name) for batch, w in zip(losses, weights, strict=True))
        / sum(weights)
        for name in asdict(losses[0])
    }


def _in_words(means: Losses) -> str:
    """Describes the losses since the last validation, for the progress bar."""
    return f"edit {means['edit']:.2f}, KL {means['kl']:.2f} nats"
