"""MEND's outer loop: batches of exercises, validation, checkpoints that resume to the bit."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._exercises import Practice
from experiments._run import RunFolder
from kedit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Adam
    from transformer_lens import HookedTransformer

    from experiments.train_mend import Config
    from kedit.editing.hypernetwork import Hypernetwork
    from kedit.editing.metalearning import Practised

log = logging.getLogger("kedit")

CHECKPOINT = "checkpoint.safetensors"
FIT = 12  # batches that means and standard deviations of gradients are taken from
CLIP = 100.0  # of the gradient's norm, as in the published code
LAST_LR = 0.1  # of the first
TOGETHER = 8  # exercises that are validated at once


def train(
    config: "Config", folder: RunFolder, model: "HookedTransformer", practice: Practice
) -> None:
    """From the folder's checkpoint on, if there is one; the best network is saved.

    Raises:
        InputError: a loss is NaN or infinite. The best network so far and the checkpoint stay.
    """
    network, optimiser = started(config, model, practice)
    step, best, at = _resumed(folder, network, optimiser)
    if step == 0:
        folder.replace({key: one for key, one in folder.records.items() if key == "0"})
        if "0" not in folder.records:
            found = validated(model, network, practice)
            _require_finite(found, config, step)
            folder.add("0", {"training": None, "validation": found})
        best = _total(config, folder.records["0"]["validation"])
        _save(config, folder, model, network, step)
    sums: dict[str, float] = {}
    with progress("steps") as bars:
        bar = bars.add_task("practising", total=config.steps, completed=step)
        while step < config.steps and step - at < config.patience:
            losses = _step(config, model, network, optimiser, practice, step)
            _require_finite({"training": losses}, config, step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / config.validate
            step += 1
            bars.update(bar, advance=1, description=_told(sums, step, config.validate))
            if step % config.validate == 0:
                found = validated(model, network, practice)
                _require_finite(found, config, step)
                folder.add(str(step), {"training": sums, "validation": found})
                if _total(config, found) < best:
                    best, at = _total(config, found), step
                    _save(config, folder, model, network, step)
                _keep(folder, network, optimiser, step, best, at)
                sums = {}


def _require_finite(found: dict[str, dict[str, float]], config: "Config", step: int) -> None:
    """Raises InputError if a loss is no number: training on would learn nothing from it.

    Args:
        found: losses by side, or of training.
    """
    from kedit.errors import InputError

    for where, losses in found.items():
        for name, value in losses.items():
            if not math.isfinite(value):
                raise InputError(
                    f"after {step} steps the {name} loss ({where}) is {value}. Training stops; the "
                    "best network before is kept. Smaller steps are wanted: a --lr, --lr-rate or "
                    f"--rate below {config.lr:g}, {config.lr_rate:g} and {config.rate:g}, and "
                    "another --out"
                )


def started(
    config: "Config", model: "HookedTransformer", practice: Practice
) -> "tuple[Hypernetwork, Adam]":
    """The untrained network, which knows what gradients look like, and its optimiser."""
    from torch.optim import Adam

    from kedit.editing.factors import LinearMap
    from kedit.editing.hypernetwork import Hypernetwork
    from kedit.editing.metalearning import factors_of

    layers = config.layers or tuple(range(model.cfg.n_layers)[-3:])
    names: Any = config.matrices.split(",")
    maps = [LinearMap(layer, name) for layer in layers for name in names]
    widths = {one: one.widths(model) for one in maps}
    network = Hypernetwork(widths, config.rank, config.rate, config.seed)
    network = network.to(model.embed.W_E.device)
    seen = [
        factors_of(model, network.maps, practice.batch(model, config.batch, f"fit {number}"))
        for number in range(FIT)
    ]
    network.fit({one: [each[one] for each in seen] for one in maps})
    rest = [value for name, value in network.named_parameters() if name != "rates"]
    groups = [{"params": rest, "lr": config.lr}, {"params": [network.rates], "lr": config.lr_rate}]
    return network, Adam(groups)


def validated(
    model: "HookedTransformer", network: "Hypernetwork", practice: Practice
) -> dict[str, dict[str, float]]:
    """Mean losses of the held-out exercises, by side."""
    from kedit.editing.metalearning import practise

    found = {}
    for side, exercises in practice.validation(model).items():
        parts = [exercises[n : n + TOGETHER] for n in range(0, len(exercises), TOGETHER)]
        each = [practise(model, network, part) for part in parts]
        found[side] = _mean(each, [len(part) for part in parts])
    return found


def _step(
    config: "Config",
    model: "HookedTransformer",
    network: "Hypernetwork",
    optimiser: "Adam",
    practice: Practice,
    step: int,
) -> dict[str, float]:
    """One step of Adam; what is drawn hangs on the seed and the step alone."""
    from torch.nn.utils import clip_grad_norm_

    from kedit.editing.metalearning import practise

    share = LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * step / config.steps)) / 2
    for group, lr in zip(optimiser.param_groups, (config.lr, config.lr_rate), strict=True):
        group["lr"] = lr * share
    optimiser.zero_grad()
    each = [
        practise(
            model, network, practice.batch(model, config.batch, f"{step} {number}"),
            config.edit_weight, 1 / config.accumulate,
        )
        for number in range(config.accumulate)
    ]  # fmt: skip
    clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    return _mean(each, [1] * len(each))


def _mean(each: "Sequence[Practised]", weights: Sequence[int]) -> dict[str, float]:
    """Of losses by name."""
    return {
        name: sum(w * getattr(one, name) for one, w in zip(each, weights, strict=True))
        / sum(weights)
        for name in asdict(each[0])
    }


def _total(config: "Config", found: dict[str, dict[str, float]]) -> float:
    """The loss that training goes down, of held-out exercises."""
    each = [config.edit_weight * one["edit"] + one["kl"] for one in found.values()]
    return sum(each) / len(each)


def _told(sums: dict[str, float], step: int, every: int) -> str:
    """Means since the last validation."""
    n = (step - 1) % every + 1
    return f"edit {sums['edit'] * every / n:.2f}, KL {sums['kl'] * every / n:.2f} nats"


def _save(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    network: "Hypernetwork",
    step: int,
) -> None:
    import torch

    from kedit.data.corpus import corpus_of
    from kedit.editing.hypernetwork import Origin
    from kedit.editing.provenance import fingerprint
    from kedit.editors.mend import NAME

    recipe = asdict(config) | {
        "cases": _names(config.cases),
        "but": _names(config.but),
        "text": corpus_of(config.model, config.text, config.seed).name,
        "trained for": step,
        "validation": folder.records[str(step)]["validation"],
    }
    for name in ("out", "device"):
        recipe.pop(name)
    origin = Origin(fingerprint(model), config.model, recipe)
    network.save(folder.path / NAME, origin, torch.bfloat16)


def _names(files: str) -> str:
    """Without their folders: where they lay is nobody's business."""
    return ",".join(Path(file).name for file in files.split(","))


