"""The command that builds RaKE, its figure, and the download of CounterFact."""

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from experiments import build_rake
from experiments.build_rake import Config
from figures.benchmark import KIND_COLOURS, by_relation
from kedit.data import load_cases
from kedit.data.download import counterfact
from kedit.errors import InputError
from kedit.results.rake import PUBLISHED, RakeStatistics, RelationCount, Tally
from kedit.studies.rake import build_rake as built
from tests.figure_checks import caption_of
from tests.test_cases import changed, written
from tests.test_rake import RECORDS

ROOT = Path(__file__).parent.parent
SOURCE = [*RECORDS, changed(RECORDS[0], "case_id", 1), "no record"]
TOTALS = {"records": 8, "subjects": 5, "new_objects": 5, "relations": 3}


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_folder_holds_the_benchmark_and_what_it_is(tmp_path: Path, capsys) -> None:
    source = written(tmp_path, *SOURCE, name="made_up.jsonl")
    extras = written(
        tmp_path,
        {"case_id": 1, "portability": {"New Question": "Whence?", "New Answer": "Attica"}},
        {"case_id": 2, "portability": 3},
        name="extras.jsonl",
    )
    out = tmp_path / "out"
    folder = build_rake.run(Config(source=str(source), extras=str(extras), out=str(out)))
    assert folder == out
    assert {file.name for file in folder.iterdir()} == {
        "rake.jsonl", "skipped.jsonl", "statistics.json", "README.txt",
        "records-by-relation.png", "records-by-relation.pdf",
    }  # fmt: skip
    cases = load_cases(folder / "rake.jsonl")
    assert [case.id for case in cases] == [str(source["case_id"]) for source in RECORDS]
    assert any(probe.group == "portability" for probe in cases[0].probes)
    assert [(one["place"], one["id"]) for one in lines(folder / "skipped.jsonl")] == [
        ("extras.jsonl, line 2", ""),
        ("made_up.jsonl, line 9", "1"),
        ("made_up.jsonl, line 10", ""),
    ]
    statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    assert {name: statistics[name] for name in TOTALS} == TOTALS
    assert RakeStatistics.load(folder).totals() == TOTALS
    assert statistics["sha256"] == hashlib.sha256((out / "rake.jsonl").read_bytes()).hexdigest()
    assert statistics["skipped"] == 3
    assert statistics["kinds"] == {"asymmetric": 7, "symmetric": 1}
    assert statistics["by_relation"]["P190"] == {
        "label": "twin city", "kind": "symmetric", "records": 1,
    }  # fmt: skip
    assert statistics["lacks"]["portability"] == 7
    assert statistics["notes"] == {
        "the file knows another relation to the new object": 1,
        "the relation's name stands in the subject": 1,
    }
    assert statistics["paraphrases"] == 3 * len(RECORDS)
    assert sum(statistics["relation_neighbours"].values()) == len(RECORDS)
    readme = (folder / "README.txt").read_text(encoding="utf-8")
    for record in lines(folder / "rake.jsonl"):
        assert all(name in readme for name in (*record, *record["requested_rewrite"]))
    shown = capsys.readouterr().out
    assert str(out) in shown
    assert "20,391" not in shown  # CounterFact's totals are for all of CounterFact
    assert json.loads(shown.splitlines()[-1]) == TOTALS


