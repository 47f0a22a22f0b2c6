"""Tensors in files: written whole, with a checksum, which is compared when they are read."""

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger("kedit")

CHECKSUM = "checksum"
Tensors = Mapping[str, Tensor]
Metadata = Mapping[str, str]  # what stands in a file beside its tensors


def hashed(tensor: Tensor) -> str:
    """A digest of all its numbers, wherever and in whatever order they lie in memory."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(file: Path, tensors: Tensors, told: Metadata) -> str:
    """Writes `file` whole or not at all, and gives its checksum: of the tensors and of `told`.

    Raises:
        OSError: it cannot be written.
    """
    checksum = _checksum(tensors, _lines(told))
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(file, file.with_name(f".{file.name}.part"), tensors, {**told, CHECKSUM: checksum})
    return checksum


def read(file: Path) -> tuple[Tensors, Metadata]:
    """Tensors of a safetensors file, and what stands beside them, for `checksum_of` to look at.

    Raises:
        OSError, SafetensorError: there is no such file, or it is none of safetensors.
    """
    with safe_open(file, "pt") as opened:
        told = dict(opened.metadata() or {})
        # copied: the file may be replaced, or cut, while they are in use
        return {name: opened.get_tensor(name).clone() for name in opened.keys()}, told  # noqa: SIM118


def checksum_of(tensors: Tensors, told: Metadata) -> str:
    """The checksum in what was read, if it is right; else ""."""
    rest = {name: text for name, text in told.items() if name != CHECKSUM}
    found = told.get(CHECKSUM, "")
    return found if found == _checksum(tensors, _lines(rest)) else ""


def store(file: Path, tensors: Tensors, told: Metadata) -> None:
    """Writes a file of the cache; with `told`, for those who look into it.

    Where that cannot be done (the disk is full, say), it is logged: what took so long is not lost.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # two processes may make the same file at once
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            checksum = _checksum(tensors, [file.name])
            _save(file, Path(scratch, file.name), tensors, {**told, CHECKSUM: checksum})
    except (OSError, SafetensorError) as error:
        log.warning(
            "Nothing is kept in %s (%s): KEDIT_CACHE can name another folder", file.parent, error
        )


def load(file: Path) -> Tensors | None:
    """What `store` wrote; None if nothing is there, or not what was written."""
    try:
        tensors, told = read(file)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read and is made anew: %s", file, error)
        return None
    # by its name, which says what the numbers are; `told` is for people only
    if told.get(CHECKSUM) != _checksum(tensors, [file.name]):
        log.warning("%s is damaged and is made anew: its checksum is wrong", file)
        return None
    return tensors


def _save(file: Path, scratch: Path, tensors: Tensors, told: Metadata) -> None:
    try:
        scratch.touch()
        mode = scratch.stat().st_mode
        save_file(dict(tensors), scratch, dict(told))
        scratch.chmod(mode)  # save_file makes files that nobody else may read
        scratch.replace(file)
    except SafetensorError as error:  # a full disk, say
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _lines(told: Metadata) -> list[str]:
    return [f"{name} {told[name]}" for name in sorted(told)]


def _checksum(tensors: Tensors, lines: list[str]) -> str:
    """Of the tensors' names and numbers, and of lines that say what they are."""
    told = [*lines, *(f"{name} {hashed(tensors[name])}" for name in sorted(tensors))]
    return hashlib.sha256("\n".join(told).encode("utf-8", "surrogatepass")).hexdigest()
