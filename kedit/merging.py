"""Unites the runs of a job array: each did one part of a study (--shard) in its own folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedit.errors import InputError
from kedit.run_folder import CONFIG, RunFolder, locked, open_folder

SAME = ("experiment", "measured", "inputs", "weights")  # what the runs of one study share
TENSORS = "tensors"


def merge(folders: Sequence[str | Path], out: str | Path) -> int:
    """Copies the records of several runs of one study into one folder, and returns their number.

    The command of the study, given with this folder and without a part, then does what is missing,
    if anything is, and writes the results. Records that the folder has already are kept.

    Args:
        folders: the folders of the parts, finished or not.
        out: the new folder, or one to which further parts are added.

    Raises:
        InputError: a folder holds no run, or a run of another study, with other options, files or
            weights, or it is in use.
    """
    parts = [Path(folder) for folder in folders]
    if not parts:
        raise InputError("there is no folder to merge: name those of the parts")
    configs = [_config(part) for part in parts]
    first = configs[0]
    for part, config in zip(parts, configs, strict=True):
        for name in SAME:
            if config.get(name) != first.get(name):
                raise InputError(
                    f"{parts[0]} and {part} are not parts of one study: {name} is "
                    f"{first.get(name)!r:.100} there, and {config.get(name)!r:.100} here"
                )
    options = {**first["all"], "out": str(out)}
    with open_folder(
        Path(out), first["experiment"], first["measured"], first["inputs"], options
    ) as whole:
        if first["weights"]:
            whole.require_weights(first["weights"])
        for part in parts:
            _add(part, whole)
        return len(whole.records)


def _config(folder: Path) -> dict[str, Any]:
    """Reads what a run has measured with which options."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return {**config, "all": {**config["all"]}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no run that can be merged: {error}") from error


def _add(part: Path, whole: RunFolder) -> None:
    """Adds the records of a part that are not there yet, each with its tensors."""
    with locked(part):
        run = RunFolder(part)
        for key, record in run.records.items():
            if key in whole.records:
                continue
            tensors = run.tensors(key) if TENSORS in record else None
            fields = {name: value for name, value in record.items() if name not in ("key", TENSORS)}
            whole.add(key, fields, tensors)
