"""A journal does each item once, costs nobody for a bad one, and is the same on disk; records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from numpy import ndarray

from kedit.errors import InputError
from kedit.journal import UNUSABLE, Entry, Journal, skip
from kedit.records import from_record, to_record
from kedit.run_folder import RunFolder
from kedit.stats import Interval


@pytest.fixture(params=["memory", "folder"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return Journal() if request.param == "memory" else RunFolder(tmp_path)


def run(journal: Journal, items: list[int], done: list[int], size: int = 1, **options: Any):
    """Squares of the items; 3 cannot be squared, and 4 is left out."""

    def squares(ones: Sequence[int]) -> list[Any]:
        if 3 in ones:
            raise InputError("three is bad")
        done.extend(ones)
        return [
            skip("even", "four is even") if one == 4
            else ({"square": one * one}, {"t": torch.full((2,), float(one))})
            for one in ones
        ]  # fmt: skip

    return list(
        journal.each_batch(items, str, squares, size, unit="items", doing="squaring", **options)
    )


@pytest.mark.parametrize("size", [1, 2, 10])
def test_every_item_is_done_once_and_in_order(journal: Journal, size: int) -> None:
    done: list[int] = []
    entries = run(journal, [1, 2, 3, 4, 5], done, size)
    assert [one.item for one in entries] == [1, 2, 3, 4, 5]
    assert [one.skipped for one in entries] == ["", "", "three is bad", "four is even", ""]
    assert [one.record.get("why") for one in entries][2:4] == [UNUSABLE, "even"]
    assert sorted(done) == [1, 2, 4, 5]
    again = run(journal, [5, 1, 6], done, size)
    assert [one.record["square"] for one in again] == [25, 1, 36]
    assert sorted(done) == [1, 2, 4, 5, 6]
    assert journal.tensors("5")["t"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("size", [1, 2])
def test_items_end_when_enough_of_them_count(journal: Journal, size: int) -> None:
    done: list[int] = []
    entries = run(journal, [3, 1, 4, 2, 5, 6, 7], done, size, total=2)
    assert [one.item for one in entries if not one.skipped][:2] == [1, 2]
    assert 7 not in done

    def is_even(entry: Entry[int]) -> bool:
        return entry.item % 2 == 0

    assert [one.item for one in run(journal, [1, 2, 5, 6, 7], [], 1, total=2, counts=is_even)] == [
        1, 2, 5, 6,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shard", "expected"),
    [((1, 1), [(1, 16), (11, 16), (16, 16)]), ((2, 2), [(10, 10)]), ((1, 2), [(1, 6), (6, 6)])],
)
def test_progress_is_counted_in_what_items_are_made_of(
    journal: Journal,
    shard: tuple[int, int],
    expected: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[tuple[int, int | None]] = []
    monkeypatch.setattr(journal, "_show", lambda _, __, done, of: shown.append((done, of)))
    journal.shard = shard
    run(journal, [1, 10, 5], [], amount=lambda n: n)
    assert shown == expected


def test_another_question_gets_no_answer_of_the_first(journal: Journal) -> None:
    journal.ask("compare", seed=0, text="")
    journal.ask("compare", seed=0, text="")
    journal.ask("tune", seed=1)
    with pytest.raises(InputError, match="compare with seed=0, but now it is 1"):
        journal.ask("compare", seed=1, text="")


def test_a_number_that_is_none_is_recorded_as_the_reason(journal: Journal) -> None:
    (entry,) = journal.each(
        [1], str, lambda one: {"x": float("nan")}, unit="items", doing="x",
        about=lambda one: {"prompt": "P"},
    )  # fmt: skip
    assert "x is nan" in entry.skipped and entry.record["prompt"] == "P"


@dataclass(frozen=True)
class Inner:
    name: str
    interval: Interval | None


@dataclass(frozen=True)
class Outer:
    parts: tuple[Inner, ...]
    by_name: dict[str, float]
    mean: Float[ndarray, "row column"]
    pair: tuple[int, str]
    p: float
    note: str = "new"


def test_a_record_gives_back_what_it_was_made_of() -> None:
    interval = Interval(np.array(1.0), np.array(np.nan), np.array(2.0))
    made = Outer(
        (Inner("a", interval), Inner("b", None)), {"x": 1.0}, np.array([[1.0, np.nan]]), (1, "z"),
        float("nan"),
    )  # fmt: skip
    record = to_record(made)
    assert record["p"] is None and record["mean"] == [[1.0, None]]
    again = from_record(Outer, record)
    assert to_record(again) == record
    assert isinstance(again.parts[0].interval, Interval) and again.parts[1].interval is None
    assert np.isnan(again.p) and np.isnan(again.mean[0, 1]) and again.pair == (1, "z")
    del record["note"]
    assert from_record(Outer, record).note == "new"
    del record["by_name"]
    with pytest.raises(InputError, match="Outer.*by_name"):
        from_record(Outer, record)
