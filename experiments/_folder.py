"""A run's folder: records and tensors as they are finished, kept, checked and found again."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._finite import require_finite, without_nan
from kedit.lines import line_of, read_lines

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

log = logging.getLogger("kedit")

CONFIG, RECORDS, DAMAGED = "config.json", "records.jsonl", "records.damaged.jsonl"


class RunFolder:
    """One run's folder, to which records are added as they are finished.

    A torn last line is dropped. Damaged lines, and those whose tensors are lost or damaged, are put
    aside in records.damaged.jsonl: what they held is missing, and is measured again.
    """

    def __init__(self, path: Path) -> None:
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

    def load(self, config: Any) -> "HookedTransformer":
        """The model that a configuration names.

        Raises:
            InputError: as kedit.models.load.load and `require_weights`; or a text is too short for
                what is to be read of it.
        """
        from experiments._text_length import require_bytes, require_tokens
        from kedit.models.load import load

        require_bytes(config)
        model = load(config.model, config.device, getattr(config, "dtype", None))
        self.require_weights(model)
        require_tokens(config, model)
        return model

    def require_weights(self, model: "HookedTransformer") -> None:
        """Keeps the fingerprint of the model that is measured, beside the options.

        Raises:
            InputError: the folder's records are of a model with other weights.
        """
        from kedit.editing.provenance import fingerprint
        from kedit.errors import InputError

        told = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        own = fingerprint(model)
        if told["weights"] not in ("", own):
            raise InputError(
                f"{self.path} holds a run of {told['measured']['model']} with other weights, which "
                "have changed since: choose another --out, or remove that folder"
            )
        write_whole(self.path / CONFIG, json.dumps({**told, "weights": own}, indent=1))

    def add(
        self, key: str, record: Mapping[str, Any], tensors: Mapping[str, "Tensor"] | None = None
    ) -> None:
        """Keeps one finished record, in the place of one with the same key if there is any.

        Its tensors are on disk before its line is, and its line has their checksum.

        Raises:
            InputError: a number of it is NaN or infinite, which is no result.
        """
        require_finite(f"the record {key}", record, tensors)
        own = {"key": key, **record}
        if tensors:
            from kedit import cache as kept

            own["tensors"] = kept.write(self._tensors(key), tensors, {})
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
        from kedit.errors import InputError

        found = self._read_tensors(key)
        if found is None:
            raise InputError(
                f"{self._tensors(key)} is lost or damaged: the same command, given again, makes it "
                "anew"
            )
        return found

    def replace(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Has these records and no others."""
        if dict(records) != self.records:
            self.records = {key: dict(record) for key, record in records.items()}
            self._write_records()

    def write_json(self, name: str, value: Any) -> None:
        """As JSON, which has no NaN and no infinity: null stands for them."""
        text = json.dumps(
            without_nan(value), indent=1, ensure_ascii=False, default=str, allow_nan=False
        )
        write_whole(self.path / name, text)

    def _read_tensors(self, key: str) -> "Mapping[str, Tensor] | None":
        """Those of a record, if they are there and are those that were written with it."""
        from safetensors import SafetensorError

        from kedit import cache as kept

        try:
            tensors, told = kept.read(self._tensors(key))
        except (OSError, SafetensorError):
            return None
        is_own = kept.checksum_of(tensors, told) == self.records[key]["tensors"]
        return tensors if is_own else None

    def _tensors(self, key: str) -> Path:
        return self.path / "tensors" / f"{key}.safetensors"

    def _write_records(self) -> None:
        scratch = self._lines.with_name(f"{RECORDS}.part")
        scratch.write_bytes(b"".join(map(line_of, self.records.values())))
        scratch.replace(self._lines)


def key_of(item: Any) -> str:
    """A digest of all fields of a frozen dataclass, of those in it too.

    Fields that have their defaults do not count: a field that a later kedit adds changes no key.
    """
    told = json.dumps(_plain(item), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _plain(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_plain(one) for one in item]
    if not dataclasses.is_dataclass(item):
        return item
    own = {field: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {field.name: _plain(value) for field, value in own.items() if value != field.default}


def write_whole(path: Path, text: str) -> None:
    """The file is there whole, or as it was before."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
