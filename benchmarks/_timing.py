"""Timing for all benchmarks: medians over rounds, the machine's matmul peak, the line of JSON."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Found = TypeVar("Found")


def clock() -> float:
    """Seconds of a clock: on one thread the CPU time, which other processes do not change."""
    on_one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return time.process_time() if on_one_thread else time.perf_counter()


def seconds(work: Callable[[], object], rounds: int = 3, warm_up: bool = True) -> float:
    """Median time of `work` over rounds, in seconds of `clock`."""
    if warm_up:
        work()
    return statistics.median(timed(work)[1] for _ in range(rounds))


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """Runs `work` once; returns its result and its time in seconds of `clock`.

    For work that is too long to repeat, or whose result is needed.
    """
    start = clock()
    found = work()
    return found, clock() - start


def matmul_peak(rounds: int = 15) -> float:
    """The FLOP/s of a float32 matrix product of a typical model's size (median over rounds)."""
    rows, width, out = 1536, 768, 3072
    x, w = torch.randn(rows, width), torch.randn(out, width)
    return 2 * rows * width * out / seconds(lambda: torch.nn.functional.linear(x, w), rounds)


def report(figures: Mapping[str, float]) -> None:
    """Prints the benchmark's last line: its numbers as JSON."""
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
