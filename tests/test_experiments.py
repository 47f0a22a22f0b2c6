"""Every experiment runs on the toy; a run goes on where it was stopped; folders are guarded."""

import csv
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import patch_heads, trace_relation
from experiments._bounds import require_options_in_bounds
from experiments._command import command, open_run
from experiments._printing import console
from experiments._trace import Config
from figures import report
from kedit.data import builtin
from kedit.data.choose import spread_facts
from kedit.errors import InputError, NoReplacement
from kedit.progress import progress
from kedit.results.averages import BUCKETS
from kedit.results.grids import EffectGrid
from kedit.results.trace_averages import TraceAverages
from kedit.results.traced import Traces
from kedit.results.traces import AverageEffect, FactTrace
from kedit.results.tracing import Counts, Tracing
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from kedit.tables import Table, csv_text
from probes import trace as trace_module
from probes.corrupt import Corruption, replaced
from tests import made_up_run

ROOT = Path(__file__).parent.parent
TOY = Config(model="toy", limit=3)
EXPERIMENTS = [file.stem for file in (ROOT / "experiments").glob("[a-z]*.py")]


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_answers_at_once_without_torch(name: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['experiments/{name}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_module('experiments.{name}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"by": "noise", "samples": 2, "heatmaps": 1, "sites": ["resid_post", "z"]}],
)
def test_trace_relation_runs_on_the_toy(tmp_path: Path, options: dict) -> None:
    folder = trace_relation.run(replace(TOY, out=str(tmp_path / "run"), **options))
    wanted = {"config.json", "versions.json", "records.jsonl", "averages.json", "table.csv"}
    assert wanted <= {file.name for file in folder.iterdir()}
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.pdf"))) >= 5
    averages = json.loads((folder / "averages.json").read_text())
    assert averages["facts"]["traced"] == {"relation": 3, "subject": 3}
    resid = [grid for grid in averages["averages"] if grid["name"] == "resid_post"]
    assert [grid["part"] for grid in resid] == ["relation", "subject"]
    for grid in resid:
        total = averages["total effects"][grid["part"]]["total effect"]["mean"][0]
        last_token = grid["mean"][0][grid["buckets"].index("last token")]
        assert last_token[-1] == pytest.approx(total, abs=1e-5)  # it is the whole answer
        assert abs(total) > 1e-3
    assert {row["grid"] for row in table(folder)} == {grid["name"] for grid in averages["averages"]}


def averages_of(*effects: AverageEffect) -> TraceAverages:
    """As of one fact that the model answers right, whose subject was corrupted."""
    counts = Counts({"subject": 1}, {"subject": 1}, {}, {"subject": {}})
    total = {"total effect": Interval(*np.array([[0.9] * 3, [0.8] * 3, [1.0] * 3]))}
    return TraceAverages(
        "toy", Tracing(corrupt="subject"), "prob", "own", counts, {}, {"subject": total}, {},
        effects,
    )  # fmt: skip


def test_a_table_has_no_nan_and_no_interval_of_one_fact() -> None:
    n = len(BUCKETS)
    mean, bound = np.full((3, n, 2), 0.00042), np.full((3, n, 2), np.nan)
    mean[:, 1] = np.nan
    mean[:, 2, 1] = 0.9
    n_facts = (20, 0, 3, *[20] * (n - 3))
    made = AverageEffect("mlp_out", "subject", 3, BUCKETS, n_facts, n_facts, mean, bound, bound)
    found = averages_of(made)
    cells = [row[1] for row in found.table().rows]
    assert cells[:4] == ["L0 0.00042", "-", "only 3 facts", "L0 0.00042"]
    rows = found.rows()
    assert rows[2]["facts"] == 3 and "effect" not in rows[2]
    sure = replace(made, low=np.full_like(mean, 0.0001), high=np.full_like(mean, 0.0012))
    assert averages_of(sure).table().rows[0][1] == "L0 0.0004 [0.0001, 0.0012]"