def test_totals_are_held_against_counterfacts_where_the_size_is_its_own(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(PUBLISHED, "records", 8)
    build_rake.run(Config(source=str(written(tmp_path, *SOURCE)), out=str(tmp_path)))
    assert "20,391" in capsys.readouterr().out


@pytest.mark.slow
def test_a_limit_takes_the_first_and_still_knows_the_whole_file(tmp_path: Path) -> None:
    source = str(written(tmp_path, *SOURCE))
    whole = build_rake.run(Config(source=source, out=str(tmp_path / "whole")))
    part = build_rake.run(Config(edits=source, limit=3, out=str(tmp_path / "part")))
    assert lines(part / "rake.jsonl") == lines(whole / "rake.jsonl")[:3]


def test_the_folder_is_named_after_the_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = build_rake.run(Config(source=str(written(tmp_path, *SOURCE, name="a.b.jsonl"))))
    assert folder == Path("results/build_rake/a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "a.jsonl", "edits": "b.jsonl"}, "give one of them"),
        ({"source": "nothing.jsonl"}, "nothing.jsonl: cannot be read"),
        ({"limit": -1}, "--limit -1: must be a number of at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_rake.run(Config(**options))


def test_nothing_is_left_where_nothing_can_be_built(tmp_path: Path) -> None:
    source = written(tmp_path, changed(RECORDS[0], "requested_rewrite"))
    with pytest.raises(InputError, match=r"no record can be used; f.jsonl, line 1: field 'reque"):
        build_rake.run(Config(source=str(source), out=str(tmp_path / "out")))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_build_leaves_no_half_file_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = written(tmp_path, *SOURCE), tmp_path / "out"
    out.mkdir()
    (out / "rake.jsonl").write_text("as it was")
    config = Config(source=str(source), out=str(out))
    add, built = Tally.add, []

    def interrupted(tally: Tally, record: dict) -> None:
        add(tally, record)
        built.append(list(out.glob("*.part")))
        if len(built) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tally, "add", interrupted)
    with pytest.raises(SystemExit, match="130"):
        build_rake.run(config)
    assert len(built) == 3 and all(built)  # it was half written
    assert [file.name for file in out.iterdir()] == ["rake.jsonl"]
    assert (out / "rake.jsonl").read_text() == "as it was"
    monkeypatch.setattr(Tally, "add", add)
    build_rake.run(config)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last) == ["records", "subjects", "new_objects", "relations"]
    assert last["records"] == len(lines(out / "rake.jsonl")) == 8


def counts(by_relation: dict[str, RelationCount], **more: object) -> RakeStatistics:
    """Of a benchmark with these relations."""
    n_records = sum(one.records for one in by_relation.values())
    made = RakeStatistics(
        n_records, 1234, 5, len(by_relation), 0, 9, {}, by_relation, {"2": n_records}, {}, {},
        "a_file.json", "",
    )  # fmt: skip
    return replace(made, **more)


def relations() -> dict[str, RelationCount]:
    return {
        "P3": RelationCount("few", "symmetric", 3),
        "P40": RelationCount("many", "", 40),
        "P9": RelationCount("some", "hierarchical", 9),
    }


def test_what_was_built_is_a_result_that_comes_back(tmp_path: Path) -> None:
    source = written(tmp_path, *SOURCE, name="made_up.jsonl")
    found = built(source, tmp_path, limit=3)
    assert found.statistics.records == len(lines(found.file)) == 3
    told = json.loads(json.dumps(found.statistics.to_record()))
    assert RakeStatistics.from_record(told) == found.statistics
    assert found.statistics.table().rows[0] == ("records", "3")
    assert sum(row["records"] for row in found.statistics.rows()) == 3


def test_the_figure_has_a_bar_for_each_relation_in_its_kinds_colour() -> None:
    figure = by_relation(counts(relations()))
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "many (P40)", "some (P9)", "few (P3)",
    ]  # fmt: skip
    bars = ax.patches
    np.testing.assert_array_equal([bar.get_width() for bar in bars], [40, 9, 3])  # pyright: ignore
    colours = [to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert colours == [KIND_COLOURS[kind] for kind in ("", "hierarchical", "symmetric")]
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "hierarchical", "symmetric", "unknown kind",
    }  # fmt: skip
    assert "n = 52 records of 1,234 subjects, 3 relations" in caption_of(figure)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("KEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_counterfact_is_downloaded_once_and_checked_each_time(
    tmp_path: Path, cache: Path, caplog
) -> None:
    home = written(tmp_path, *RECORDS, name="home.json")
    url, sha256 = home.as_uri(), hashlib.sha256(home.read_bytes()).hexdigest()
    with caplog.at_level(logging.INFO, "kedit"):
        file = counterfact(url, sha256)
        assert file == cache / "counterfact.json"
        assert file.read_bytes() == home.read_bytes()
        assert counterfact(url, sha256) == file
        assert len(caplog.records) == 1  # not downloaded again
        file.write_text("torn")
        assert counterfact(url, sha256).read_bytes() == home.read_bytes()
        assert len(caplog.records) == 2


def test_a_wrong_file_and_no_network_are_told_with_the_mend(tmp_path: Path, cache: Path) -> None:
    home = written(tmp_path, *RECORDS, name="home.json")
    with pytest.raises(InputError, match=r"its SHA-256 is .*home.json.*--source"):
        counterfact(home.as_uri(), "0" * 64)
    with pytest.raises(InputError, match=r"more than the 10 bytes.*home.json"):
        counterfact(home.as_uri(), "0" * 64, longest=10)
    with pytest.raises(InputError, match=r"cannot be downloaded: .*http://127.0.0.1:9/c.json"):
        counterfact("http://127.0.0.1:9/c.json", "0" * 64)
    assert list(cache.iterdir()) == []


def test_without_a_source_counterfact_is_fetched(tmp_path: Path, monkeypatch) -> None:
    file = written(tmp_path, RECORDS, name="counterfact.json")
    file.write_text(json.dumps(RECORDS), encoding="utf-8")
    monkeypatch.setattr("kedit.data.download.counterfact", lambda: file)
    folder = build_rake.run(Config(out=str(tmp_path / "out")))
    assert len(load_cases(folder / "rake.jsonl")) == len(RECORDS)


@pytest.mark.slow
def test_a_build_does_without_torch(tmp_path: Path) -> None:
    source = written(tmp_path, *SOURCE)
    code = (
        "import sys\n"
        "from experiments import build_rake\n"
        f"build_rake.run(build_rake.Config(source={str(source)!r}, out={str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
