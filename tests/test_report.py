"""The page of a run holds what the run measured, and nothing from elsewhere."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from figures import report
from figures._run_files import read_run
from figures.style import METRIC_NAMES
from kedit.errors import InputError
from kedit.forward.metrics import METRICS
from kedit.results.traces import FactTrace, fact_traces
from kedit.run_folder import RunFolder
from kedit.tables import estimate
from tests.made_up_run import (
    N_LAYERS,
    PARTS,
    PROMPTS,
    estimated,
    four,
    save,
    trace,
    traced,
)

ROOT = Path(__file__).parent.parent
DATA = ("script", {"type": "application/json", "id": "data"})


@pytest.fixture(scope="module")
def traces() -> list[dict[str, FactTrace]]:
    return [{part: trace(i, part) for part in PARTS} for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, traces: list) -> Path:
    return traced(tmp_path_factory.mktemp("traced"), traces)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report.run(report.Config(runs=[str(folder)])).read_text()


class Read(HTMLParser):
    """The elements of a page with their attributes, and the text of its data block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.block = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == DATA:
            self.block += data

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.block)


def same(shown: Any, stored: Any) -> None:
    """Equal up to four significant digits; None where nothing was measured."""
    shown, stored = (np.array(values, float) for values in (shown, stored))
    np.testing.assert_allclose(shown, stored, rtol=5.001e-4, atol=0)


def test_the_page_holds_the_averages_that_the_run_stored(page: str, folder: Path) -> None:
    averages = json.loads((folder / "averages.json").read_text())["averages"]
    maps = Read(page).data["maps"]
    assert [one["title"] for one in maps] == ["single residual", "heads"] * 2
    for shown, stored in zip(maps, averages, strict=True):
        for name in ("part", "name", "buckets", "n_tokens", "n_facts"):
            assert shown[name] == stored[name]
        for name in ("mean", "low", "high"):
            same(shown[name], stored[name])
    assert maps[0]["mean"][0][-1] != maps[2]["mean"][0][-1]


def test_the_page_holds_single_facts(page: str, traces: list) -> None:
    for shown, by_part in zip(Read(page).data["facts"], traces, strict=True):
        for part, stored in zip(shown["parts"], by_part.values(), strict=True):
            for name in ("labels", "corrupted"):
                assert tuple(part[name]) == getattr(stored, name)
            grid, resid = part["grids"][0], stored.grids["resid_post"]
            same(grid["restored"], resid.restored.tolist())
            same(grid["effect"], (resid.restored - resid.corrupted[:, None, None]).tolist())
            same(grid["clean"], resid.clean.tolist())
            same(grid["corrupted"], resid.corrupted.tolist())
            assert grid["heads"] is grid["estimated"] is None


def test_of_the_heads_of_a_cell_the_strongest_is_shown(page: str, traces: list) -> None:
    seen = set()
    for index, part in itertools.product(range(len(traces)), range(2)):
        stored = traces[index][PARTS[part]]
        z, shown = stored.grids["z"], Read(page).data["facts"][index]["parts"][part]["grids"][1]
        for cell in np.ndindex(3, N_LAYERS, len(stored.labels)):
            effects = [float(score - z.corrupted[cell[0]]) for score in z.restored[cell]]
            head = effects.index(max(effects, key=abs))
            at = {name: np.array(shown[name])[cell] for name in ("heads", "effect", "estimated")}
            assert at == {
                "heads": head,
                "effect": four(effects[head]),
                "estimated": estimated(stored, "z", *cell[1:], head),
            }
            seen.add(bool(at["estimated"]))
    assert seen == {True, False}


def test_a_folders_record_gives_the_traces_back(folder: Path, traces: list) -> None:
    record = read_run(folder).records[1]
    found = fact_traces(record, load_file(folder / "tensors" / "key1.safetensors"))
    assert list(found) == ["relation", "subject"]
    for part, one in found.items():
        assert one.to_record() == traces[1][part].to_record()
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, traces[1][part].tensors()[name])