def test_nan_is_null_in_json_empty_in_csv_and_nothing_in_a_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("x.json", {"a": [1.5, math.nan], "b": {"c": math.inf}, "d": Path("e")})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {
        "a": [1.5, None], "b": {"c": None}, "d": "e",
    }  # fmt: skip
    rows = [{"a": math.nan, "b": 1.5}, {"a": np.float64("inf"), "b": ""}]
    assert csv_text(rows) == "a,b\n,1.5\n,\n"
    folder.add("good", {"a": [1.5]}, {"t": torch.ones(2)})
    for record, tensors in (
        ({"a": {"b": [0.0, math.nan]}}, None),
        ({"a": -math.inf}, None),
        ({"a": 1.0}, {"t": torch.tensor([1.0, math.nan])}),
    ):
        with pytest.raises(InputError, match=r"the record bad: (a.b.1|a|t) is .*no result"):
            folder.add("bad", record, tensors)
    assert list(RunFolder(tmp_path).records) == ["good"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_option_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    config = replace(TOY, screen=value, out=str(tmp_path / "run"))
    with (
        pytest.raises(InputError, match=f"--screen {value}: must be a number between 0 and 1"),
        open_run("x", config),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_fact_whose_scores_are_not_finite_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, n_swept = trace_module.sweep, []

    def broken(*args: Any, **kwargs: Any) -> EffectGrid:
        n_swept.append(1)
        grid = sweep(*args, **kwargs)
        restored = torch.full_like(grid.restored, math.nan)
        return replace(grid, restored=restored) if len(n_swept) == 2 else grid

    monkeypatch.setattr(trace_module, "sweep", broken)
    config = replace(TOY, corrupt="subject", sites=["resid_post"], out=str(tmp_path / "run"))
    folder = trace_relation.run(config)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    (skipped,) = [record["skipped"] for record in records if "skipped" in record]
    assert "subject corrupted: scores of 'resid_post' are not finite" in skipped
    assert len(records) == 4  # three facts were wanted, and three are averaged
    assert "nan" not in (folder / "table.csv").read_text()
    facts = json.loads((folder / "averages.json").read_text())["facts"]
    assert facts["traced"] == {"subject": 3} and facts["left out"]["not usable"] == 1


@pytest.mark.slow
def test_a_single_fact_is_told_without_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(TOY, limit=1, sites=["resid_post"], out=str(tmp_path / "run"))
    folder = trace_relation.run(config)
    shown = capsys.readouterr().out
    assert "1 fact, 1 relation;" in shown and "[" not in shown
    assert all(row["low"] == row["high"] == "" for row in table(folder) if row["effect"])
    text = (folder / "averages.json").read_text()
    low = json.loads(text, parse_constant=pytest.fail)["averages"][0]["low"]
    assert {value for metric in low for bucket in metric for value in bucket} == {None}
    assert list(folder.glob("*.png"))
    report.run(report.Config([str(folder)]))
    assert "NaN" not in (folder / "report.html").read_text().partition('id="data"')[2]


@pytest.mark.slow
def test_patch_heads_runs_on_the_toy(tmp_path: Path) -> None:
    config = replace(TOY, sites=["z"], relations="2", limit=4, out=str(tmp_path / "run"))
    folder = patch_heads.run(config)
    rows = table(folder)
    assert {row["grid"] for row in rows} == {"z"}
    assert any(row["head"] for row in rows)
    assert list(folder.glob("*.png"))


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    config = replace(TOY, corrupt="subject", sites=["mlp_out"])
    whole = trace_relation.run(replace(config, out=str(tmp_path / "whole")))
    command = [
        sys.executable, "-m", "experiments.trace_relation", "--model", "toy", "--limit", "3",
        "--corrupt", "subject", "--sites", "mlp_out",
    ]  # fmt: skip
    out = tmp_path / "stopped"
    lines = out / "records.jsonl"
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: two threads round otherwise
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = lines.read_bytes()
    with lines.open("ab") as torn:
        torn.write(b'{"key": "torn')
    again = trace_relation.run(replace(config, out=str(out)))
    assert lines.read_bytes().startswith(finished)  # what was finished is not done again
    for name in ("averages.json", "table.csv"):
        assert (again / name).read_text() == (whole / name).read_text()


def test_a_folder_of_another_run_is_not_touched(tmp_path: Path) -> None:
    with open_run("x", replace(TOY, out=str(tmp_path))):
        pass
    with (
        pytest.raises(InputError, match="holds a run with seed=0, this one has 1"),
        open_run("x", replace(TOY, out=str(tmp_path), seed=1)),
    ):
        pass
    with (
        pytest.raises(InputError, match="holds a run of x, this is y"),
        open_run("y", replace(TOY, out=str(tmp_path))),
    ):
        pass


def test_a_narrow_screen_loses_no_number() -> None:
    from rich.console import Console

    cells = [f"L{layer} 0.{layer} [0.08, 0.70]" for layer in range(10, 15)]
    columns = tuple(f"site {layer}" for layer in range(10, 15))
    table = Table("What it is", columns, (tuple(cells),), "how sure")
    screen = Console(width=60)
    with screen.capture() as shown:
        screen.print(table.to_rich(screen.width))
    assert "…" not in shown.get()
    for word in " ".join(cells).split():
        assert word in shown.get()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    config = replace(TOY, out=str(tmp_path))
    with (
        open_run("x", config),
        pytest.raises(InputError, match="in use by another process"),
        open_run("x", config),
    ):
        pass


def test_options_for_drawing_do_not_make_another_run(tmp_path: Path) -> None:
    with open_run("x", replace(TOY, out=str(tmp_path)), ("metric",)):
        pass
    with open_run("x", replace(TOY, out=str(tmp_path), metric="logprob"), ("metric",)) as folder:
        assert isinstance(folder, RunFolder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["--model", "toy", "--sites", "elbow"], "--sites elbow: must be one of resid_post"),
        (["--model", "toy", "--by", "noise", "--noise", "loud"], "noise 'loud'"),
        (["--model", "toy", "--relations", "²"], "no facts of the relation '²'; the relations are"),
        (["--model", "toy", "--relations", "9" * 5000], "no facts of the relation '999"),
        (["--samples", "0"], "--samples 0: must be a number of at least 1"),
        (["--samples", "-2"], "--samples -2: must be a number of at least 1"),
        (["--seed", "-5"], "--seed -5: must be a number between 0 and"),
        (["--limit", "-1"], "--limit -1: must be a number of at least 0"),
        (["--screen", "1.5"], "--screen 1.5: must be a number between 0 and 1"),
        (["--sites"], "--sites: at least one value is needed"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    argv = ["experiments/trace_relation.py", *arguments, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        command(Config, trace_relation.run)
    (line,) = str(end.value).splitlines()
    assert line.startswith("error: ") and message in line


def test_options_out_of_bounds_are_refused_in_a_notebook_too(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="--samples 0: must be a number of at least 1"),
        open_run("x", replace(TOY, out=str(tmp_path), samples=0)),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiments_own_options_are_in_their_bounds(name: str) -> None:
    require_options_in_bounds(importlib.import_module(f"experiments.{name}").Config(), name)


PRINTING = """
import sys
from experiments._command import command
from experiments._printing import console
from experiments.trace_relation import Config
def run(config):
    console().print("Łódź → naïve")
command(Config, run)
"""


def test_what_a_code_page_lacks_is_replaced_and_the_rest_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTING], cwd=ROOT, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("cp1252").split() == ["?ód?", "?", "naïve"]


def test_square_brackets_in_data_are_no_markup() -> None:
    text = "birthplace [/old] of [red]"
    table = Table(text, (text, "n"), ((text, "1"),), text)
    screen = console()
    with screen.capture() as shown:
        screen.print(table.to_rich(screen.width))
        screen.print(text)
    assert shown.get().count("[/old]") == shown.get().count("[red]") == 5
    bars = progress("facts")
    bars.add_task(text, total=1)
    with bars.console.capture() as drawn:
        bars.console.print(bars)
    assert text in drawn.get()


@pytest.mark.slow
def test_the_command_ends_with_that_line_and_no_traceback(tmp_path: Path) -> None:
    arguments = ["--model", "toy", "--facts", "nowhere.jsonl", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.trace_relation", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: --facts nowhere.jsonl: there is no such file")
    assert "Traceback" not in done.stderr


def test_facts_are_spread_over_relations_and_drawn_by_the_seed() -> None:
    facts = builtin.load()
    order = spread_facts(facts, 0)
    relations = {fact.relation.id for fact in facts}
    assert len({worded[0].relation.id for worded in order[: len(relations)]}) == len(relations)
    assert len(order) == len({(fact.relation.id, fact.subject) for fact in facts})
    assert sum(map(len, order)) == len(facts)
    assert order == spread_facts(facts, 0) != spread_facts(facts, 1)


def test_wordings_with_something_behind_the_relation_come_first() -> None:
    for worded in spread_facts(builtin.load(), 0):
        ends = [fact.relation_spans[-1][1] == len(fact.prompt) for fact in worded]
        assert ends == sorted(ends)


def test_the_papers_preset_is_the_papers_setting() -> None:
    module = importlib.import_module("experiments._trace")
    config = module.settled(Config(preset="rake"))
    assert (config.corrupt, config.by, config.noise) == ("relation", "noise", "upstream")
    assert (config.samples, config.window, config.baseline) == (10, 10, "pooled")


def weakened(trace: FactTrace, share: float) -> FactTrace:
    """A trace whose answer keeps `share` of its clean probability."""
    grids = {
        name: replace(grid, corrupted=share * grid.clean) for name, grid in trace.grids.items()
    }
    return replace(trace, grids=grids)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0.1, 0.5]),
        ({"keep_all": True}, [0.1, 0.5, 0.51, 1.2]),
        ({"by": "noise"}, [0.1, 0.5, 0.51, 1.2]),  # Meng et al.'s protocol leaves none out
    ],
)
def test_a_replacement_that_leaves_most_of_the_answer_is_left_out(
    options: dict[str, Any], kept: list[float]
) -> None:
    every = [weakened(made_up_run.trace(0, "subject"), share) for share in (0.1, 0.5, 0.51, 1.2)]
    made = Traces("toy", Tracing(**options), {"subject": tuple(every)}, (), {})
    left = made.averaged["subject"]
    assert [round(trace.kept_share, 2) for trace in left] == kept


def test_a_part_without_words_to_put_in_its_place_does_not_take_the_other_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_subjects(model: Any, fact: Any, part: str, pool: Any, seed: int) -> Corruption:
        if part == "relation":
            raise NoReplacement("no other relation is as long")
        return replaced(model, fact, part, pool, seed)

    monkeypatch.setattr("probes.studies.tracing.replaced", only_subjects)
    config = replace(TOY, limit=2, sites=["resid_post"], out=str(tmp_path / "run"))
    folder = trace_relation.run(config)
    found = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [[one["part"] for one in record["traces"]] for record in found] == [["subject"]] * 2
    assert all(list(record["uncorrupted"]) == ["relation"] for record in found)
    counted = json.loads((folder / "averages.json").read_text())["facts"]
    assert counted["traced"] == {"relation": 0, "subject": 2}
    assert counted["left out of one part"]["relation"]["no replacement"] == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "relation corrupted: 2 for which there are no replacement words" in told
    other = replace(config, corrupt="relation", relations="P19", out=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"could be traced: .* [1-9]\d* for which there are"):
        trace_relation.run(other)
