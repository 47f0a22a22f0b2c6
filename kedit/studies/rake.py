"""Builds RaKE, the benchmark of both perspectives: equal sources give equal bytes."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kedit.data.fields import Skipped
from kedit.data.rake_build import build, portability
from kedit.data.survey import survey
from kedit.errors import InputError
from kedit.progress import progress
from kedit.results.rake import RakeStatistics, Tally


@dataclass(frozen=True)
class Built:
    """A benchmark that was built.

    Args:
        file: the path of rake.jsonl, which has one record per line.
        statistics: counts of the records, and the digest of the file.
        skipped: records of the sources that could not be used.
    """

    file: Path
    statistics: RakeStatistics
    skipped: tuple[Skipped, ...]

    def skipped_lines(self) -> str:
        """Returns `skipped` as JSON Lines."""
        lines = (json.dumps(record.to_record(), ensure_ascii=False) for record in self.skipped)
        return "".join(f"{line}\n" for line in lines)


def build_rake(
    source: str | Path, folder: str | Path, *, extras: str | Path = "", limit: int = 0
) -> Built:
    """Builds rake.jsonl in `folder`; the file appears only when it is complete.

    Args:
        source: the file of CounterFact, or a file with the edits of CounterFact only.
        folder: where rake.jsonl is written.
        extras: the file of EasyEdit's additions to CounterFact, for portability questions; "": no
            portability questions.
        limit: number of records to build, from the first on; 0: all.

    Raises:
        InputError: a file cannot be read, or no record can be used.
    """
    source, folder, tally = Path(source), Path(folder), Tally()
    questions, broken = portability(Path(extras)) if extras else ({}, [])
    skipped = [*broken]
    digest = hashlib.sha256()
    with progress("records") as bars:
        bar = bars.add_task("reading", total=None)
        seen = survey(source)
        bars.update(bar, description="building", total=min(limit or seen.n_edits, seen.n_edits))
        folder.mkdir(parents=True, exist_ok=True)
        with _whole(folder / "rake.jsonl") as lines:
            for record in build(source, seen, questions):
                if isinstance(record, Skipped):
                    skipped.append(record)
                    continue
                line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                lines.write(line)
                digest.update(line)
                tally.add(record)
                bars.advance(bar)
                if limit and tally.relations.total() == limit:
                    break
            if not tally.relations:
                reason = skipped[0] if skipped else "the file is empty"
                raise InputError(f"{source}: no record can be used; {reason}")
    counts = tally.statistics(len(skipped), source.name, digest.hexdigest())
    return Built(folder / "rake.jsonl", counts, tuple(skipped))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a scratch file that gets the name `path` only when it is complete."""
    scratch = path.with_name(f"{path.name}.part")
    try:
        with scratch.open("wb") as lines:
            yield lines
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
