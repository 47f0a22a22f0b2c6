"""What the benchmarks share: medians of rounds, the machine's matmul peak, one JSON line."""

import json
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def seconds(work: Callable[[], object], rounds: int = 3, warm_up: bool = True) -> float:
    """Median wall time of `work` over `rounds`."""
    if warm_up:
        work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_peak(rounds: int = 9) -> float:
    """FLOP/s of a float32 matrix product of the size that the models have, at its best."""
    rows, width, out = 1536, 768, 3072
    x, w = torch.randn(rows, width), torch.randn(out, width)
    torch.nn.functional.linear(x, w)
    best = min(
        seconds(lambda: torch.nn.functional.linear(x, w), rounds=5, warm_up=False)
        for _ in range(rounds)
    )
    return 2 * rows * width * out / best


def report(figures: Mapping[str, float]) -> None:
    """The benchmark's last line."""
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
