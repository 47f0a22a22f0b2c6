"""Keeps a run on disk: a journal with the options, input files and package versions of the run.

A command that is given again with the same options finds its folder and does only what is missing.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from kedit.errors import InputError
from kedit.journal import Journal, Record
from kedit.lines import line_of, read_lines
from kedit.records import require_finite, to_record

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("kedit")

CONFIG, VERSIONS = "config.json", "versions.json"
FORMAT = "1"  # version of the files of a run; raised if an older kedit could not go on with it
RECORDS, DAMAGED = "records.jsonl", "records.damaged.jsonl"
LONGEST = 160  # bytes of a file's name, so that there is room for prefixes and suffixes
PACKAGES = ("kedit", "torch", "transformer-lens", "transformers", "numpy")


class RunFolder(Journal):
    """A journal in a folder, to which each record is added as soon as it is finished.

    When the folder is opened, a torn last line is dropped. Damaged lines, and records whose tensors
    are lost or damaged, are moved to records.damaged.jsonl, and their items are measured again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._lines = path / RECORDS
        found = read_lines(self._lines)
        self.records = found.records
        with_tensors = [key for key, record in self.records.items() if "tensors" in record]
        lost = [key for key in with_tensors if self._read_tensors(key) is None]
        damaged = [*found.damaged, *(line_of(self.records.pop(key)).rstrip(b"\n") for key in lost)]
        if damaged:
            with (path / DAMAGED).open("ab") as aside:
                aside.write(b"".join(line + b"\n" for line in damaged))
            self._write_records()
            log.warning(
                "Moved to %s, and measured again: damaged lines of %s (%d), and records whose "
                "tensors are lost or damaged (%d)",
                DAMAGED, self._lines, len(found.damaged), len(lost),
            )  # fmt: skip
        elif found.torn:
            with self._lines.open("rb+") as lines:
                lines.truncate(self._lines.stat().st_size - len(found.torn))

    @property
    def where(self) -> str:
        return str(self._lines)

    def add(self, key: str, record: Record, tensors: "Mapping[str, Tensor] | None" = None) -> None:
        """Adds or replaces a record on disk; see `Journal.add`.

        Tensors are written before the record's line, which holds their checksum: a process that is
        stopped in between leaves no record without its tensors.
        """
        require_finite(f"the record {key}", record, tensors)
        entry = {"key": key, **record}
        if tensors:
            from kedit import cache  # imported here: it needs torch, and reading records does not

            entry["tensors"] = cache.write(self._tensors(key), tensors, {})
        is_new = key not in self.records
        self.records[key] = entry
        if not is_new:
            self._write_records()
            return
        with self._lines.open("ab") as lines:
            lines.write(line_of(entry))
            lines.flush()
            os.fsync(lines.fileno())

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        """Returns the tensors of a record.

        Raises:
            InputError: they have been lost or damaged since the folder was opened.
        """
        found = self._read_tensors(key)
        if found is None:
            raise InputError(
                f"{self._tensors(key)} is lost or damaged: run the same command again to measure "
                "it again"
            )
        return found

    def file(self, name: str) -> Path:
        return self.path / name

    def replace(self, records: Mapping[str, Record]) -> None:
        if dict(records) != self.records:
            super().replace(records)
            self._write_records()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as a JSON file, with null for NaN and infinity."""
        text = json.dumps(
            to_record(value), indent=1, ensure_ascii=False, default=str, allow_nan=False
        )
        self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Writes a text file into the folder, completely or not at all."""
        write_whole(self.path / name, text)

    def require_weights(self, fingerprint: str) -> None:
        """Checks the model's fingerprint against the folder's, or notes it if the run is new.

        Raises:
            InputError: the folder's records were measured on a model with other weights.
        """
        config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        if config["weights"] not in ("", fingerprint):
            raise InputError(
                f"{self.path} holds a run of {config['measured']['model']} with other weights, "
                "which have changed since: choose another --out, or remove that folder"
            )
        write_whole(self.path / CONFIG, json.dumps({**config, "weights": fingerprint}, indent=1))

    def _read_tensors(self, key: str) -> "Mapping[str, Tensor] | None":
        """Reads the tensors of a record; None if they are missing, damaged, or another record's."""
        from safetensors import SafetensorError

        from kedit import cache

        try:
            tensors, metadata = cache.read(self._tensors(key))
        except (OSError, SafetensorError):
            return None
        is_right = cache.checksum_of(tensors, metadata) == self.records[key]["tensors"]
        return tensors if is_right else None

    def _tensors(self, key: str) -> Path:
        return self.path / "tensors" / f"{key}.safetensors"

    def _write_records(self) -> None:
        scratch = self._lines.with_name(f"{RECORDS}.part")
        scratch.write_bytes(b"".join(map(line_of, self.records.values())))
        scratch.replace(self._lines)