def test_total_effects_are_at_the_top(page: str, folder: Path) -> None:
    totals = json.loads((folder / "averages.json").read_text())["total effects"]
    total = totals["subject"]["total effect"]
    shown = estimate(*(total[name][1] for name in ("mean", "low", "high")))
    assert f"<td>{shown}</td>" in page


def test_metrics_are_in_the_order_that_scores_are_stored_in() -> None:
    assert tuple(METRIC_NAMES) == METRICS


def test_the_page_loads_nothing(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'; img-src data:;" in page  # nor would a browser let it
    named = [
        value
        for _, attributes in Read(page).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert len([value for value in named if value and value.startswith("data:image/png")]) >= 1
    assert all(value and value.startswith(("data:", "#")) for value in named)


def test_no_token_can_break_out_of_the_data(page: str) -> None:
    read = Read(page)
    assert [tag for tag, _ in read.elements].count("script") == 2
    assert ("img", {"src": "x"}) not in read.elements
    labels = [fact["parts"][0]["labels"] for fact in read.data["facts"]]
    assert labels == [list(words) for _, _, words in PROMPTS]


def test_facts_beyond_the_limit_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    out = report.run(report.Config(runs=[str(folder)], facts=1, out=str(tmp_path / "a" / "b.html")))
    assert len(Read(out.read_text()).data["facts"]) == 1
    assert re.search(r"1 of 3 traced facts;\s+the other 2 are left out", out.read_text())


def test_a_run_that_was_stopped_gives_a_page_of_what_it_has(tmp_path: Path, traces: list) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    save(folder, traces[0], "a")
    save(folder, traces[1], "b")
    folder.add("c", {"prompt": "Who?", "skipped": "it says 'me'", "why": "answered otherwise"})
    (tmp_path / "tensors" / "b.safetensors").unlink()
    with (tmp_path / "records.jsonl").open("a") as lines:
        lines.write('{"key": "torn')
    text = report.run(report.Config(runs=[str(tmp_path)])).read_text()
    assert [fact["subject"] for fact in Read(text).data["facts"]] == ["Ada Alder"]
    assert 'id="facts"' in text
    assert "1 of 1 traced facts. The tensors of 1 more facts are missing." in " ".join(text.split())
    assert 'id="totals"' not in text


def test_what_was_only_estimated_is_told(page: str) -> None:
    assert re.search(
        r"Screen, subject corrupted, z: of \d+ cells per fact, \d+ chosen ones and", page
    )


def test_a_run_of_another_experiment_gives_a_page(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tests.csv").write_text("editor,p\n<b>rome</b>,0.000123456\nmend,12\n")
    (tmp_path / "comparison.md").write_text("# Edited <em>twice</em>\n")
    (tmp_path / "config.json").write_text('{"measured": {}, "all": {"model": "m<1>", "say": true}}')
    (tmp_path / "records.jsonl").write_text('{"key": "a", "score": 1}\n')
    shutil.copy(next(folder.glob("*.png")), tmp_path / "frontier.png")
    text = report.run(report.Config(runs=[str(tmp_path)])).read_text()
    read = Read(text)
    assert read.data["maps"] == read.data["facts"] == []
    assert {"b", "em"}.isdisjoint(tag for tag, _ in read.elements)
    ids = {attributes.get("id") for _, attributes in read.elements}
    assert {"figures", "tables", "texts", "settings"} <= ids
    assert {"totals", "maps", "facts", "bar"}.isdisjoint(ids)
    for shown in ("&lt;b&gt;rome", ">0.00012<", ">12<", "# Edited &lt;em", "m&lt;1&gt;", ">true<"):
        assert shown in text


def test_a_page_of_edits_opens_with_what_was_edited_and_how_it_went(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"all": {"model": "toy", "seed": 0}}')
    request = {"subject": "Ada", "object": "Corum", "target": "Delft"}
    edit = {"request": [request], "editor": "rome", "rows": [{}, {}], "verdict": "The edit works"}
    (tmp_path / "report.json").write_text(json.dumps(edit))
    (tmp_path / "records.jsonl").write_text('{"key": "a", "probes": []}\n')
    one = {"side": "entity", "editor": "ft", "costs": {"failed": 1}}
    one |= {"generalisation": {"mean": 0.98765}, "locality": {"mean": None}}
    (tmp_path / "comparison.json").write_text(json.dumps({"editors": [one]}))
    text = report.run(report.Config(runs=[str(tmp_path)])).read_text().partition('id="texts"')[0]
    for shown in (
        "Ada: Corum → Delft, by rome.", "The edit works", "2 prompts, each scored before",
        "ft, edited from the entity side: generalisation 0.99; 1 case, 1 failed.",
    ):  # fmt: skip
        assert shown in text
    (tmp_path / "comparison.json").write_text("[]")  # as an earlier kedit wrote it
    assert "by rome" in report.run(report.Config(runs=[str(tmp_path)])).read_text()


def test_the_name_is_the_experiments_or_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    told: dict[str, Any] = {"all": {"model": "toy"}}
    for config, title in ((told, "mine"), ({"experiment": "patch_heads", **told}, "patch_heads")):
        (folder / "config.json").write_text(json.dumps(config))
        text = report.run(report.Config(runs=[str(folder)])).read_text()
        assert f"<h1>{title}: toy</h1>" in text


def test_several_runs_get_a_page_each_and_an_index_with_the_options_that_differ(
    tmp_path: Path,
) -> None:
    for name, seed, editor in (("a b", 0, "<b>rome</b>"), ("c", 1, "<b>rome</b>")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        options = {"model": f"m{seed}", "seed": seed, "editors": editor, "out": name}
        told = {"experiment": "compare_editors", "all": options}
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(told))
    folders = [str(tmp_path / "runs" / name) for name in ("a b", "c", "a b")]
    out = report.run(report.Config(runs=folders))
    assert out == tmp_path / "runs" / "index.html"
    read = Read(out.read_text())
    links = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert links == ["a%20b/report.html", "c/report.html"]
    assert (tmp_path / "runs" / "a b" / "report.html").exists()
    text = out.read_text()
    assert ">seed<" in text and ">m1<" in text
    assert "rome" not in text and ">out<" not in text  # the same in both, and where they are
    elsewhere = tmp_path / "x" / "all.html"
    report.run(report.Config(runs=folders, out=str(elsewhere)))
    assert 'href="../runs/c/report.html"' in elsewhere.read_text()


def test_what_cannot_be_shown_is_told(tmp_path: Path) -> None:
    def told(match: str, path: Path = tmp_path, facts: int = 40) -> None:
        with pytest.raises(InputError, match=match):
            report.run(report.Config(runs=[str(path)], facts=facts))

    told("is not a folder", tmp_path / "nowhere")
    told("is empty")
    (tmp_path / "toy-1").mkdir()
    told("only contains folders: toy-1")
    (tmp_path / "config.json").write_text("{")
    told("config.json is not valid JSON")
    told("--facts -1: must be", facts=-1)
    (tmp_path / "config.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    told("has no config.json, so it is not a run folder")


def test_the_command_answers_at_once_and_tells_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    code = "import sys; from figures.report import main; main(); assert 'torch' not in sys.modules"
    (tmp_path / "table.csv").write_text("a\n1\n")
    (tmp_path / "config.json").write_text("{}")

    def done(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    shown = done(str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert str(tmp_path / "report.html") in shown.stdout
    assert "--facts" in done("--help").stdout
    missing = done(str(tmp_path / "nowhere"))
    assert missing.returncode == 1
    assert re.fullmatch(r"error: .*nowhere is not a folder.*\n", missing.stderr)
