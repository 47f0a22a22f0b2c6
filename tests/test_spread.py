"""Ray's workers make the records of a study alone, and survive the death of any of them."""

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments import _merge
from experiments._command import open_run
from experiments._early import require_possible
from experiments._spread import Spread
from kedit.claims import DEATHS
from kedit.errors import InputError
from kedit.journal import Journal
from kedit.merging import merge
from kedit.run_folder import RunFolder
from kedit.spread import NICENESS, spread
from tests.small_runs import ABOUT, RUNS, plain, records_of, result_of

ray = pytest.importorskip("ray")
DIVIDED = (
    "trace_relation",
    "patch_heads",
    "score_model",
    "compare_editors",
    "tune_editors",
    "edit_many",
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Starts Ray once for all tests of this file."""
    os.environ[NICENESS] = "0"
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        pytest.skip(f"Ray cannot be started here: {error}")
    yield
    ray.shutdown()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no figures."""
    for name in ("save", "save_for_now"):
        monkeypatch.setattr(f"figures.style.{name}", lambda *_: None)


def squares(work: Callable[[int], Any], n: int = 6) -> Callable[[Any], list[Any]]:
    """A study without a model: `work` is called for each number before it is squared."""

    def study(journal: Journal) -> list[Any]:
        def squared(one: int) -> dict[str, int]:
            work(one)
            return {"square": one * one}

        entries = journal.each(range(n), str, squared, unit="numbers", doing="squaring")
        return [entry.record.get("square", entry.skipped) for entry in entries]

    return study


def test_two_workers_share_the_items_and_write_to_one_folder(tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()

    def work(one: int) -> None:
        (places / f"{one}-{os.getpid()}").touch()
        # each worker waits with its first item until the other has one
        for _ in range(600):
            if len({file.name.split("-")[1] for file in places.iterdir()}) == 2:
                return
            time.sleep(0.2)

    journal = RunFolder(tmp_path)
    journal.add("2", {"square": 0})  # an earlier run's
    found = spread(squares(work, 12), journal, workers=2, threads=1)
    expected = [0 if one == 2 else one * one for one in range(12)]
    assert found == expected
    done, by = zip(*(file.name.split("-") for file in places.iterdir()), strict=True)
    assert sorted(map(int, done)) == [0, 1, *range(3, 12)]
    assert len({*by}) == 2 and str(os.getpid()) not in by
    assert journal.records == RunFolder(tmp_path).records
    assert {int(key): record["square"] for key, record in journal.records.items()} == dict(
        enumerate(expected)
    )


def test_workers_can_share_one_part_of_a_study() -> None:
    journal = Journal()
    journal.shard = (2, 3)
    assert spread(squares(lambda one: None, 10), journal, workers=2, threads=1) == [1, 16, 49]


def test_what_a_killed_worker_held_is_done_by_another(tmp_path: Path) -> None:
    def work(one: int) -> None:
        if one == 3 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    journal = Journal()
    assert spread(squares(work), journal, workers=2, threads=1) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "killed").exists()


def test_a_record_that_kills_every_worker_is_left_out() -> None:
    def work(one: int) -> None:
        if one == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    first, bad, *rest = spread(squares(work, 4), Journal(), workers=1, threads=1)
    assert [first, *rest] == [0, 4, 9]
    assert bad.startswith(f"{DEATHS} workers ended while they worked on it")


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    def work(one: int) -> None:
        if one == 2 and not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            time.sleep(600)

    assert spread(squares(work, 4), Journal(), workers=1, threads=1, patience=6) == [0, 1, 4, 9]


def test_without_the_process_that_writes_the_study_ends_and_is_continued(tmp_path: Path) -> None:
    def work(one: int) -> None:
        if one == 3 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if "_Keeper" in " ".join(process.cmdline()):
                        process.kill()

    with pytest.raises(InputError, match="the process that writes the records has died"):
        spread(squares(work), RunFolder(tmp_path), workers=1, threads=1)
    again = RunFolder(tmp_path)
    assert {"0", "1", "2"} <= again.records.keys()
    assert spread(squares(work), again, workers=1, threads=1) == [0, 1, 4, 9, 16, 25]


def test_a_study_that_refuses_its_input_does_so_in_one_line() -> None:
    def study(journal: Journal) -> None:
        raise InputError("there are no cases")

    with pytest.raises(InputError, match="^there are no cases$"):
        spread(study, Journal(), workers=1, threads=1)


def test_workers_that_die_before_they_begin_end_the_study() -> None:
    def study(journal: Journal) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match="workers died before they began"):
        spread(study, Journal(), workers=1, threads=1)


