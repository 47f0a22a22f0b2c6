"""Progress is seen wherever somebody looks, and costs nothing where work is short."""

import contextlib
import io
import time

import pytest
from rich.console import Console
from rich.progress import ProgressColumn

from kedit import progress as room
from kedit.progress import progress, starting, working


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a pipe gets."""
    written = io.StringIO()
    monkeypatch.setattr(Console, "file", written)
    return written


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are printed at once, and often."""
    monkeypatch.setattr(room, "AFTER", 0.01)
    monkeypatch.setattr(room, "EVERY", 0.01)


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def wait_for(stream: io.StringIO, n: int) -> None:
    """Until `n` lines are written: a minute at most, on a machine that has much else to do."""
    until = time.monotonic() + 60
    while len(lines_of(stream)) < n and time.monotonic() < until:
        time.sleep(0.01)


def test_short_work_prints_nothing(stream: io.StringIO) -> None:
    with progress("facts") as bars:
        bars.add_task("tracing", total=2)
        bars.update(bars.task_ids[0], completed=2)
    with working("loading toy"):
        pass
    assert not stream.getvalue()


def test_long_work_prints_lines_where_bars_cannot_be_seen(stream: io.StringIO, soon: None) -> None:
    with progress("facts") as bars:
        bar = bars.add_task("tracing [/old]", total=8)
        bars.update(bar, completed=3)
        wait_for(stream, 2)
        bars.update(bar, completed=8)
        wait_for(stream, len(lines_of(stream)) + 1)
        bars.add_task("asking", total=2)
        wait_for(stream, len(lines_of(stream)) + 2)
    lines = [line for line in lines_of(stream) if line.startswith("tracing")]
    first, *between, last = lines
    assert last not in between  # what is finished is told once
    assert first.startswith("tracing [/old]: 3 of 8 facts, 0 s so far")
    assert last.startswith("tracing [/old]: 8 of 8 facts, ") and "so far" not in last
    n = len(lines_of(stream))
    time.sleep(0.05)
    assert len(lines_of(stream)) == n  # nothing is printed once it has ended


def test_items_are_counted_where_bars_cannot_be_seen(stream: io.StringIO, soon: None) -> None:
    with progress("facts") as bars:
        for item in bars.track("abc", description="asking"):
            wait_for(stream, len(lines_of(stream)) + 2)
            assert lines_of(stream)[-1].startswith(f"asking: {'abc'.index(item)} of 3 facts")
    assert lines_of(stream)[-1].startswith("asking: 3 of 3 facts")


class Clock:
    """A time that only this test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def left_after(steps: list[tuple[float, int]], total: int, completed: int = 0) -> float | None:
    """The time that is left after steps: each the seconds it took, and the number then done.

    Args:
        completed: how much is done at the start.
    """
    bars, clock = progress("facts"), Clock()
    bars.get_time = clock
    bar = bars.add_task("tracing", total=total, completed=completed)
    for seconds, done in steps:
        clock.now += seconds
        bars.update(bar, completed=done)
    column = bars.columns[-1]
    assert isinstance(column, ProgressColumn)
    shown = str(column.render(bars.tasks[0]))
    if shown == "-:--:--":
        return None
    hours, minutes, seconds = map(int, shown.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def test_the_time_left_is_by_the_pace_of_the_last_minutes() -> None:
    assert left_after([], 8) is None
    assert left_after([(10, 1), (10, 2)], 8) == 60
    # a batch is finished at once, and took its time nevertheless
    assert left_after([(100, 1), *((0, done) for done in range(2, 17))], 64) == 300
    # what an earlier run did is read in no time, and says nothing of the pace
    assert left_after([(0.1, 4), (0.1, 50), (10, 51)], 100) == 490
    assert left_after([(10, 91)], 100, completed=90) == 90
    # long ago the pace was another one
    assert left_after([(1000, 1), *((10, done) for done in range(2, 52))], 101) == 500


def test_work_without_steps_is_named(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "AFTER", 0.01)
    with working("loading gemma"):
        wait_for(stream, 1)
    first, *_, last = lines_of(stream)
    assert (first, last) == ("loading gemma: 0 s so far", "loading gemma: 0 s")


def test_work_within_other_work_is_shown_below_it_if_it_is_long(
    stream: io.StringIO, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress("facts") as bars:
        bars.add_task("outer", total=1)
        with progress("tokens") as inner:
            bar = inner.add_task("inner", total=8)
            wait_for(stream, 3)
            assert {line.split(":")[0] for line in lines_of(stream)} == {"outer"}
            inner.update(bar, completed=2)  # now it is known to be long
            n = len(lines_of(stream))
            wait_for(stream, n + 4)
            assert any(line.startswith("inner: 2 of 8 tokens") for line in lines_of(stream)[n:])
        time.sleep(0.02)
        n = len(lines_of(stream))
        wait_for(stream, n + 2)
        assert {line.split(":")[0] for line in lines_of(stream)[n:]} == {"outer"}  # it has ended
    monkeypatch.setattr(room, "AFTER", 60.0)
    with progress("facts") as bars:
        bars.add_task("outer", total=1)
        with progress("tokens") as inner:
            inner.update(inner.add_task("inner", total=8), completed=2)
            assert len(bars.tasks) == 1  # short so far
    monkeypatch.setattr(room, "AFTER", 0.01)
    with progress("tokens") as after:
        after.add_task("after", total=1)
        n = len(lines_of(stream))
        wait_for(stream, n + 1)
    assert lines_of(stream)[n].startswith("after: ")


@pytest.mark.parametrize("nested", [False, True])
def test_on_a_terminal_there_are_bars(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    with progress("facts") as bars:
        bars.add_task("tracing [/old]", total=8, completed=3)
        if nested:
            with working("loading"):
                pass
    assert "tracing [/old]" in stream.getvalue() and "3/8" in stream.getvalue()
    assert "loading" not in stream.getvalue()


def test_an_error_within_ends_it(stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="mine"), progress("facts"):
        raise ValueError("mine")
    assert room._showing.acquire(blocking=False)
    room._showing.release()


@pytest.mark.parametrize("shown", [False, True])
def test_a_start_that_takes_its_time_is_told_once_unless_progress_is_shown(
    stream: io.StringIO,
    soon: None,
    capsys: pytest.CaptureFixture[str],
    shown: bool,
) -> None:
    with working("loading") if shown else contextlib.nullcontext(), starting("importing"):
        time.sleep(0.3)
    assert capsys.readouterr().err == ("" if shown else "importing\n")
    with starting("importing"):
        pass
    time.sleep(0.05)
    assert not capsys.readouterr().err