# six parameters: all that `_resumed` gives back
def _keep(
    folder: RunFolder, network: "Hypernetwork", optimiser: "Adam", step: int, best: float, at: int
) -> None:
    """All that training goes on from, the records among it; numbers are kept as they are."""
    from kedit import cache as kept

    tensors = {f"network {name}": value for name, value in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam {number} {name}": value for name, value in state.items()}
    told = {"step": step, "best": best.hex(), "at": at, "records": folder.records}
    kept.write(folder.path / CHECKPOINT, tensors, {"training": json.dumps(told)})


def _resumed(
    folder: RunFolder, network: "Hypernetwork", optimiser: "Adam"
) -> tuple[int, float, int]:
    """The step that is next, the best validation and its step; 0, inf, 0 where all begins anew.

    The folder has the records of the checkpoint afterwards, no more and no less: it may have been
    stopped between a record and its checkpoint, or have lost lines.
    """
    from safetensors import SafetensorError

    from kedit import cache as kept
    from kedit.editing.hypernetwork import read_hypernetwork
    from kedit.editors.mend import NAME
    from kedit.errors import InputError

    path = folder.path / CHECKPOINT
    try:
        tensors, told = kept.read(path)
        if not kept.checksum_of(tensors, told):
            raise InputError("its checksum is wrong")
        training = json.loads(told["training"])
        read_hypernetwork(folder.path / NAME)  # the best one so far
    except FileNotFoundError:
        return 0, math.inf, 0
    except (OSError, SafetensorError, InputError) as error:
        log.warning("Training begins anew, for it cannot go on from %s: %s", path, error)
        return 0, math.inf, 0
    own: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(" ", 1)
        if kind == "network":
            own[name] = value
        else:
            number, field = name.split(" ")
            states.setdefault(int(number), {})[field] = value
    network.load_state_dict(own)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    folder.replace(training["records"])
    return training["step"], float.fromhex(training["best"]), training["at"]