@pytest.mark.parametrize(
    ("more", "kind"), [({"workers": 64}, "CPU"), ({"gpus_per_worker": 1}, "GPU")]
)
def test_more_than_the_cluster_has_is_refused(more: Any, kind: str) -> None:
    with pytest.raises(InputError, match=rf"{kind}s each need more than"):
        spread(squares(lambda one: None), Journal(), **{"workers": 1, "threads": 1, **more})


def test_without_ray_there_is_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'kedit\[ray\]'"):
        spread(squares(lambda one: None), Journal())


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", DIVIDED)
def test_a_command_has_the_same_results_to_the_bit(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"experiments.{name}")
    config = replace(module.Config(model="toy"), **RUNS[name], out=str(tmp_path / "alone"))
    alone = module.run(config)
    spread_over = replace(config, out=str(tmp_path / "spread"), spread=Spread("ray", workers=2))
    together = module.run(spread_over)
    ours, theirs = (
        {record["key"]: plain(record) for record in records_of(folder)}
        for folder in (together, alone)
    )
    assert ours == theirs
    results = [file.name for file in alone.glob("*.json") if file.name not in ABOUT]
    assert results
    for file in results:
        assert result_of(together / file) == result_of(alone / file), file


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["trace_relation", "compare_editors", "edit_many"])
def test_the_parts_of_a_job_array_are_united(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"experiments.{name}")
    config = replace(module.Config(model="toy"), **RUNS[name], out=str(tmp_path / "alone"))
    alone = module.run(config)
    for part in (1, 2):
        of_part = Spread(shard=f"{part}/2")
        module.run(replace(config, out=str(tmp_path / f"part {part}"), spread=of_part))
    united = tmp_path / "united"
    _merge.run(_merge.Config([str(tmp_path / "part 1"), str(tmp_path / "part 2")], str(united)))
    n_united = len(records_of(united))
    module.run(replace(config, out=str(united)))
    assert n_united == len(records_of(united))  # nothing was missing
    files = [file.name for file in alone.glob("*.json") if file.name not in ABOUT]
    assert files
    for file in files:
        require_close(result_of(united / file), result_of(alone / file))


def require_close(ours: Any, theirs: Any) -> None:
    """Checks two results, up to the rounding of batches that are divided in another way."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = [*ours.values()], [*theirs.values()]
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            require_close(one, other)
    else:
        assert ours == (pytest.approx(theirs, 1e-3, 1e-4) if type(theirs) is float else theirs)


@pytest.mark.parametrize("shard", ["9/2", "0/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_there_cannot_be_is_refused_before_anything_is_loaded(shard: str) -> None:
    module = importlib.import_module("experiments.score_model")
    with pytest.raises(InputError, match="needs a part and their number"):
        require_possible(module.Config(model="toy", spread=Spread(shard=shard)), "score_model")


def test_runs_of_different_studies_are_not_united(tmp_path: Path) -> None:
    for name, limit in (("a", 1), ("b", 2)):
        module = importlib.import_module("experiments.score_model")
        config = module.Config(model="toy", limit=limit, out=str(tmp_path / name))
        with open_run("score_model", config):
            pass
    with pytest.raises(InputError, match="not parts of one study: measured is"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
    with pytest.raises(InputError, match="holds no run"):
        merge([tmp_path / "a", tmp_path], tmp_path / "whole")
    with pytest.raises(InputError, match="no folder to merge"):
        merge([], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
