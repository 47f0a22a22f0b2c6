"""How much a command prints: only results (--quiet), the default, or every stage (--verbose)."""

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("kedit")

_quiet = False
_stage_began = time.perf_counter()


def is_quiet() -> bool:
    """Whether only result tables and errors are printed."""
    return _quiet


@contextlib.contextmanager
def verbosity(quiet: bool, verbose: bool) -> Iterator[None]:
    """Sets how much is printed within the block.

    Args:
        quiet: only result tables and errors: no progress, no notices, no warnings of the log.
        verbose: also what is read and loaded, and the seconds of each stage.
    """
    global _quiet, _stage_began
    from kedit.progress import silence

    others = logging.getLogger()  # the packages that kedit uses
    before = _quiet, log.level, others.level
    _quiet, _stage_began = quiet, time.perf_counter()
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    others.setLevel(logging.ERROR if quiet else logging.WARNING)
    try:
        with silence() if quiet else contextlib.nullcontext():
            yield
    finally:
        _quiet = before[0]
        log.setLevel(before[1])
        others.setLevel(before[2])


def log_stage(done: str) -> None:
    """Logs what a command has just done and how many seconds it took since the stage before."""
    global _stage_began
    now = time.perf_counter()
    log.debug("%s (%.1f s)", done, now - _stage_began)
    _stage_began = now
