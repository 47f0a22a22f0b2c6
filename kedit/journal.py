"""Keeps the finished records and tensors of a study, so that it can be stopped and continued.

A study that gets the same journal again skips the items that have a record in it. `Journal` keeps
them in memory, `kedit.run_folder.RunFolder` on disk.
"""

import atexit
import contextlib
import itertools
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kedit.batching import with_less_memory
from kedit.errors import InputError
from kedit.progress import progress
from kedit.records import require_finite

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Record = Mapping[str, Any]
Finished = Record | tuple[Record, "Mapping[str, Tensor]"]  # a record, or a record with tensors

POLL = 0.05  # seconds until it looks again for items that others are working on
UNUSABLE = "not usable"  # the kind of reason ("why") for skipping an item that raised InputError


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """An item of a study with its record.

    Args:
        key: the key of the record in the journal.
        record: the finding, or {"skipped": the reason in words, "why": the kind of reason}.
    """

    item: Item
    key: str
    record: Record

    @property
    def skipped(self) -> str:
        """The reason why the item was left out; "" if it was not."""
        return self.record.get("skipped", "")


def skip(why: str, reason: str, **about: Any) -> dict[str, Any]:
    """Builds the record of an item that is left out.

    Args:
        why: the kind of reason, such as UNUSABLE.
        reason: the reason in words.
        about: further fields of the record.
    """
    return {**about, "skipped": reason, "why": why}


