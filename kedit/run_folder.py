"""A run's folder: a journal on disk, with the options, inputs and versions it was made from."""

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
RECORDS, DAMAGED = "records.jsonl", "records.damaged.jsonl"
LONGEST = 160  # bytes of a file's name, so that there is room for what is added to it
PACKAGES = ("kedit", "torch", "transformer-lens", "transformers", "numpy")


class RunFolder(Journal):
    """One run's folder, to which records are added as they are finished.

    A torn last line is dropped. Damaged lines, and those whose tensors are lost or damaged, are put
    aside in records.damaged.jsonl: what they held is missing, and is measured again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._lines = path / RECORDS
        read = read_lines(self._lines)
        self.records = read.records
        with_tensors = [key for key, record in self.records.items() if "tensors" in record]
        lost = [key for key in with_tensors if self._read_tensors(key) is None]
        damaged = [*read.damaged, *(line_of(self.records.pop(key)).rstrip(b"\n") for key in lost)]
        if damaged:
            with (path / DAMAGED).open("ab") as aside:
                aside.write(b"".join(line + b"\n" for line in damaged))
            self._write_records()
            log.warning(
                "Put aside in %s, and measured again: damaged lines of %s (%d), and records whose "
                "tensors are lost or damaged (%d)",
                DAMAGED, self._lines, len(read.damaged), len(lost),
            )  # fmt: skip
        elif read.torn:
            with self._lines.open("rb+") as lines:
                lines.truncate(self._lines.stat().st_size - len(read.torn))

    @property
    def where(self) -> str:
        return str(self._lines)

    def add(self, key: str, record: Record, tensors: "Mapping[str, Tensor] | None" = None) -> None:
        """As `Journal.add`: tensors are on disk before the line is, which has their checksum."""
        require_finite(f"the record {key}", record, tensors)
        own = {"key": key, **record}
        if tensors:
            from kedit import cache  # it brings torch, which reading records does not need

            own["tensors"] = cache.write(self._tensors(key), tensors, {})
        is_new = key not in self.records
        self.records[key] = own
        if not is_new:
            self._write_records()
            return
        with self._lines.open("ab") as lines:
            lines.write(line_of(own))
            lines.flush()
            os.fsync(lines.fileno())

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        """The tensors of a record.

        Raises:
            InputError: they have been lost or damaged since the folder was opened.
        """
        found = self._read_tensors(key)
        if found is None:
            raise InputError(
                f"{self._tensors(key)} is lost or damaged: the same command, given again, makes it "
                "anew"
            )
        return found

    def file(self, name: str) -> Path:
        return self.path / name

    def replace(self, records: Mapping[str, Record]) -> None:
        if dict(records) != self.records:
            super().replace(records)
            self._write_records()

    def write_json(self, name: str, value: Any) -> None:
        """As JSON, which has no NaN and no infinity: null stands for them."""
        text = json.dumps(
            to_record(value), indent=1, ensure_ascii=False, default=str, allow_nan=False
        )
        self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """A text file in the folder, whole or as it was before."""
        write_whole(self.path / name, text)

    def require_weights(self, fingerprint: str) -> None:
        """Keeps the fingerprint of the model that is measured, beside the options.

        Raises:
            InputError: the folder's records are of a model with other weights.
        """
        told = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        if told["weights"] not in ("", fingerprint):
            raise InputError(
                f"{self.path} holds a run of {told['measured']['model']} with other weights, which "
                "have changed since: choose another --out, or remove that folder"
            )
        write_whole(self.path / CONFIG, json.dumps({**told, "weights": fingerprint}, indent=1))

    def _read_tensors(self, key: str) -> "Mapping[str, Tensor] | None":
        """Those of a record, if they are there and are those that were written with it."""
        from safetensors import SafetensorError

        from kedit import cache

        try:
            tensors, told = cache.read(self._tensors(key))
        except (OSError, SafetensorError):
            return None
        is_own = cache.checksum_of(tensors, told) == self.records[key]["tensors"]
        return tensors if is_own else None

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
    """The folder of a run, new or with what an earlier run finished, for one process at a time.

    Args:
        measured: the options that change what is measured.
        inputs: digests of the files that these name.
        options: all of them.

    Raises:
        InputError: another process works in the folder, it cannot be written, or it holds a run of
            another experiment, of other options, or of files whose contents were others.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # held by the system, which lets go of it when the process ends, however it does
        lock = filelock.FileLock(path / "lock")
        try:
            held = lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(f"{path} is in use by another process") from None
        with held:
            told: dict[str, Any] = {
                "experiment": experiment, "measured": measured, "inputs": inputs
            }  # fmt: skip
            told |= {"weights": _require_same(path, told), "all": options}
            write_whole(path / CONFIG, json.dumps(told, indent=1))
            versions = {package: importlib.metadata.version(package) for package in PACKAGES}
            versions |= {"python": platform.python_version(), "machine": platform.platform()}
            if commit := _commit():
                versions["commit"] = commit
            write_whole(path / VERSIONS, json.dumps(versions, indent=1))
            yield RunFolder(path)
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise  # of a network, or of a screen that nobody reads any more
        place = error.filename or path
        raise InputError(f"{place} cannot be read or written: {error.strerror}") from error


def write_whole(path: Path, text: str) -> None:
    """The file is there whole, or as it was before."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system
    scratch.replace(path)


def file_name(text: str) -> str:
    """`text` as the name of a file, without its suffix: on one line, without / and not too long."""
    name = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in text)
    name = name.encode("utf-8", "replace").decode()
    if len(name.encode()) <= LONGEST:
        return name
    # what is cut off is told by a digest, for another name may begin in the same way
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode('utf-8', 'ignore')}-{digest}"


def _commit() -> str:
    """The commit that kedit's own checkout is at, with a + for changes; "" where there is none."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(root), *asked], capture_output=True, text=True, check=True,
                timeout=10,
            ).stdout.strip()
            for asked in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""  # no git, or not one that reads this checkout
    return head + "+" * bool(changes)


def _require_same(path: Path, told: Mapping[str, Any]) -> str:
    """The fingerprint of the model that the run in `path` is of; "" for a new one.

    Raises:
        InputError: config.json cannot be read, or is of a run that is not the one told.
    """
    saved, way_on = path / CONFIG, "choose another --out, or remove that folder"
    if not saved.exists():
        return ""
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
        before = {**found["measured"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{saved} is damaged, so that nobody knows its run: {way_on}") from None
    ran = found.get("experiment", told["experiment"])
    if ran != told["experiment"]:
        raise InputError(f"{path} holds a run of {ran}, this is {told['experiment']}")
    for option, value in told["measured"].items():
        if value != before.get(option):
            raise InputError(
                f"{path} holds a run with {option}={before.get(option)!r}, this one has "
                f"{value!r}: {way_on}"
            )
    inputs, weights = found.get("inputs"), found.get("weights")
    if not isinstance(inputs, dict) or not isinstance(weights, str):
        raise InputError(
            f"{path} holds a run of an earlier kedit, which did not note what its files and its "
            f"model held: {way_on}"
        )
    for file in {**inputs, **told["inputs"]}:
        if inputs.get(file) != told["inputs"].get(file):
            raise InputError(
                f"{path} holds a run with another {file}, which has changed since: {way_on}"
            )
    return weights
