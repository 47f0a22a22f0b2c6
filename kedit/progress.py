"""Shows the progress of long work: bars on a terminal or in a notebook, else occasional lines.

Everything goes to stderr. In a pipe or the output of a batch job, where bars cannot move, the first
line is printed after AFTER seconds, and then one line every EVERY seconds.
"""

import contextlib
import importlib.util
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, Task

AFTER, EVERY = 4.0, 20.0  # seconds until the first line, and from one line to the next
RECENT = 300.0  # seconds: the pace of a task is what it finished in so long a time
AT_ONCE = 1.0  # seconds: what is finished so soon was done by an earlier run

# held while progress is shown: two live displays would overwrite each other
_showing = threading.Lock()
_shown: "list[Progress]" = []  # the progress that is shown now, if any


def progress(unit: str) -> "Progress":
    """Makes a progress bar with the number of finished `unit`, the time so far and the time left.

    It is used like `rich.progress.Progress`. While another bar is shown, a part of its work is
    shown below it, if the part takes longer than AFTER seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.text import Text

    paces: dict[int, _Pace] = defaultdict(_Pace)  # by task
    below: dict[int, tuple[Progress, Any]] = {}  # by task: where it is shown as a part

    class Shown(Progress):
        """A Progress that prints lines if its bars cannot be seen."""

        lines: "_Lines | None" = None
        outermost = False

        def add_task(self, description: str, *given: Any, **named: Any) -> Any:
            task_id = super().add_task(description, *given, **{"unit": unit, **named})
            # what an earlier run finished says nothing about the pace
            paces[task_id].note(0.0, self._tasks[task_id].completed)
            return task_id

        def update(self, task_id: Any, **changes: Any) -> None:
            super().update(task_id, **changes)
            self._note(task_id)

        def advance(self, task_id: Any, advance: int | float = 1) -> None:
            super().advance(task_id, advance)
            self._note(task_id)

        def _note(self, task_id: Any) -> None:
            task = self._tasks[task_id]
            paces[task_id].note(task.elapsed or 0.0, task.completed)
            if not self.outermost and _shown and task.total is not None:
                self._show_below(_shown[0], task)

        def _show_below(self, whole: Progress, part: "Task") -> None:
            if part.id not in below:
                if (part.elapsed or 0.0) < AFTER:
                    return
                below[part.id] = whole, whole.add_task(part.description, unit=unit)
            whole, task_id = below[part.id]
            whole.update(
                task_id, description=part.description, completed=part.completed, total=part.total
            )

        def start(self) -> None:
            if not self.outermost and _showing.acquire(blocking=False):
                self.outermost = True
                _shown.append(self)
                if self.console.is_terminal or (self.console.is_jupyter and _has_widgets()):
                    self.disable, self.live.auto_refresh = False, True
                    super().start()
                else:
                    self.lines = _Lines(self, paces)
                    self.lines.start()

        def stop(self) -> None:
            if not self.outermost:
                for whole, task_id in below.values():
                    whole.remove_task(task_id)
                below.clear()
                return
            self.outermost = False
            _shown.clear()
            _showing.release()
            if self.lines is None:
                super().stop()
                self.disable = True
            else:
                self.lines.end()
                self.lines = None

    class Left(ProgressColumn):
        """The time left, as hours, minutes and seconds."""

        max_refresh = 0.5  # seconds

        def render(self, task: "Task") -> Text:
            seconds = paces[task.id].left(task)
            shown = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
            return Text("" if task.total is None else shown)

    # Without auto_refresh, `track` counts items itself. With it, it leaves this to a thread, which
    # ends at once where bars cannot be seen.
    return Shown(
        # without markup, because a relation's name may contain square brackets
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        Elapsed(), TextColumn("left:"), Left(),
        console=Console(stderr=True), disable=True, auto_refresh=False,
    )  # fmt: skip


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Shows `text` and the time so far while a block runs that has no steps to count."""
    bars = progress("")
    bars.columns = bars.columns[:1] + bars.columns[4:5]  # the text and the time so far
    bars.live.transient = True
    with bars:
        bars.add_task(text, total=None)
        yield


@contextlib.contextmanager
def starting(text: str) -> Iterator[None]:
    """Prints `text` once if a block has shown no progress after AFTER seconds.

    This is for the imports of torch and TransformerLens, which take seconds.
    """

    def print_text() -> None:
        if not _showing.locked():
            sys.stderr.write(f"{text}\n")

    timer = threading.Timer(AFTER, print_text)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Shows no progress within the block: it holds the lock that shown progress would need."""
    with _showing:
        yield


def _has_widgets() -> bool:
    """Whether a notebook can show bars: without ipywidgets rich shows a warning instead."""
    return importlib.util.find_spec("ipywidgets") is not None


class _Pace:
    """How fast a task proceeds: by what it finished in the last RECENT seconds.

    rich's own estimate is by the time from one finished step to the next. Steps that are finished
    together, as those of a batch, would then seem to take no time.
    """

    def __init__(self) -> None:
        self.done = deque([(0.0, 0.0)])  # the time, in seconds, and what was finished until then

    def note(self, elapsed: float, completed: int | float) -> None:
        if completed == self.done[-1][1]:
            return
        if elapsed < AT_ONCE:  # a new deque, because another thread may be reading this one
            self.done = deque([(elapsed, completed)])
        else:
            self.done.append((elapsed, completed))

    def left(self, task: "Task") -> float | None:
        """The time, in seconds, that is left; None if it is not known yet."""
        if task.total is None or task.elapsed is None:
            return None
        done = self.done
        while len(done) > 2 and done[1][0] < task.elapsed - RECENT:
            done.popleft()
        (since, before), (_, now) = done[0], done[-1]
        if now == before:
            return None
        return (task.elapsed - since) / (now - before) * (task.total - now)


class _Lines(threading.Thread):
    """Prints the progress of each task of `bars` at intervals."""

    def __init__(self, bars: "Progress", paces: dict[int, _Pace]) -> None:
        super().__init__(daemon=True)
        self.bars, self.paces = bars, paces
        self.ended = threading.Event()
        self.has_printed = False
        self.finished: set[int] = set()  # tasks whose last line is printed

    def run(self) -> None:
        wait = AFTER
        while not self.ended.wait(wait):
            self._print()
            wait = EVERY

    def end(self) -> None:
        """Stops printing; if lines were printed, a last one says what was done."""
        self.ended.set()
        self.join()
        if self.has_printed:
            self._print(has_ended=True)

    def _print(self, has_ended: bool = False) -> None:
        for task in self.bars.tasks:
            if task.visible and task.elapsed is not None and task.id not in self.finished:
                self.has_printed = True
                if task.finished:
                    self.finished.add(task.id)
                left = None if has_ended else self.paces[task.id].left(task)
                line = _line(task, left, has_ended)
                self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(task: "Task", left: float | None, has_ended: bool) -> str:
    """The line of a task: "reading notes.txt: 2048 of 8192 tokens, 21 s so far, 63 s left"."""
    seconds = task.finished_time if task.finished else task.elapsed
    parts = [f"{seconds or 0:.0f} s" + " so far" * (not task.finished and not has_ended)]
    if task.total is not None:
        parts.insert(0, f"{task.completed:.0f} of {task.total:.0f} {task.fields['unit']}")
    if left and not task.finished:
        parts.append(f"{left:.0f} s left")
    return f"{task.description}: {', '.join(parts)}"
