"""Pauses Python's garbage collector while many objects are made that are all kept."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pauses the garbage collector in the block, unless it is off already.

    Imports of large packages and tokenizers make millions of objects. The collector looks at all of
    them again and again, and finds nothing. Objects without cycles are still freed at once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
