"""The notebooks of docs/ run on the toy, and are shown with what they gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import ON_THE_TOY, ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SMALL = ON_THE_TOY | {
    "limit=12": "limit=4",
    "limit=24": "limit=6",
    "n_heads=2, decoded=0, limit=8": "n_heads=2, decoded=0, limit=4",
    "The city in which {} stands is": "{} was born in",
}


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_every_cell_was_run_without_an_error(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(notebook, "code")]
    assert counts == [*range(1, len(counts) + 1)]
    outputs = [output for cell in cells(notebook, "code") for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert notebook.stat().st_size < 1e6


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_the_links_of_a_notebook_lead_somewhere(notebook: Path) -> None:
    for cell in cells(notebook, "markdown"):
        text = "".join(cell["source"])
        for link in [part.split(")")[0] for part in text.split("](")[1:]]:
            assert (notebook.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_runs_on_the_toy(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(notebook, "code")):
        source = "".join(cell["source"])
        for given, small in SMALL.items():
            source = source.replace(given, small)
        exec(compile(source, f"{notebook.name}, cell {number}", "exec"), names)
