"""Tensors that took long to make, kept in files: written whole, and checked when they are read."""

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger("kedit")

Tensors = Mapping[str, Tensor]


def hashed(tensor: Tensor) -> str:
    """A digest of all its numbers, wherever and in whatever order they lie in memory."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep(file: Path, tensors: Tensors, told: Mapping[str, str]) -> None:
    """Writes a file whole or not at all; with `told`, for those who look into it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            written = Path(scratch, file.name)
            save_file(dict(tensors), written, {**told, "checksum": _checksum(file, tensors)})
            written.replace(file)
    except OSError as error:  # a full disk must not cost what took so long
        log.warning("Nothing is kept in %s: %s", file.parent, error)


def kept(file: Path) -> Tensors | None:
    """What `keep` wrote; None if nothing is there, or not what was written."""
    try:
        with safe_open(file, "pt") as opened:
            told = opened.metadata() or {}
            # copied: the file may be replaced, or cut, while they are in use
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read and is made anew: %s", file, error)
        return None
    if told.get("checksum") != _checksum(file, tensors):
        log.warning("%s is damaged and is made anew: its checksum is wrong", file)
        return None
    return tensors


def _checksum(file: Path, tensors: Tensors) -> str:
    """Of the numbers, and of the name, which says what they are."""
    lines = [file.name, *(f"{name} {hashed(tensors[name])}" for name in sorted(tensors))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
