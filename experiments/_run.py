"""The run folder: configuration, versions, one record as it is finished, resume, lock."""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments._finite import require_finite, require_finite_options, without_nan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from torch import Tensor

Config = TypeVar("Config", bound=Any)
RESULTS = Path("results")
PACKAGES = ("kedit", "torch", "transformer-lens", "transformers", "numpy")


def command(
    config_class: type[Config], run: Callable[[Config], Path], default: Config | None = None
):
    """Parses the command line and runs; what a user can mend is told in one line."""
    import simple_parsing

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("kedit").setLevel(logging.INFO)
    config = simple_parsing.parse(
        config_class,
        default=default,
        prog=f"python -m {Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem}",
        add_config_path_arg=False,
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
        description=sys.modules[run.__module__].__doc__,
    )
    from kedit.errors import InputError

    try:
        run(config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped: what was finished is kept, the same command goes on from there")


class RunFolder:
    """One run's folder. Records are appended as they are finished; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._lines = path / "records.jsonl"
        kept = 0
        if self._lines.exists():
            for line in self._lines.read_bytes().splitlines(keepends=True):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break
                if not line.endswith(b"\n"):
                    break
                self.records[record["key"]] = record
                kept += len(line)
            with self._lines.open("rb+") as lines:
                lines.truncate(kept)

    def add(
        self, key: str, record: Mapping[str, Any], tensors: Mapping[str, "Tensor"] | None = None
    ):
        """Keeps one finished record; its tensors are on disk before its line is.

        Raises:
            InputError: a number of it is NaN or infinite, which is no result.
        """
        require_finite(f"the record {key}", record, tensors)
        if tensors:
            from safetensors.torch import save_file

            self._tensors(key).parent.mkdir(exist_ok=True)
            scratch = self._tensors(key).with_suffix(".part")
            save_file(dict(tensors), scratch)
            scratch.replace(self._tensors(key))
        self.records[key] = {"key": key, **record}
        with self._lines.open("ab") as lines:
            text = json.dumps(self.records[key], ensure_ascii=False, allow_nan=False)
            lines.write(text.encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())

    def tensors(self, key: str) -> dict[str, "Tensor"]:
        from safetensors.torch import load_file

        return load_file(self._tensors(key))

    def write_json(self, name: str, value: Any) -> None:
        """As JSON, which has no NaN and no infinity: null stands for them."""
        text = json.dumps(
            without_nan(value), indent=1, ensure_ascii=False, default=str, allow_nan=False
        )
        write_whole(self.path / name, text)

    def _tensors(self, key: str) -> Path:
        return self.path / "tensors" / f"{key}.safetensors"


@contextlib.contextmanager
def open_run(experiment: str, config: Any, outside: tuple[str, ...] = ()) -> Iterator[RunFolder]:
    """The folder of this experiment and configuration: new, or with what an earlier run finished.

    Args:
        config: a dataclass with `out` ("" for a name of its own) and `model`.
        outside: fields that change how results are drawn, not what is measured.

    Raises:
        InputError: another process works in the folder, or it holds a run of another experiment or
            configuration; an option is NaN or infinite.
    """
    from kedit.errors import InputError

    require_finite_options(config)
    fields = dataclasses.asdict(config)
    kept = {name: value for name, value in fields.items() if name not in ("out", *outside)}
    measured = json.loads(json.dumps(kept))  # as a folder gives it back: without tuples
    digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{Path(str(fields['model'])).stem}-{digest}"
    path = Path(fields["out"]) if fields["out"] else RESULTS / experiment / name
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path} is in use by another process") from None
        saved = path / "config.json"
        if saved.exists():
            found = json.loads(saved.read_text())
            if (ran := found.get("experiment", experiment)) != experiment:
                raise InputError(f"{path} holds a run of {ran}, this is {experiment}")
            before = found["measured"]
            other = [key for key in measured if measured[key] != before.get(key)]
            if other:
                raise InputError(
                    f"{path} holds a run with {other[0]}={before.get(other[0])!r}, this one has "
                    f"{measured[other[0]]!r}: choose another --out, or remove that folder"
                )
        told = {"experiment": experiment, "measured": measured, "all": fields}
        write_whole(saved, json.dumps(told, indent=1))
        versions = {package: importlib.metadata.version(package) for package in PACKAGES}
        versions |= {"python": platform.python_version(), "machine": platform.platform()}
        write_whole(path / "versions.json", json.dumps(versions, indent=1))
        yield RunFolder(path)


def progress(unit: str) -> "Progress":
    """A bar with how many `unit` are done, the time it took and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        Elapsed(), TextColumn("left:"), Remaining(elapsed_when_finished=False),
    )  # fmt: skip


def console(width: int = 0) -> "Console":
    """Where tables are printed; wide enough for them where nobody looks at a terminal."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else max(128, width))


def write_whole(path: Path, text: str) -> None:
    """The file is there whole, or as it was before."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
