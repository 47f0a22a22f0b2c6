"""Measures the peak memory of a piece of work, beyond the memory in use before it."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_since_now(devices: "Sequence[torch.device]") -> Callable[[], int | None]:
    """Returns a function that gives the peak since this call, in bytes.

    The function returns None if the operating system does not count memory.

    Args:
        devices: the devices on which the work runs. The peaks of several are added.
    """
    import torch

    if devices[0].type == "cuda":
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        start = sum(map(torch.cuda.memory_allocated, devices))
        return lambda: sum(map(torch.cuda.max_memory_allocated, devices)) - start
    try:
        # memory that was freed but not returned to the system could be reused without a new peak
        ctypes.CDLL(None).malloc_trim(0)  # glibc only
        CLEAR_PEAK.write_text("5")  # Linux: sets the peak to the memory in use now
        start = _kilobytes("VmRSS")
    except (OSError, AttributeError, KeyError, TypeError):  # TypeError: CDLL(None) on Windows
        return lambda: None
    return lambda: 1024 * max(0, _kilobytes("VmHWM") - start)


def _kilobytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[name].split()[0])
