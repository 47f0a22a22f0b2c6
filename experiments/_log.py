"""Copies a finished run to Weights & Biases or TensorBoard (--log), without a network.

Both get the same: the run's options, every CSV table, and every figure.
"""

import csv
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PLACES = ("wandb", "tensorboard")


def require_library(place: str) -> None:
    """Raises InputError, before the run, if the library that --log needs is not installed."""
    from kedit.errors import InputError

    if place and importlib.util.find_spec(place) is None:
        raise InputError(f"--log {place} needs {place}: pip install 'kedit[{place}]'")


def log_run(folder: Path, place: str) -> None:
    """Copies a run to the folder `wandb` or `tensorboard` inside of the run's folder.

    Weights & Biases is offline unless the variable WANDB_MODE says otherwise.

    Args:
        place: one of PLACES; "": nothing is copied.

    Raises:
        InputError: the folder holds no run.
    """
    from experiments._printing import say
    from kedit.errors import InputError

    if not place:
        return
    options = folder / "config.json"
    if not options.is_file():
        raise InputError(f"--log {place}: this command makes no run that could be logged")
    config = json.loads(options.read_text(encoding="utf-8"))
    {"wandb": _to_wandb, "tensorboard": _to_tensorboard}[place](folder, config)
    say(f"Logged to {folder / place}")


def _to_wandb(folder: Path, config: Mapping[str, object]) -> None:
    import wandb

    run = wandb.init(
        project="kedit", name=folder.name, dir=folder, config=dict(config),
        mode=os.environ.get("WANDB_MODE", "offline"),  # pyright: ignore[reportArgumentType]
        settings=wandb.Settings(console="off", silent=True),
    )  # fmt: skip
    with run:
        for name, columns, rows in _tables(folder):
            cells: list[list[Any]] = [[_value(cell) for cell in row] for row in rows]
            table = wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)  # pyright: ignore[reportArgumentType]
            run.log({name: table})
        for figure in sorted(folder.glob("*.png")):
            run.log({figure.stem: wandb.Image(str(figure))})


def _to_tensorboard(folder: Path, config: Mapping[str, object]) -> None:
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        writer.add_text("options", f"```\n{json.dumps(config, indent=1)}\n```")
        for name, columns, rows in _tables(folder):
            for row in rows:
                cells = dict(zip(columns, map(_value, row), strict=True))
                words = [str(cell) for cell in cells.values() if isinstance(cell, str)]
                for column, cell in cells.items():
                    if isinstance(cell, float):
                        writer.add_scalar("/".join([name, *words, column]), cell)
        for figure in sorted(folder.glob("*.png")):
            writer.add_image(figure.stem, imread(figure)[..., :3], dataformats="HWC")


def _tables(folder: Path) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Yields name, columns and rows of each table of the run."""
    for file in sorted(folder.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            columns, *rows = csv.reader(lines)
        yield file.stem, columns, rows


def _value(cell: str) -> float | str | None:
    """Returns a cell as a number if it is one; None if it is empty."""
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
