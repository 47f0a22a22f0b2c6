"""The folder of cached files, and safetensors files whose checksum is checked when they are read.

`store` and `load` are for caches: a failure is logged, and the numbers are computed again. `write`
and `read` are for results: a failure is an error.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kedit.errors import InputError
from kedit.progress import working

log = logging.getLogger("kedit")

CHECKSUM = "checksum"
Tensors = Mapping[str, Tensor]
Metadata = Mapping[str, str]  # names and texts in the header of a safetensors file


def cache_dir() -> Path:
    """Returns the folder of cached files: KEDIT_CACHE, or kedit/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KEDIT_CACHE") or Path(base) / "kedit")


def entries() -> dict[str, int]:
    """Returns the bytes of everything in the cache, by the name of its file or folder there."""
    base = cache_dir()
    found = sorted(base.iterdir()) if base.is_dir() else []
    return {one.name: sum(map(_size, (one, *one.rglob("*")))) for one in found}


def clear(names: Sequence[str] = ()) -> int:
    """Deletes entries of the cache, which are made again when they are needed.

    Args:
        names: as `entries` gives them; empty: all.

    Returns:
        the bytes that were freed.

    Raises:
        InputError: an entry does not exist.
    """
    sizes = entries()
    if unknown := [name for name in names if name not in sizes]:
        raise InputError(
            f"the cache has no {', '.join(unknown)}; it has {', '.join(sizes) or 'no entries'}"
        )
    for name in names or sizes:
        path = cache_dir() / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return sum(sizes[name] for name in names or sizes)


def hashed(tensor: Tensor) -> str:
    """Returns a SHA-256 digest of a tensor's dtype, shape and numbers.

    It does not depend on the tensor's device or on the order of its numbers in memory.
    """
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(file: Path, tensors: Tensors, metadata: Metadata) -> str:
    """Writes `file` completely or not at all, and returns its checksum.

    The checksum covers the tensors and `metadata`.

    Raises:
        OSError: the file cannot be written.
    """
    checksum = _checksum(tensors, _lines(metadata))
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(file, file.with_name(f".{file.name}.part"), tensors, {**metadata, CHECKSUM: checksum})
    return checksum


def read(file: Path) -> tuple[Tensors, Metadata]:
    """Reads the tensors and the metadata of a safetensors file; `checksum_of` then checks them.

    Raises:
        OSError, SafetensorError: there is no such file, or it is not a safetensors file.
    """
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata() or {})
        # copies, because the file may be replaced or truncated while the tensors are in use
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        return tensors, metadata


def checksum_of(tensors: Tensors, metadata: Metadata) -> str:
    """Returns the checksum in `metadata` if it fits the rest of the file, else ""."""
    rest = {name: text for name, text in metadata.items() if name != CHECKSUM}
    found = metadata.get(CHECKSUM, "")
    return found if found == _checksum(tensors, _lines(rest)) else ""


def store(file: Path, tensors: Tensors, metadata: Metadata) -> None:
    """Writes a file of the cache, with `metadata` for people who look into the file.

    If the file cannot be written (the disk is full, say), this is only logged, so that the caller
    can still use the tensors, which may have taken long to compute.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # in a scratch folder, because two processes may write the same file at once
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            checksum = _checksum(tensors, [file.name])
            _save(file, Path(scratch, file.name), tensors, {**metadata, CHECKSUM: checksum})
    except (OSError, SafetensorError) as error:
        log.warning(
            "The cache %s cannot be written (%s): name another folder in KEDIT_CACHE",
            file.parent,
            error,
        )


def load(file: Path) -> Tensors | None:
    """Reads what `store` wrote; returns None if there is no such file or it is damaged."""
    try:
        tensors, metadata = read(file)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read and is computed again: %s", file, error)
        return None
    # The checksum covers the file's name, which identifies the numbers, and not the metadata, which
    # is for people only.
    if metadata.get(CHECKSUM) != _checksum(tensors, [file.name]):
        log.warning("%s is damaged and is computed again: its checksum is wrong", file)
        return None
    return tensors


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Waits until no other process is in a block of the same name, so that it can use its files.

    Where the cache cannot be written, it does not wait: no other process can leave a file there.
    """
    lock = filelock.FileLock(cache_dir() / "locks" / f"{name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        with working("waiting for another process, which computes the same"):
            lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _size(path: Path) -> int:
    """Returns the bytes of a file; 0 for a folder, a link, and a file that has just gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    return 0


def _save(file: Path, scratch: Path, tensors: Tensors, metadata: Metadata) -> None:
    """Writes `scratch` and moves it to `file`, so that `file` is never incomplete."""
    try:
        scratch.touch()
        mode = scratch.stat().st_mode
        save_file(dict(tensors), scratch, dict(metadata))
        scratch.chmod(mode)  # save_file removes the permission of others to read the file
        scratch.replace(file)
    except SafetensorError as error:  # safetensors reports a full disk in this way, for example
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _lines(metadata: Metadata) -> list[str]:
    return [f"{name} {metadata[name]}" for name in sorted(metadata)]


def _checksum(tensors: Tensors, lines: list[str]) -> str:
    """Returns a SHA-256 digest of the tensors' names and numbers and of further lines."""
    lines = [*lines, *(f"{name} {hashed(tensors[name])}" for name in sorted(tensors))]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
