"""What the benchmarks share: medians of rounds, the machine's matmul peak, one JSON line."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Found = TypeVar("Found")


def seconds(work: Callable[[], object], rounds: int = 3, warm_up: bool = True) -> float:
    """Median wall time of `work` over `rounds`."""
    if warm_up:
        work()
    return statistics.median(timed(work)[1] for _ in range(rounds))


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What `work` gives, and its wall time: for work that is long, and wanted."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def matmul_peak(rounds: int = 15) -> float:
    """FLOP/s that a float32 matrix product of a model's size sustains: the median of `rounds`."""
    rows, width, out = 1536, 768, 3072
    x, w = torch.randn(rows, width), torch.randn(out, width)
    return 2 * rows * width * out / seconds(lambda: torch.nn.functional.linear(x, w), rounds)


def report(figures: Mapping[str, float]) -> None:
    """The benchmark's last line."""
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
