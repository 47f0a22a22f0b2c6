"""Reads the files of a run folder, for any experiment."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedit.errors import InputError
from kedit.lines import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kedit.results.traces import FactTrace

PAGE, CONFIG = "report.html", "config.json"
PARSED = ("config.json", "versions.json", "averages.json", "records.jsonl")
IGNORED = ("lock", PAGE)
TEXTS = (".md", ".txt", ".json")
LONGEST = 200_000  # bytes; a longer text is not shown on the page


@dataclass(frozen=True)
class RunFiles:
    """The content of a run folder. Fields whose file the experiment does not write are empty.

    Args:
        path: the folder.
        config, versions: content of config.json and of versions.json.
        averages: averages.json of a tracing run.
        edited: report.json of an edit.
        compared: the editors in comparison.json, one entry per editor and side.
        records: finished records, in order.
        pictures, tables, texts: *.png files, *.csv files, and short *.md, *.txt and *.json files in
            the folder.
        others: all other files, including those in subfolders.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    averages: dict[str, Any]
    edited: dict[str, Any]
    compared: tuple[dict[str, Any], ...]
    records: tuple[dict[str, Any], ...]
    pictures: tuple[Path, ...]
    tables: tuple[Path, ...]
    texts: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The values of all options of the run."""
        return self.config.get("all", self.config)

    @property
    def name(self) -> str:
        """The name of the experiment; of the folder, if config.json does not name an experiment."""
        return self.config.get("experiment", self.path.resolve().name)

    @property
    def traced(self) -> list[dict[str, Any]]:
        """The records of traced facts whose tensors exist."""
        return [
            record
            for record in self.records
            if "traces" in record and self._tensors(record["key"]).exists()
        ]

    def traces(self, limit: int) -> "Iterator[dict[str, FactTrace]]":
        """The traces of the first `limit` traced facts, each by the corrupted part.

        Raises:
            InputError: a file of tensors is damaged.
        """
        from safetensors import SafetensorError

        from kedit import cache
        from kedit.results.traces import fact_traces

        for record in self.traced[:limit]:
            file = self._tensors(record["key"])
            try:
                tensors, metadata = cache.read(file)
                if "tensors" in record and record["tensors"] != cache.checksum_of(
                    tensors, metadata
                ):
                    raise KeyError(f"the checksum of {record['key']}")
                traces = fact_traces(record, tensors)
            except (OSError, SafetensorError, KeyError) as error:
                raise InputError(
                    f"{file} is damaged. Repeat the run's command to compute it again"
                ) from error
            yield traces

    def _tensors(self, key: str) -> Path:
        return self.path / "tensors" / f"{key}.safetensors"


def read_run(path: Path) -> RunFiles:
    """Reads the run folder `path`.

    Raises:
        InputError: there is no such folder, it is no run folder, or a file is not valid JSON.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: give the run folder that an experiment printed")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in IGNORED)
    direct = [file for file in files if file.parent == path]
    if not direct:
        inside = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        content = f"only contains folders: {', '.join(inside)}" if inside else "is empty"
        raise InputError(f"{path} {content}; give the folder of one run")
    if not (path / CONFIG).exists():
        raise InputError(
            f"{path} has no {CONFIG}, so it is not a run folder. A page would show all files of "
            "the folder; give the folder of one run"
        )
    texts = [file for file in direct if file.suffix in TEXTS and file.name not in PARSED]
    shown = {
        "pictures": tuple(file for file in direct if file.suffix == ".png"),
        "tables": tuple(file for file in direct if file.suffix == ".csv"),
        "texts": tuple(file for file in texts if file.stat().st_size <= LONGEST),
    }
    known = {file for kind in shown.values() for file in kind} | {path / name for name in PARSED}
    return RunFiles(
        path=path,
        config=_json(path / "config.json"),
        versions=_json(path / "versions.json"),
        averages=_json(path / "averages.json"),
        edited=_json(path / "report.json"),
        compared=tuple(_json(path / "comparison.json").get("editors", ())),
        records=tuple(read_lines(path / "records.jsonl").records.values()),
        others=tuple(file for file in files if file not in known),
        **shown,
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file.

    Earlier versions wrote comparison.json as a list; the page shows such a file only as text.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    return found if isinstance(found, dict) else {}
