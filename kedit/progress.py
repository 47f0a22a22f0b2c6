"""How far long work has come: bars on a terminal and in a notebook, elsewhere a line now and then.

All of it goes to stderr, and none of it before the work has taken AFTER seconds where nobody sees
bars move: into a pipe, or the output of a batch job.
"""

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, Task

AFTER, EVERY = 4.0, 20.0  # seconds until the first line, and from one line to the next

_showing = threading.Lock()  # held while one is shown: two live displays would overwrite each other


def progress(unit: str) -> "Progress":
    """A bar with how many `unit` are done, the time it took and the time that is left.

    Used as `rich.progress.Progress` is. Within the bar of other work it shows nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    class Shown(Progress):
        """A Progress that prints lines where its bars cannot be seen."""

        lines: "_Lines | None" = None
        outermost = False

        def start(self) -> None:
            if not self.outermost and _showing.acquire(blocking=False):
                self.outermost = True
                if self.console.is_terminal or (self.console.is_jupyter and _has_widgets()):
                    self.disable = False
                    super().start()
                else:
                    self.lines = _Lines(self, unit)
                    self.lines.start()

        def stop(self) -> None:
            if not self.outermost:
                return
            self.outermost = False
            _showing.release()
            if self.lines is None:
                super().stop()
                self.disable = True
            else:
                self.lines.end()
                self.lines = None

    return Shown(
        # a relation's name may hold square brackets, which are no markup of ours
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn(unit),
        Elapsed(), TextColumn("left:"), Remaining(elapsed_when_finished=False),
        console=Console(stderr=True), disable=True,
    )  # fmt: skip


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Says what goes on, `text`, if a block without any steps to count takes its time."""
    bars = progress("")
    bars.columns = bars.columns[:1] + bars.columns[4:5]  # what it is, and for how long
    bars.live.transient = True
    with bars:
        bars.add_task(text, total=None)
        yield


@contextlib.contextmanager
def starting(text: str) -> Iterator[None]:
    """Says `text` once, if a block has shown nothing of its progress after AFTER seconds.

    For the imports of torch and TransformerLens, which stand in many places and take seconds.
    """

    def tell() -> None:
        if not _showing.locked():
            sys.stderr.write(f"{text}\n")

    timer = threading.Timer(AFTER, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _has_widgets() -> bool:
    """Whether a notebook can show bars: without them rich shows a warning in their place."""
    return importlib.util.find_spec("ipywidgets") is not None


class _Lines(threading.Thread):
    """Prints, from time to time, how far each task of `bars` has come."""

    def __init__(self, bars: "Progress", unit: str) -> None:
        super().__init__(daemon=True)
        self.bars, self.unit = bars, unit
        self.ended = threading.Event()
        self.told = False
        self.finished: set[int] = set()  # tasks whose end is printed

    def run(self) -> None:
        wait = AFTER
        while not self.ended.wait(wait):
            self._tell()
            wait = EVERY

    def end(self) -> None:
        """Ends the lines; if there were any, with one that says what was done."""
        self.ended.set()
        self.join()
        if self.told:
            self._tell(has_ended=True)

    def _tell(self, has_ended: bool = False) -> None:
        for task in self.bars.tasks:
            if task.visible and task.elapsed is not None and task.id not in self.finished:
                self.told = True
                if task.finished:
                    self.finished.add(task.id)
                line = _line(task, self.unit, has_ended)
                self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(task: "Task", unit: str, has_ended: bool) -> str:
    """How far it is, as in: reading notes.txt: 2048 of 8192 tokens, 21 s so far, 63 s left."""
    seconds = task.finished_time if task.finished else task.elapsed
    parts = [f"{seconds or 0:.0f} s" + " so far" * (not task.finished and not has_ended)]
    if task.total is not None:
        parts.insert(0, f"{task.completed:.0f} of {task.total:.0f} {unit}")
    if not task.finished and not has_ended and task.time_remaining:
        parts.append(f"{task.time_remaining:.0f} s left")
    return f"{task.description}: {', '.join(parts)}"
