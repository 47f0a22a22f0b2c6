"""Divides the items of a study among several workers: each item is claimed before it is worked on.

Every worker runs the whole study, with a `ClaimingJournal` in place of its journal. There it asks
`Claims`, of which there is one for all workers, before it works on an item: it does the item, or
takes the record that another worker has made of it. So any study that keeps a journal can be
divided, and each worker ends with the same records and the same result as a study alone.
`kedit.spread` runs the workers.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from kedit.errors import InputError
from kedit.journal import UNUSABLE, Finished, Item, Journal, Record, skip

if TYPE_CHECKING:
    from torch import Tensor

DEATHS = 3  # workers that may die while they work on an item; then the item is left out

Added = tuple[str, Record, "Mapping[str, Tensor] | None"]  # the arguments of `Journal.add`


class Claim(NamedTuple):
    """What a worker is told when it asks for items.

    Args:
        which: the index of the batch that it should work on; None if others work on all of them.
        keys: the items of that batch that it should work on.
        news: records that were added since it last asked.
    """

    which: int | None
    keys: tuple[str, ...]
    news: list[dict[str, Any]]


class Shown(NamedTuple):
    """How far the work is: what is being done, what is counted, how many are done, and of how many.

    Args:
        of: None if this is not known.
    """

    doing: str
    unit: str
    done: int
    of: int | None


@dataclass(frozen=True)
class _Held:
    """An item that a worker works on.

    Args:
        since: seconds of `time.monotonic` at which it was claimed.
        about: further fields of its record if it must be left out.
    """

    worker: int
    since: float
    about: Record


class Claims:
    """The journal of a study whose items several workers do, and who is working on which item.

    It is the only writer of the journal. Workers are known by numbers.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.shown: Shown | None = None
        self._held: dict[str, _Held] = {}
        self._deaths: Counter[str] = Counter()
        self._added: list[str] = []  # keys, in the order in which their records were added

    def claim(
        self, worker: int, batches: Sequence[Mapping[str, Record]], n_known: int
    ) -> tuple[Claim, int]:
        """Gives the worker the first batch of which no item is being worked on by another one.

        Args:
            batches: the keys of batches of items, each with further fields of its record in case
                it must be left out.
            n_known: the number that the worker's last call returned; 0 at its first.

        Returns:
            the claim, and the number of records that the worker knows with it.
        """
        news = [self.journal.records[key] for key in self._added[n_known:]]
        for index, batch in enumerate(batches):
            free = tuple(key for key in batch if key not in self.journal.records)
            if free and not any(key in self._held for key in free):
                now = time.monotonic()
                self._held |= {key: _Held(worker, now, batch[key]) for key in free}
                return Claim(index, free, news), len(self._added)
        return Claim(None, (), news), len(self._added)

    def finish(self, finished: Sequence[Added]) -> None:
        """Adds the records of items, which are no longer held then."""
        for key, record, tensors in finished:
            self.journal.add(key, record, tensors)
            self._held.pop(key, None)
            self._added.append(key)

    def release(self, worker: int, why: str) -> list[str]:
        """Frees what a worker held that has died, and returns the keys.

        An item on which the DEATHS-th worker has died is left out, with a record that says so: it
        would end every worker.

        Args:
            why: what happened to the worker, in words.
        """
        held = {key: item for key, item in self._held.items() if item.worker == worker}
        for key, item in held.items():
            del self._held[key]
            self._deaths[key] += 1
            if self._deaths[key] == DEATHS:
                reason = f"{DEATHS} workers ended while they worked on it; the last one {why}"
                self.finish([(key, skip(UNUSABLE, reason, **item.about), None)])
        return list(held)

    def overdue(self, patience: int | float) -> set[int]:
        """Returns the workers that have held an item for more than `patience` seconds."""
        oldest = time.monotonic() - patience
        return {item.worker for item in self._held.values() if item.since < oldest}

    def furthest(self) -> Shown | None:
        """Returns how far the work is; None before it begins."""
        return self.shown

    def show(self, shown: Shown) -> None:
        """Notes how far a worker sees the work; the one that sees most of a task counts."""
        before = self.shown
        if before is None or before.doing != shown.doing or before.done < shown.done:
            self.shown = shown


@runtime_checkable
class Shared(Protocol):
    """`Claims`, called from another process."""

    def claim(
        self, worker: int, batches: Sequence[Mapping[str, Record]], n_known: int
    ) -> tuple[Claim, int]: ...

    def finish(self, finished: Sequence[Added]) -> None: ...

    def show(self, shown: Shown) -> None: ...

    def tensors(self, key: str) -> "Mapping[str, Tensor]": ...

    def require_weights(self, fingerprint: str) -> None: ...


class ClaimingJournal(Journal):
    """The journal of one worker: it works on items that it could claim, and waits for the others.

    The items that are worked on are those of a study alone, in the same batches. A study that ends
    after a number of counted items works on no further one: an item is begun only if it would be
    needed even if all items that are being worked on counted.
    """

    def __init__(
        self,
        shared: Shared,
        worker: int,
        records: Mapping[str, dict[str, Any]],
        where: str,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        """Joins a study.

        Args:
            records: those that there were before the study was divided.
            where: the place of the records, in words for messages.
            shard: which part of the study the workers do together; see `Journal`.
        """
        super().__init__()
        self.shard = shard
        self.records = dict(records)
        self._shared, self._worker, self._where = shared, worker, where
        self._before = frozenset(records)
        self._n_known = 0
        self._finished: list[Added] = []

    @property
    def where(self) -> str:
        return self._where

    def add(self, key: str, record: Record, tensors: "Mapping[str, Tensor] | None" = None) -> None:
        super().add(key, record)  # checks the record; its tensors are kept by the one journal
        self._finished.append((key, record, tensors))

    def tensors(self, key: str) -> "Mapping[str, Tensor]":
        return self._shared.tensors(key)

    def require_weights(self, fingerprint: str) -> None:
        """Checks the model's fingerprint against that of the run; see `RunFolder`."""
        self._shared.require_weights(fingerprint)

    def file(self, name: str) -> Any:
        raise InputError("a study that writes files of its own cannot be divided among workers")

    def replace(self, records: Mapping[str, Record]) -> None:
        raise InputError("a study that replaces its records cannot be divided among workers")

    def _is_done(self, key: str) -> bool:
        return key in self._before  # so that the batches are those of a study alone

    def _attempt(
        self,
        batches: Sequence[Sequence[Item]],
        key: Callable[[Item], str],
        work: Callable[[Sequence[Item]], Sequence[Finished]],
        about: Callable[[Item], Record],
    ) -> bool:
        """Works on the first batch that can be claimed; False if there is none."""
        keyed = [{key(item): item for item in batch} for batch in batches]
        keyed = [batch for batch in keyed if not batch.keys() <= self.records.keys()]
        if not keyed:
            return True
        asked = [{name: about(item) for name, item in batch.items()} for batch in keyed]
        claim, self._n_known = self._shared.claim(self._worker, asked, self._n_known)
        self.records |= {record["key"]: record for record in claim.news}
        if claim.which is None:
            return False
        batch = keyed[claim.which]
        self._do([batch[name] for name in claim.keys], key, work, about)
        self._shared.finish(self._finished)
        self._finished = []
        return True

    def _show(self, doing: str, unit: str, done: int, of: int | None) -> None:
        self._shared.show(Shown(doing, unit, done, of))
