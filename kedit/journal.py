"""A journal of what a study has finished: records and tensors by key, in memory or in a folder.

A study that is given the same journal again goes on from there: what is in it is not done again.
"""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kedit.errors import InputError
from kedit.progress import progress
from kedit.records import require_finite

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Record = Mapping[str, Any]
Finished = Record | tuple[Record, "Mapping[str, Tensor]"]  # a record, or one with its tensors

UNUSABLE = "not usable"  # why an item was skipped that raised InputError


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """An item of a study with its record.

    Args:
        record: what was found; or {"skipped": the reason in words, "why": its kind}.
    """

    item: Item
    key: str
    record: Record

    @property
    def skipped(self) -> str:
        """The reason why nothing was found; "" if something was."""
        return self.record.get("skipped", "")


def skip(why: str, reason: str, **about: Any) -> dict[str, Any]:
    """The record of an item that is left out: the kind of reason, the reason in words."""
    return {**about, "skipped": reason, "why": why}


class Journal:
    """Records and tensors of finished items, kept in memory."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self._kept: dict[str, Mapping[str, Tensor]] = {}
        self._asked: dict[str, str] = {}
        self._scratch: Path | None = None

    @property
    def where(self) -> str:
        """Where a reader finds the records, for messages."""
        return "the journal's records"

    def ask(self, study: str, **settings: Any) -> None:
        """Notes under which settings a study asks, so that no other question gets its answers.

        Raises:
            InputError: the journal holds answers of this study under other settings.
        """
        for name, value in settings.items():
            before = self._asked.setdefault(f"{study} {name}", repr(value))
            if before != repr(value):
                raise InputError(
                    f"this journal holds results of {study} with {name}={before:.60}, and "
                    f"{value!r:.60} is asked now: give another journal"
                )

    def add(self, key: str, record: Record, tensors: "Mapping[str, Tensor] | None" = None) -> None:
        """Keeps one finished record, in the place of one with the same key if there is any.

        Raises:
            InputError: a number of it is NaN or infinite, which is no result.
        """
        require_finite(f"the record {key}", record, tensors)
        self.records[key] = {"key": key, **record}
        self._kept[key] = dict(tensors or {})

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        """The tensors of a record."""
        return self._kept[key]

    def file(self, name: str) -> Path:
        """Where a study keeps a file of its own; in memory, it lasts as long as the process."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="kedit-"))
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch / name

    def replace(self, records: Mapping[str, Record]) -> None:
        """Has these records and no others."""
        self.records = {key: dict(record) for key, record in records.items()}

    # seven parameters: what is done, to what, and how it is shown
    def each(
        self,
        items: Iterable[Item],
        key: Callable[[Item], str],
        work: Callable[[Item], Finished],
        *,
        unit: str,
        doing: str,
        total: int | None = None,
        counts: Callable[[Entry[Item]], bool] = lambda entry: not entry.skipped,
        name: Callable[[Item], str] | None = None,
        about: Callable[[Item], Record] = lambda item: {},
    ) -> Iterator[Entry[Item]]:
        """Does `work` on each item that has no record yet, and gives every item with its record.

        An item for which `work` raises InputError is recorded as skipped, and costs only itself.

        Args:
            key: of an item's record.
            unit, doing: for the progress that is shown: "facts", "tracing".
            total: the items end when so many of them count; None: all are done.
            counts: which entries do; by default those that were not skipped.
            name: of an item, shown while it is worked on.
            about: what the record of a skipped item says of it.
        """
        yield from self.each_batch(
            items, key, lambda ones: [work(ones[0])], 1,
            unit=unit, doing=doing, total=total, counts=counts, name=name, about=about,
        )  # fmt: skip

    def each_batch(
        self,
        items: Iterable[Item],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Finished]],
        size: int,
        *,
        unit: str,
        doing: str,
        total: int | None = None,
        counts: Callable[[Entry[Item]], bool] = lambda entry: not entry.skipped,
        name: Callable[[Item], str] | None = None,
        about: Callable[[Item], Record] = lambda item: {},
    ) -> Iterator[Entry[Item]]:
        """As `each`, with `work` on up to `size` items at once.

        Where it raises InputError, the items of that batch are done one by one.
        """
        n_seen = n_counted = 0
        of = len(items) if total is None and isinstance(items, Sized) else total
        batch: list[Item] = []
        waiting: list[Item] = []  # in order, with those that have a record already
        with progress(unit) as bars:
            bar = bars.add_task(doing, total=of)

            def done() -> Iterator[Entry[Item]]:
                nonlocal n_seen, n_counted
                self._do(batch, key, work, about)
                for item in waiting:
                    entry = Entry(item, key(item), self.records[key(item)])
                    n_seen, n_counted = n_seen + 1, n_counted + counts(entry)
                    bars.update(bar, completed=n_seen if total is None else n_counted)
                    yield entry
                batch.clear()
                waiting.clear()

            for item in items:
                if n_counted == total:
                    break
                if name is not None:
                    bars.update(bar, description=name(item))
                waiting.append(item)
                if key(item) not in self.records:
                    batch.append(item)
                if size == 1 or len(batch) == size:
                    yield from done()
            yield from done()

    def _do(
        self,
        items: Sequence[Item],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Finished]],
        about: Callable[[Item], Record],
    ) -> None:
        if len(items) > 1:
            with contextlib.suppress(InputError):
                found = [_parted(one) for one in work(items)]
                for item, (record, tensors) in zip(items, found, strict=True):
                    require_finite(key(item), record, tensors)
                for item, (record, tensors) in zip(items, found, strict=True):
                    self.add(key(item), record, tensors)
                return
        for item in items:
            try:
                ((record, tensors),) = map(_parted, work([item]))
                self.add(key(item), record, tensors)
            except InputError as error:
                self.add(key(item), skip(UNUSABLE, str(error), **about(item)))


def _parted(finished: Finished) -> "tuple[Record, Mapping[str, Tensor]]":
    return finished if isinstance(finished, tuple) else (finished, {})
