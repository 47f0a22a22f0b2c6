"""What do workers gain and cost? python -m benchmarks.scale

Times a comparison of ROME on a model by one of Ray's workers and by two, each with one thread. The
time of a run is a start, which does not depend on the number of edits, plus a time per edit: two
runs of different length give both. The ratio of the times per edit is what a second worker gains.

It also measures what a plan for many GPUs needs: how many records a second pass through the process
that writes them, what C (the second moment of keys) costs to compute and to read from the shared
cache, and how many operations an edit and its scoring take, in the model's blocks and at its
vocabulary. docs/cluster.md makes such a plan. The last line is JSON.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformer_lens import HookedTransformer

import kedit
from benchmarks._timing import report
from kedit.cache import entries
from kedit.data.choose import cases_source, spread_cases, usable_cases
from kedit.editors.registry import make_editor
from kedit.facts import EditCase, Perspective
from kedit.journal import Journal
from kedit.run_folder import RunFolder
from kedit.scoring.score import Scoring, own_words, score
from kedit.spread import spread
from kedit.studies.comparing import compare

RECORD = {"text": "x" * 15_000}  # as long as the record of an edit with its scores
N_RECORDS = 400
# the editors whose operations are counted, with the side that they edit
COUNTED: tuple[tuple[str, Perspective], ...] = (("rome", "entity"), ("joint", "relation"))


class Operations(TorchDispatchMode):
    """Counts floating-point operations of matrix products, those at the vocabulary separately."""

    def __init__(self, d_vocab: int) -> None:
        super().__init__()
        self.d_vocab, self.blocks, self.vocabulary = d_vocab, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            n = count(*args, **(kwargs or {}), out_val=found)
            if any(self.d_vocab in getattr(one, "shape", ()) for one in (*args, found)):
                self.vocabulary += n
            else:
                self.blocks += n
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--quick", action="store_true", help="few edits, for a first look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    cases, _ = usable_cases(cases_source("auto", options.model))
    few, many = (2, 4) if options.quick else (6, 24)
    cases = spread_cases(cases, many, 0)
    model = kedit.load(options.model)
    figures = of_moments(model, cases[0])
    figures |= of_operations(model, cases[0])  # puts C into the cache for the workers
    del model
    figures |= of_workers(options.model, cases, few)
    figures |= of_records()
    report(figures)


def of_workers(name: str, cases: list[EditCase], few: int) -> dict[str, float]:
    """Times comparisons of `few` and of all cases, by one worker and by two."""
    figures, each = {}, {}
    for workers in (1, 2):
        short, long = (run(name, cases[:n], workers) for n in (few, len(cases)))
        each[workers] = (long - short) / (len(cases) - few)
        start = short - few * each[workers]
        print(f"{workers} workers: {start:.1f} s to start, {each[workers]:.2f} s per edit")
        figures[f"start_of_{workers}"] = start
    print(f"two workers against one: {each[1] / each[2]:.2f}x per edit")
    return {**figures, "two_workers": each[1] / each[2]}


def run(name: str, cases: list[EditCase], workers: int) -> float:
    """The seconds of a comparison, from the call to its result."""

    def study(journal: Journal) -> Any:
        return compare(
            kedit.load(name), cases, ["rome"], perspective="entity", labels=(), chunks=1,
            journal=journal,
        )  # fmt: skip

    start = time.perf_counter()
    spread(study, Journal(), workers=workers, threads=1)
    return time.perf_counter() - start


def of_records() -> dict[str, float]:
    """How many records a second two workers that compute nothing bring into a folder."""

    def study(journal: Journal) -> float:
        begun = [time.perf_counter()]

        def work(one: int) -> dict[str, str]:
            begun.append(time.perf_counter())
            return RECORD

        for _ in journal.each(range(N_RECORDS), str, work, unit="records", doing="adding"):
            pass
        return time.perf_counter() - begun[min(1, len(begun) - 1)]

    with tempfile.TemporaryDirectory() as folder:
        seconds = spread(study, RunFolder(Path(folder)), workers=2, threads=1)
    print(f"{N_RECORDS / seconds:.0f} records of 15 kB a second through one writer")
    return {"records_a_second": N_RECORDS / seconds}


def of_moments(model: HookedTransformer, case: EditCase) -> dict[str, float]:
    """What C costs in an empty cache, and in the cache of another process."""
    times = list[float]()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"KEDIT_CACHE": folder}),
    ):
        for _ in range(2):
            start = time.perf_counter()
            make_editor("rome", model, "entity").on(model)(case.requests("entity"))
            times.append(time.perf_counter() - start)
        size = entries()["moments"] / 2**20
    print(f"a first edit: {times[0]:.1f} s with C, {times[1]:.1f} s with C read ({size:.0f} MiB)")
    return {"C_seconds": times[0] - times[1], "C_MiB": size}


def of_operations(model: HookedTransformer, case: EditCase) -> dict[str, float]:
    """Counts the operations of an edit on each side, and of scoring the edited model."""
    figures = {}
    for spec, side in COUNTED:
        make = make_editor(spec, model, side).on(model)
        make(case.requests(side))  # reads its text
        with Operations(model.cfg.d_vocab) as edited:
            edit = make(case.requests(side))
        words = own_words(model, [case])
        with edit.applied(model), Operations(model.cfg.d_vocab) as scored:
            score(model, [case], Scoring((), say=False), words)
        for what, counted in ((f"{spec}_{side}", edited), ("score", scored)):
            figures[f"{what}_blocks"] = counted.blocks / 1e9
            figures[f"{what}_vocabulary"] = counted.vocabulary / 1e9
    n_blocks = sum(weight.numel() for weight in model.blocks.parameters())
    print(f"10^9 operations ({n_blocks / 1e6:.0f} million parameters in blocks): {figures}")
    return figures


if __name__ == "__main__":
    main()
