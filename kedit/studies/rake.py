"""Building RaKE, the benchmark of both perspectives: the same bytes everywhere."""

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
        file: rake.jsonl, a record a line.
        statistics: of its records.
        skipped: records of the sources that could not be used.
    """

    file: Path
    statistics: RakeStatistics
    skipped: tuple[Skipped, ...]

    def skipped_lines(self) -> str:
        """`skipped` as JSON Lines."""
        lines = (json.dumps(one.to_record(), ensure_ascii=False) for one in self.skipped)
        return "".join(f"{line}\n" for line in lines)


def build_rake(
    source: str | Path, folder: str | Path, *, extras: str | Path = "", limit: int = 0
) -> Built:
    """Builds rake.jsonl in `folder`; nothing lies there before it is whole.

    Args:
        source: CounterFact, or its edits alone.
        extras: EasyEdit's additions to CounterFact, for its portability questions; "" for none.
        limit: how many records to build, from the first on; 0 for all.

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
                first = skipped[0] if skipped else "it is empty"
                raise InputError(f"{source}: no record can be used; {first}")
    counts = tally.statistics(len(skipped), source.name, digest.hexdigest())
    return Built(folder / "rake.jsonl", counts, tuple(skipped))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that has its name only when it is finished."""
    scratch = path.with_name(f"{path.name}.part")
    try:
        with scratch.open("wb") as lines:
            yield lines
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
