"""What a run folder holds, whatever experiment wrote it."""

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
READ = ("config.json", "versions.json", "averages.json", "records.jsonl")  # by name
UNTOLD = ("lock", PAGE)
TEXTS = (".md", ".txt", ".json")
LONGEST = 200_000  # bytes of a text that is shown whole


@dataclass(frozen=True)
class RunFiles:
    """A run's folder; what its experiment does not write is empty.

    Args:
        config, versions: as their files have them.
        averages: averages.json of a traced run.
        edited: report.json of the edit of one fact.
        compared: editors of comparison.json, one for each of them and side.
        records: finished records, in order.
        pictures, tables, texts: *.png, *.csv, and short *.md, *.txt and *.json, in the folder.
        others: all further files, those of folders inside it too.
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
        """Every option of the run."""
        return self.config.get("all", self.config)

    @property
    def name(self) -> str:
        """The experiment's; the folder's, if it does not say."""
        return self.config.get("experiment", self.path.resolve().name)

    @property
    def traced(self) -> list[dict[str, Any]]:
        """Records of the facts that were traced and whose tensors are there."""
        return [
            record
            for record in self.records
            if "traces" in record and self._tensors(record["key"]).exists()
        ]

    def traces(self, limit: int) -> "Iterator[dict[str, FactTrace]]":
        """The first `limit` facts that were traced, by the part that was corrupted.

        Raises:
            InputError: their tensors are damaged.
        """
        from safetensors import SafetensorError

        from kedit import cache as kept
        from kedit.results.traces import fact_traces

        for record in self.traced[:limit]:
            file = self._tensors(record["key"])
            try:
                tensors, told = kept.read(file)
                if "tensors" in record and record["tensors"] != kept.checksum_of(tensors, told):
                    raise KeyError(f"the checksum of {record['key']}")
                traces = fact_traces(record, tensors)
            except (OSError, SafetensorError, KeyError) as error:
                raise InputError(
                    f"{file} is damaged: the run's command, given again, makes it anew"
                ) from error
            yield traces

    def _tensors(self, key: str) -> Path:
        return self.path / "tensors" / f"{key}.safetensors"


def read_run(path: Path) -> RunFiles:
    """What lies in the folder `path`.

    Raises:
        InputError: there is no such folder, it holds no run, or a file of it is not JSON.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder: the folder that an experiment printed is wanted")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in UNTOLD)
    own = [file for file in files if file.parent == path]
    if not own:
        inside = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        told = f"no run, but folders: {', '.join(inside)}" if inside else "nothing"
        raise InputError(f"{path} holds {told}; the folder of one run is wanted")
    if not (path / CONFIG).exists():
        raise InputError(
            f"{path} has no {CONFIG}, which every run's folder has: a page shows all that lies "
            "in a folder, so that one of a run is wanted"
        )
    texts = [file for file in own if file.suffix in TEXTS and file.name not in READ]
    shown = {
        "pictures": tuple(file for file in own if file.suffix == ".png"),
        "tables": tuple(file for file in own if file.suffix == ".csv"),
        "texts": tuple(file for file in texts if file.stat().st_size <= LONGEST),
    }
    known = {file for kind in shown.values() for file in kind} | {path / name for name in READ}
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
    """The object that a file holds; nothing where there is no file.

    A list, as earlier versions wrote comparison.json, is shown as a text alone.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}
