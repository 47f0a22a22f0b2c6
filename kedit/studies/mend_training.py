"""Trains a MEND: batches of exercises, validation, checkpoints that resume to the bit."""

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

FIT = 12  # batches that means and standard deviations of gradients are taken from
CLIP = 100.0  # of the gradient's norm, as in the published code
LAST_LR = 0.1  # of the first
TOGETHER = 8  # exercises that are validated at once
Losses = Mapping[str, float]  # the fields of Practised


@dataclass(frozen=True)
class Recipe:
    """Which matrices a MEND edits, and how it is trained.

    Args:
        layers: whose matrices are edited; () for the last three.
        rank: of the network's layers; 1,920 in the published ones.
        rate: of every matrix's edit before training.
        lr: of Adam, for the network; falls to a tenth of it by a cosine.
        lr_rate: the same, for the rates.
        edit_weight: of the edit's loss against the KL of what should stay (0.1 in the paper).
        batch: edits that are made side by side, each by itself.
        accumulate: batches to a step of Adam.
        steps: of Adam, at most.
        validate_every: steps between validations; each writes a checkpoint.
        patience: steps without a better validation after which training ends.
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
        """Raises InputError for a number that is out of its bounds."""
        for name, value in vars(self).items():
            if found := broken("train_mend", name, value):
                raise InputError(f"{name}={found[0]}: {found[1]} is wanted")

    def total(self, found: Mapping[str, Losses]) -> float:
        """The loss that training goes down, of held-out exercises by side."""
        each = [self.edit_weight * one["edit"] + one["kl"] for one in found.values()]
        return sum(each) / len(each)


def train(
    model: HookedTransformer,
    practice: Practice,
    recipe: Recipe,
    journal: Journal,
    about: Mapping[str, Any] | None = None,
) -> None:
    """From the journal's checkpoint on, if there is one; the best network is saved beside it.

    Args:
        about: what the network's file tells beside the recipe.

    Raises:
        InputError: a loss is NaN or infinite. The best network so far and the checkpoint stay.
    """
    network, optimiser = started(model, practice, recipe)

    def save(step: int) -> None:
        told = {"trained for": step, "validation": journal.records[str(step)]["validation"]}
        recipe_told = {**asdict(recipe), **(about or {}), **told}
        origin = Origin(fingerprint(model), name_of(model), recipe_told)
        network.save(journal.file(NAME), origin, torch.bfloat16)

    step, best, at = resumed(journal, network, optimiser)
    if step == 0:
        journal.replace({key: one for key, one in journal.records.items() if key == "0"})
        if "0" not in journal.records:
            found = validated(model, network, practice)
            _require_finite(found, recipe, step)
            journal.add("0", {"training": None, "validation": found})
        best = recipe.total(journal.records["0"]["validation"])
        save(step)
    validated_at = step
    sums: dict[str, float] = {}
    with progress("steps") as bars:
        bar = bars.add_task("practising", total=recipe.steps, completed=step)
        while step < recipe.steps and step - at < recipe.patience:
            losses = _step(model, network, optimiser, practice, recipe, step)
            _require_finite({"training": losses}, recipe, step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / recipe.validate_every
            step += 1
            # of the steps since the last validation, which are fewer than usual where training ends
            share = recipe.validate_every / (step - validated_at)
            means = {name: value * share for name, value in sums.items()}
            bars.update(bar, advance=1, description=_told(means))
            is_last = step == recipe.steps or step - at == recipe.patience
            if step % recipe.validate_every == 0 or is_last:
                found = validated(model, network, practice)
                _require_finite(found, recipe, step)
                # an earlier kedit edited held-out requests without having validated the last step
                journal.replace({key: one for key, one in journal.records.items() if key.isdigit()})
                journal.add(str(step), {"training": means, "validation": found})
                validated_at = step
                if recipe.total(found) < best:
                    best, at = recipe.total(found), step
                    save(step)
                save_checkpoint(journal, network, optimiser, step, best, at)
                sums = {}


def _require_finite(found: Mapping[str, Losses], recipe: Recipe, step: int) -> None:
    """Raises InputError if a loss is no number: training on would learn nothing from it.

    Args:
        found: losses by side, or of training.
    """
    for where, losses in found.items():
        for name, value in losses.items():
            if not math.isfinite(value):
                raise InputError(
                    f"after {step} steps the {name} loss ({where}) is {value}. Training stops; the "
                    "best network before is kept. Smaller steps are wanted: a --lr, --lr-rate or "
                    f"--rate below {recipe.lr:g}, {recipe.lr_rate:g} and {recipe.rate:g}, and "
                    "another --out"
                )


def started(
    model: HookedTransformer, practice: Practice, recipe: Recipe
) -> tuple[Hypernetwork, Adam]:
    """The untrained network, which knows what gradients look like, and its optimiser."""
    layers = recipe.layers or tuple(range(model.cfg.n_layers)[-3:])
    maps = [LinearMap(layer, name) for layer in layers for name in recipe.matrices]
    widths = {one: one.widths(model) for one in maps}
    network = Hypernetwork(widths, recipe.rank, recipe.rate, practice.seed)
    network = network.to(model.embed.W_E.device)
    seen = [
        factors_of(model, network.maps, practice.batch(model, recipe.batch, f"fit {number}"))
        for number in range(FIT)
    ]
    network.fit({one: [each[one] for each in seen] for one in maps})
    rest = [value for name, value in network.named_parameters() if name != "rates"]
    groups = [{"params": rest, "lr": recipe.lr}, {"params": [network.rates], "lr": recipe.lr_rate}]
    return network, Adam(groups)


def validated(
    model: HookedTransformer, network: Hypernetwork, practice: Practice
) -> dict[str, dict[str, float]]:
    """Mean losses of the held-out exercises, by side."""
    found = {}
    for side, exercises in practice.validation(model).items():
        parts = [exercises[n : n + TOGETHER] for n in range(0, len(exercises), TOGETHER)]
        each = [practise(model, network, part) for part in parts]
        found[side] = _mean(each, [len(part) for part in parts])
    return found


# six parameters: all that a step needs and changes
def _step(
    model: HookedTransformer,
    network: Hypernetwork,
    optimiser: Adam,
    practice: Practice,
    recipe: Recipe,
    step: int,
) -> dict[str, float]:
    """One step of Adam; what is drawn depends on the seed and the step alone."""
    share = LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
    for group, lr in zip(optimiser.param_groups, (recipe.lr, recipe.lr_rate), strict=True):
        group["lr"] = lr * share
    optimiser.zero_grad()
    each = [
        practise(
            model, network, practice.batch(model, recipe.batch, f"{step} {number}"),
            recipe.edit_weight, 1 / recipe.accumulate,
        )
        for number in range(recipe.accumulate)
    ]  # fmt: skip
    clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    return _mean(each, [1] * len(each))


def _mean(each: Sequence[Practised], weights: Sequence[int]) -> dict[str, float]:
    """Of losses by name."""
    return {
        name: sum(w * getattr(one, name) for one, w in zip(each, weights, strict=True))
        / sum(weights)
        for name in asdict(each[0])
    }


def _told(means: Losses) -> str:
    """The losses since the last validation, for the progress bar."""
    return f"edit {means['edit']:.2f}, KL {means['kl']:.2f} nats"
