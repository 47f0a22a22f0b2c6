"""Workers that share a study's items do each of them once, and end with what one alone would have.

The workers are threads here, each with a journal of its own; `kedit.spread` makes them processes.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as some
from torch import Tensor

from kedit import claims
from kedit.claims import Added, Claim, ClaimingJournal, Claims, Shown
from kedit.errors import InputError
from kedit.journal import Journal, Record, skip


class Locked:
    """Claims that threads call, one at a time."""

    def __init__(self, of: Claims) -> None:
        self.of, self.lock = of, threading.Lock()

    def claim(
        self, worker: int, batches: Sequence[Mapping[str, Record]], n_known: int
    ) -> tuple[Claim, int]:
        with self.lock:
            return self.of.claim(worker, batches, n_known)

    def finish(self, finished: Sequence[Added]) -> None:
        with self.lock:
            self.of.finish(finished)

    def show(self, shown: Shown) -> None:
        with self.lock:
            self.of.show(shown)

    def tensors(self, key: str) -> Mapping[str, Tensor]:
        with self.lock:
            return self.of.journal.tensors(key)

    def require_weights(self, fingerprint: str) -> None:
        pass


class Study:
    """Two loops: squares of numbers until enough of them count, then sums of neighbouring ones.

    It notes which items are worked on, and in which batches.
    """

    def __init__(self, n_items: int, bad: frozenset[int], total: int | None, size: int) -> None:
        self.n_items, self.bad, self.total, self.size = n_items, bad, total, size
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, journal: Journal) -> list[Any]:
        def squares(ones: Sequence[int]) -> list[Any]:
            time.sleep(random.random() / 2000)
            if len(ones) == 1 and ones[0] in self.bad:
                raise InputError(f"{ones[0]} is bad")
            if self.bad.intersection(ones):
                raise InputError("a bad one in the batch")
            self.batches.append(tuple(ones))
            return [
                skip("even", "even") if one % 4 == 0
                # a number that depends on the batch, as rounding does
                else ({"square": one * one, "of": len(ones)}, {"t": torch.full((2,), float(one))})
                for one in ones
            ]  # fmt: skip

        found = [
            (entry.item, entry.record.get("square"), entry.skipped)
            for entry in journal.each_batch(
                range(self.n_items), lambda one: f"square {one}", squares, self.size,
                unit="numbers", doing="squaring", total=self.total,
            )
        ]  # fmt: skip
        whole = [one for one, square, _ in found if square is not None]
        sums = [
            entry.record["sum"]
            for entry in journal.each(
                [*zip(whole, whole[1:], strict=False)], lambda pair: f"sum {pair}",
                lambda pair: {
                    "sum": sum(float(journal.tensors(f"square {one}")["t"][0]) for one in pair)
                },
                unit="pairs", doing="adding",
            )
        ]  # fmt: skip
        return [found, sums]


def joined(study: Callable[[Journal], Any], journal: Journal, workers: int) -> list[Any]:
    """Runs a study by several workers, and returns the result of each."""
    before, shared = dict(journal.records), Locked(Claims(journal))

    def work(number: int) -> Any:
        return study(ClaimingJournal(shared, number, before, journal.where))

    with ThreadPoolExecutor(workers) as pool:
        return [*pool.map(work, range(workers))]


@hypothesis.given(
    n_items=some.integers(0, 30),
    bad=some.frozensets(some.integers(0, 29), max_size=4),
    total=some.none() | some.integers(1, 12),
    size=some.sampled_from([1, 4]),
    done=some.frozensets(some.integers(0, 29), max_size=8),
    workers=some.integers(1, 5),
)
@hypothesis.settings(max_examples=60)
def test_workers_end_with_the_records_and_the_result_of_one_alone(
    n_items: int,
    bad: frozenset[int],
    total: int | None,
    size: int,
    done: frozenset[int],
    workers: int,
) -> None:
    if size > 1:
        total = None  # no study ends a loop of batches by a count
    alone, together = Journal(), Journal()
    for journal in (alone, together):
        for one in done:  # an earlier run's
            journal.add(f"square {one}", {"square": 0, "of": 1}, {"t": torch.zeros(2)})
    of_one, of_many = (Study(n_items, bad, total, size) for _ in range(2))
    expected = of_one(alone)
    assert joined(of_many, together, workers) == [expected] * workers
    assert together.records == alone.records
    # each item in the batch in which a study alone does it, and none twice
    assert Counter(of_many.batches) == Counter(of_one.batches)


def claim(held: Claims, worker: int, *keys: str) -> tuple[int | None, tuple[str, ...]]:
    found, _ = held.claim(worker, [{key: {"id": key}} for key in keys], 0)
    return found.which, found.keys


def test_an_item_is_free_again_when_its_worker_dies() -> None:
    held = Claims(Journal())
    assert claim(held, 0, "a", "b") == (0, ("a",))
    assert claim(held, 1, "a", "b") == (1, ("b",))
    assert claim(held, 2, "a", "b") == (None, ())
    assert held.release(0, "died") == ["a"]
    assert claim(held, 2, "a", "b") == (0, ("a",))
    held.finish([("a", {"x": 1}, None)])
    assert held.release(2, "died") == []
    assert claim(held, 3, "a", "b") == (None, ())


def test_a_batch_waits_while_another_worker_has_one_of_its_items() -> None:
    held = Claims(Journal())
    assert claim(held, 0, "b") == (0, ("b",))
    batch = {"a": {}, "b": {}}
    assert held.claim(1, [batch], 0)[0].which is None
    held.finish([("b", {"x": 1}, None)])
    assert held.claim(1, [batch], 0)[0][:2] == (0, ("a",))


def test_an_item_on_which_workers_die_again_and_again_is_left_out() -> None:
    held = Claims(Journal())
    for worker in range(claims.DEATHS):
        assert claim(held, worker, "a") == (0, ("a",))
        held.release(worker, "ran out of memory")
    assert claim(held, 9, "a") == (None, ())
    record = held.journal.records["a"]
    assert record["id"] == "a" and "ran out of memory" in record["skipped"]


def test_a_worker_that_takes_too_long_is_told() -> None:
    held = Claims(Journal())
    claim(held, 4, "a")
    assert held.overdue(60) == set()
    time.sleep(0.01)
    assert held.overdue(0.005) == {4}


def test_the_furthest_worker_is_shown() -> None:
    held = Claims(Journal())
    for done in (3, 1, 4, 2):
        held.show(Shown("tracing", "facts", done, 9))
    assert held.shown == Shown("tracing", "facts", 4, 9)
    held.show(Shown("reading", "facts", 1, 9))
    assert held.shown is not None and held.shown.doing == "reading"


def test_a_study_that_keeps_more_than_records_cannot_be_divided() -> None:
    journal = ClaimingJournal(Locked(Claims(Journal())), 0, {}, "memory")
    with pytest.raises(InputError, match="cannot be divided"):
        journal.file("checkpoint")
    with pytest.raises(InputError, match="cannot be divided"):
        journal.replace({})


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 4])
def test_the_parts_of_a_study_are_the_whole(parts: int, size: int) -> None:
    whole, united = Journal(), Journal()
    Study(20, frozenset({3, 7}), None, size)(whole)
    for part in range(1, parts + 1):
        journal = Journal()
        journal.shard = (part, parts)
        found, _ = Study(20, frozenset({3, 7}), None, size)(journal)
        assert [one for one, _, _ in found] == [*range(part - 1, 20, parts)]
        squares = {key: one for key, one in journal.records.items() if key.startswith("square")}
        assert not squares.keys() & united.records.keys()
        united.records |= squares
    assert united.records.keys() == {key for key in whole.records if key.startswith("square")}


def test_a_part_counts_its_share_of_what_is_asked_for() -> None:
    journal = Journal()
    journal.shard = (2, 3)
    found, _ = Study(30, frozenset(), 7, 1)(journal)
    # odd numbers and twice odd ones count; the third of seven is rounded up
    assert sum(square is not None for _, square, _ in found) == 3


def test_loops_in_undivided_blocks_are_done_as_a_whole() -> None:
    journal = Journal()
    journal.shard = (1, 2)
    done: Any = {"unit": "", "doing": ""}
    with journal.undivided():
        assert len([*journal.each(range(4), str, lambda one: {}, **done)]) == 4
    assert len([*journal.each(range(4), lambda one: f"b{one}", lambda one: {}, **done)]) == 2