class Journal:
    """Records and tensors of finished items, kept in memory.

    Attributes:
        shard: the part of a study that is done here, from 1 on, and the number of parts. The items
            of the study's first loop are divided; all else is done for what comes out of it.
    """

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self._tensors_of: dict[str, Mapping[str, Tensor]] = {}
        self._settings: dict[str, str] = {}
        self._scratch: Path | None = None
        self.shard: tuple[int, int] = (1, 1)
        self._is_divided = False

    @property
    def where(self) -> str:
        """The place of the records, in words for messages."""
        return "the journal's records"

    def ask(self, study: str, **settings: Any) -> None:
        """Notes the settings of a study, and refuses to mix its results under other settings.

        Raises:
            InputError: the journal was used by this study with other settings.
        """
        for name, value in settings.items():
            before = self._settings.setdefault(f"{study} {name}", repr(value))
            if before != repr(value):
                raise InputError(
                    f"this journal holds results of {study} with {name}={before:.60}, but now it "
                    f"is {value!r:.60}: use another journal"
                )

    def add(self, key: str, record: Record, tensors: "Mapping[str, Tensor] | None" = None) -> None:
        """Adds a finished record, or replaces the record with the same key.

        Raises:
            InputError: a number of the record or of its tensors is NaN or infinite.
        """
        require_finite(f"the record {key}", record, tensors)
        self.records[key] = {"key": key, **record}
        self._tensors_of[key] = dict(tensors or {})

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        """Returns the tensors of a record."""
        return self._tensors_of[key]

    def file(self, name: str) -> Path:
        """Returns a path for a further file of a study, such as a checkpoint.

        A journal in memory puts it into a scratch folder, which is removed when the process ends.
        """
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="kedit-"))
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch / name

    def replace(self, records: Mapping[str, Record]) -> None:
        """Replaces all records by these."""
        self.records = {key: dict(record) for key, record in records.items()}

    @contextlib.contextmanager
    def undivided(self) -> Iterator[None]:
        """Does all items of the loops in the block, whatever part of the study is done here."""
        before, self._is_divided = self._is_divided, True
        try:
            yield
        finally:
            self._is_divided = before

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
        amount: Callable[[Item], int] = lambda item: 1,
    ) -> Iterator[Entry[Item]]:
        """Does `work` on each item that has no record yet, and yields every item with its record.

        If `work` raises InputError for an item, this item is recorded as skipped, and the others
        are done.

        Args:
            key: gives the key of an item's record.
            work: gives the record of an item, alone or with its tensors.
            unit: what the progress bar counts, such as "facts".
            doing: what the progress bar says is done, such as "tracing".
            total: number of counted entries after which it stops; None: all items are done.
            counts: whether an entry counts towards `total`; by default if it was not skipped.
            name: gives the name of an item, shown in the progress bar while it is worked on.
            about: gives further fields for the record of a skipped item.
            amount: how many of `unit` an item is; not used with `total`.
        """
        yield from self.each_batch(
            items, key, lambda batch: [work(batch[0])], 1, unit=unit, doing=doing, total=total,
            counts=counts, name=name, about=about, amount=amount,
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
        amount: Callable[[Item], int] = lambda item: 1,
    ) -> Iterator[Entry[Item]]:
        """Does the same as `each`, with `work` on batches of up to `size` items.

        If `work` raises InputError for a batch, the items of this batch are done one by one.
        """
        items, total, of = self._of_shard(items, total, amount)
        source, more = self._batches(items, key, size), True
        walked: deque[list[Item]] = deque()  # batches whose entries were not yielded yet, in order
        n_seen = n_counted = 0
        with progress(unit) as bars:
            bar = bars.add_task(doing, total=of)
            while more or walked:
                if total is not None and n_counted >= total:
                    return
                if more and (total is None or n_counted + sum(map(len, walked)) < total):
                    batch = next(source, None)
                    if batch is None:
                        more = False
                        continue
                    if name is not None:
                        bars.update(bar, description=name(batch[-1]))
                    walked.append(batch)
                    self._attempt([batch], key, work, about)
                elif not self._attempt([*walked], key, work, about):
                    time.sleep(POLL)
                while walked and all(key(item) in self.records for item in walked[0]):
                    for item in walked.popleft():
                        entry = Entry(item, key(item), self.records[key(item)])
                        n_seen, n_counted = n_seen + amount(item), n_counted + counts(entry)
                        done = n_seen if total is None else n_counted
                        bars.update(bar, completed=done)
                        self._show(doing, unit, done, of)
                        yield entry

    def _batches(
        self, items: Iterable[Item], key: Callable[[Item], str], size: int
    ) -> Iterator[list[Item]]:
        """Divides items into batches of `size` items that are to be done.

        A batch also has, in their places, the items between these that have a record already.
        """
        batch: list[Item] = []
        n_new = 0
        for item in items:
            batch.append(item)
            n_new += not self._is_done(key(item))
            if size == 1 or n_new == size:
                yield batch
                batch, n_new = [], 0
        if batch:
            yield batch

    def _is_done(self, key: str) -> bool:
        """Whether an item has a record and is not to be done."""
        return key in self.records

    def _attempt(
        self,
        batches: Sequence[Sequence[Item]],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Finished]],
        about: Callable[[Item], Record],
    ) -> bool:
        """Does the items of the batches that have no record; False if there is nothing to do now.

        Here everything is done at once, so that no batch is ever waited for.
        """
        for batch in batches:
            self._do([item for item in batch if key(item) not in self.records], key, work, about)
        return True

    def _show(self, doing: str, unit: str, done: int, of: int | None) -> None:
        """Tells others how far the work is; here nobody else shows it."""

    def _of_shard(
        self, items: Iterable[Item], total: int | None, amount: Callable[[Item], int]
    ) -> tuple[Iterable[Item], int | None, int | None]:
        """Returns the items of this part, how many should count, and what a progress bar counts to.

        All items, except in the first loop of a study of which only a part is done here.
        """
        is_sized = isinstance(items, Sized)
        part, parts = self.shard
        if parts > 1 and not self._is_divided:
            self._is_divided = True
            items = itertools.islice(items, part - 1, None, parts)
            total = None if total is None else -(-total // parts)
        if total is not None or not is_sized:
            return items, total, total
        items = list(items)
        return items, None, sum(map(amount, items))

    def _do(
        self,
        items: Sequence[Item],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Finished]],
        about: Callable[[Item], Record],
    ) -> None:
        if len(items) > 1:
            with contextlib.suppress(InputError):
                found = [*map(_with_tensors, with_less_memory(partial(work, items)))]
                # all are checked before any is added, so that a batch is added whole or not at all
                for item, (record, tensors) in zip(items, found, strict=True):
                    require_finite(key(item), record, tensors)
                for item, (record, tensors) in zip(items, found, strict=True):
                    self.add(key(item), record, tensors)
                return
        for item in items:
            try:
                (finished,) = with_less_memory(partial(work, [item]))
                record, tensors = _with_tensors(finished)
                self.add(key(item), record, tensors)
            except InputError as error:
                self.add(key(item), skip(UNUSABLE, str(error), **about(item)))


def _with_tensors(finished: Finished) -> "tuple[Record, Mapping[str, Tensor]]":
    return finished if isinstance(finished, tuple) else (finished, {})
