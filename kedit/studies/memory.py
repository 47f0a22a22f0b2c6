"""How much memory a piece of work takes at its peak, beyond what was taken before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import device

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_since_now(place: "device") -> Callable[[], int | None]:
    """A function that tells the peak, in bytes; None where the system does not count it."""
    import torch

    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        start = torch.cuda.memory_allocated(place)
        return lambda: torch.cuda.max_memory_allocated(place) - start
    try:
        # what was freed but not given back would be taken again unseen
        ctypes.CDLL(None).malloc_trim(0)  # glibc only
        FORGET.write_text("5")  # Linux: the highest so far is what is taken now
        start = _kilobytes("VmRSS")
    except (OSError, AttributeError, KeyError, TypeError):  # TypeError: CDLL(None) on Windows
        return lambda: None
    return lambda: 1024 * max(0, _kilobytes("VmHWM") - start)


def _kilobytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0])