@contextlib.contextmanager
def open_folder(
    path: Path,
    experiment: str,
    measured: Mapping[str, Any],
    inputs: Mapping[str, str],
    options: Mapping[str, Any],
) -> Iterator[RunFolder]:
    """Opens the folder of a run, new or with the records of an earlier run, for one process only.

    Args:
        experiment: the name of the command.
        measured: the options that change what is measured.
        inputs: digests of the files that these options name, by file.
        options: all options.

    Raises:
        InputError: another process uses the folder, it cannot be written, or it holds a run of
            another experiment, with other options, or of files whose contents have changed.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):
            config: dict[str, Any] = {
                "format": FORMAT, "experiment": experiment, "measured": measured, "inputs": inputs
            }  # fmt: skip
            config |= {"weights": _require_same(path, config), "all": options}
            write_whole(path / CONFIG, json.dumps(config, indent=1))
            versions = {package: importlib.metadata.version(package) for package in PACKAGES}
            versions |= {"python": platform.python_version(), "machine": platform.platform()}
            if commit := _commit():
                versions["commit"] = commit
            write_whole(path / VERSIONS, json.dumps(versions, indent=1))
            yield RunFolder(path)
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise  # not about a file, but a network, or a pipe whose reader has gone
        file = error.filename or path
        raise InputError(f"{file} cannot be read or written: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from using a run's folder, or raises InputError if one uses it."""
    # a lock of the operating system, which is released however the process ends
    lock = filelock.FileLock(path / "lock")
    try:
        held = lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(f"{path} is in use by another process") from None
    with held:
        yield


def write_whole(path: Path, text: str) -> None:
    """Writes a text file completely, or leaves the file as it was."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system
    scratch.replace(path)


def file_name(text: str) -> str:
    """Makes a file's name without suffix from `text`: printable, without slashes, not too long."""
    name = "".join(char if char.isprintable() and char not in "/\\" else "_" for char in text)
    name = name.encode("utf-8", "replace").decode()
    if len(name.encode()) <= LONGEST:
        return name
    # a digest replaces what is cut off, because another text may begin in the same way
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode('utf-8', 'ignore')}-{digest}"


def _commit() -> str:
    """The commit of kedit's checkout, with a + for uncommitted changes; "" without a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True,
                timeout=10,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""  # git is missing, or cannot read this checkout
    return head + "+" * bool(changes)


def _require_same(path: Path, config: Mapping[str, Any]) -> str:
    """The fingerprint of the model of the run in `path`; "" for a new run.

    Args:
        config: experiment, measured options and inputs of the run that should be continued.

    Raises:
        InputError: config.json in `path` cannot be read, or belongs to another run.
    """
    saved, way_out = path / CONFIG, "choose another --out, or remove that folder"
    if not saved.exists():
        return ""
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
        before = {**found["measured"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{saved} is damaged, so that its run cannot be continued: {way_out}"
        ) from None
    written = found.get("format", FORMAT)  # runs of the same form were written without a number
    if written != FORMAT:
        raise InputError(
            f"{path} holds a run of format {written}, but this kedit goes on with format {FORMAT}: "
            f"use the version that {path / VERSIONS} names, or {way_out}"
        )
    ran = found.get("experiment", config["experiment"])
    if ran != config["experiment"]:
        raise InputError(f"{path} holds a run of {ran}, this is {config['experiment']}: {way_out}")
    for option, value in config["measured"].items():
        if value != before.get(option):
            raise InputError(
                f"{path} holds a run with {option}={before.get(option)!r}, this one has "
                f"{value!r}: {way_out}"
            )
    inputs, weights = found.get("inputs"), found.get("weights")
    if not isinstance(inputs, dict) or not isinstance(weights, str):
        raise InputError(
            f"{path} holds a run of an earlier version of kedit, which did not note digests of its "
            f"files and its model: {way_out}"
        )
    for file in {**inputs, **config["inputs"]}:
        if inputs.get(file) != config["inputs"].get(file):
            raise InputError(
                f"{path} holds a run with another {file}, which has changed since: {way_out}"
            )
    return weights
