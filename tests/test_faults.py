"""Runs that are killed at random points, again and again, and long runs. Run with -m faults.

Each study runs in a child process that is killed with SIGKILL some time after its first new record.
Then the same command goes on. At the end no finished record is lost or doubled, and the results are
those of a run that was not disturbed. KILLS sets how often each run is killed.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import kedit
from experiments._spread import Spread
from kedit.editors.registry import make_editor
from kedit.models import toy
from tests.small_runs import ABOUT, RUNS, plain, records_of, result_of

log = logging.getLogger(__name__)
KILLS = int(os.environ.get("KILLS", "3"))
PATIENCE = 120  # seconds without a new record, after which a run hangs


def run_once(study: str, options: Mapping[str, Any], out: Path) -> None:
    """Runs a study with one thread, silently; this is what the child process does."""
    torch.set_num_threads(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    module = importlib.import_module(f"experiments.{study}")
    module.run(replace(module.Config(model="toy"), **options, out=str(out)))


def started(study: str, options: Mapping[str, Any], out: Path) -> Any:
    """Starts a study in a fork of this process, which has the imports already."""
    process = multiprocessing.get_context("fork").Process(
        target=run_once, args=(study, options, out)
    )
    process.start()
    return process


def wait_for_record(process: Any, out: Path, n_before: int) -> None:
    """Waits until the run has a new record or has ended."""
    started_at = time.monotonic()
    while process.is_alive() and len(records_of(out)) <= n_before:
        time.sleep(0.005)
        assert time.monotonic() - started_at < PATIENCE, "the run hangs"


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("study", RUNS)
def test_a_killed_run_loses_and_doubles_nothing(study: str, tmp_path: Path) -> None:
    options = RUNS[study]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = started(study, options, whole)
    process.join(600)
    assert process.exitcode == 0
    draw, n_killed = random.Random(study), 0
    for _ in range(KILLS):
        before = records_of(killed)
        process = started(study, options, killed)
        wait_for_record(process, killed, len(before))
        time.sleep(draw.uniform(0, 1.0))
        if not process.is_alive():
            process.join()
            break
        process.kill()
        process.join()
        n_killed += 1
        after = records_of(killed)
        assert after[: len(before)] == before  # what was finished stays
        assert len(after) > len(before)
    assert n_killed
    process = started(study, options, killed)
    process.join(600)
    assert process.exitcode == 0
    ours, theirs = records_of(killed), records_of(whole)
    keys = [record["key"] for record in ours]
    assert len(set(keys)) == len(keys)
    by_key = {record["key"]: plain(record) for record in theirs}
    assert {record["key"]: plain(record) for record in ours} == by_key
    log.info("%s: %d kills, %d records", study, n_killed, len(ours))  # shown with --log-cli-level
    results = [file.name for file in whole.glob("*.json") if file.name not in ABOUT]
    assert results
    for name in results:
        assert result_of(killed / name) == result_of(whole / name), name


def workers_of_ray() -> list[psutil.Process]:
    """The processes of Ray's workers that are started by this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "_Worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.faults
@pytest.mark.parametrize("study", ["trace_relation", "compare_editors"])
def test_killed_workers_of_ray_lose_and_double_nothing(study: str, tmp_path: Path) -> None:
    """Workers are killed at random points while others work, and one is always left to go on."""
    pytest.importorskip("ray")
    module = importlib.import_module(f"experiments.{study}")
    config = replace(module.Config(model="toy"), **RUNS[study], out=str(tmp_path / "whole"))
    config = replace(config, limit=3 * config.limit)
    whole = module.run(config)
    draw, killed, ended = random.Random(study), [], threading.Event()

    def kill_some() -> None:
        n_before = 0
        while len(killed) < KILLS and not ended.is_set():
            n_records, workers = len(records_of(tmp_path / "killed")), workers_of_ray()
            if n_records > n_before and len(workers) == 2:
                time.sleep(draw.uniform(0, 0.5))
                killed.append(draw.choice(workers).pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
                n_before = n_records
            time.sleep(0.01)

    killing = threading.Thread(target=kill_some)
    killing.start()
    spread_over = replace(config, out=str(tmp_path / "killed"), spread=Spread("ray", workers=2))
    try:
        module.run(spread_over)
    finally:
        ended.set()
        killing.join()
    assert killed
    log.info("%s: %d workers killed", study, len(killed))
    ours, theirs = records_of(tmp_path / "killed"), records_of(whole)
    assert len({record["key"] for record in ours}) == len(ours)
    by_key = {record["key"]: plain(record) for record in theirs}
    assert {record["key"]: plain(record) for record in ours} == by_key
    for name in (file.name for file in whole.glob("*.json") if file.name not in ABOUT):
        assert result_of(tmp_path / "killed" / name) == result_of(whole / name), name


@pytest.mark.faults
@pytest.mark.parametrize("name", ["rome", "memit", "joint", "separate", "cues", "ft", "ft+l", "kn"])
def test_a_thousand_times_applied_and_undone_leave_the_model_bit_for_bit(name: str) -> None:
    model = kedit.load("toy")
    before = {key: weight.clone() for key, weight in model.named_parameters()}
    edits = [
        make_editor(name, model, "entity")(model, case.requests("entity"))
        for case in toy.cases()[:2]
    ]
    for number in range(500):
        with edits[number % 2].applied(model), edits[1 - number % 2].applied(model):
            pass
    assert all(torch.equal(before[key], weight) for key, weight in model.named_parameters())


@pytest.mark.faults
def test_memory_does_not_grow_with_the_number_of_edits() -> None:
    """The slope of the resident memory over 1,000 edits, after the first 200."""
    model = kedit.load("toy")
    make = make_editor("rome:training.steps=2", model, "entity").on(model)
    cases, process = toy.cases(), psutil.Process()
    sizes = []
    for number in range(1000):
        with make(cases[number % len(cases)].requests("entity")).applied(model):
            pass
        if number >= 200 and number % 50 == 0:
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)
    # 800 edits; if each kept its delta (320 floats) and key, they would take megabytes
    growth = sizes[-1] - sizes[0]
    log.info("%.1f MiB after 200 edits, %+.2f MiB after 950", sizes[0], growth)
    assert growth < 20
