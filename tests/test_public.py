"""The public face: five lines in a notebook do what a command does; importing it is quick."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import kedit
from kedit.errors import RecordError
from kedit.facts import Relation
from kedit.models import toy as toy_module
from kedit.results.base import Result

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", kedit.PUBLIC)
def test_a_public_name_is_there_with_its_documentation(name: str) -> None:
    found = getattr(kedit, name)
    assert found.__doc__ and name in dir(kedit)


def test_importing_kedit_brings_neither_torch_nor_matplotlib() -> None:
    code = (
        "import kedit, sys\n"
        "kedit.Fact.of('The capital of {} is', 'Japan', 'Tokyo')\n"
        "assert not {'torch', 'matplotlib', 'transformer_lens'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(AttributeError, match="no 'traces'.*load_cases"):
        _ = kedit.traces  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="no 'Rome'.*ROME"):
        _ = kedit.editors.Rome  # pyright: ignore[reportAttributeAccessIssue]


def test_a_fact_of_ones_own_is_made_of_its_parts() -> None:
    made = kedit.Fact.of("The capital of {} is called", "Japan", "Tokyo", relation="capital")
    assert made.prompt == "The capital of Japan is called"
    assert made.relation == Relation("capital", "capital")
    assert made == kedit.Fact.of("The capital of Japan is called", "Japan", "Tokyo", "capital")
    for prompt in ("The capital is", "Japan's capital, of Japan, is"):
        with pytest.raises(RecordError, match="subject 'Japan' once"):
            kedit.Fact.of(prompt, "Japan", "Tokyo")


def test_an_edit_is_shown_by_what_it_changes(toy: HookedTransformer) -> None:
    edit = kedit.make_editor("ft", toy)(toy, [toy_module.cases()[0].entity])
    shapes = "blocks.1.mlp.W_out: (256, 64); blocks.1.mlp.b_out: (64,)"
    assert repr(edit) == f"Edit(ft, 1 request, {shapes})"


def test_a_trace_plots_a_figure_that_a_notebook_shows(toy: HookedTransformer) -> None:
    fact = toy_module.facts()[0]
    trace = kedit.trace(toy, fact, corrupt="relation")
    shown = trace.plot()._repr_png_()  # pyright: ignore[reportAttributeAccessIssue]
    assert shown.startswith(b"\x89PNG") and len(shown) > 10_000
    assert trace.subject == fact.subject and "<table" in trace._repr_html_()
    words = re.fullmatch("replaced by '(.*)'", trace.corruption)
    assert words is not None
    grid = kedit.patch(toy, fact.prompt, words[1], site="z", answer=fact.object)
    assert len(grid.top(5).rows) == 5


def test_a_table_is_plain_text_in_a_notebook_too() -> None:
    table = kedit.Table("T", ("a",), (("[b] 1",),), "n = 1", ("part",))
    assert "\x1b" not in str(table) and "[b] 1" in str(table)


def test_every_result_is_shown_as_its_table_or_in_words_of_its_own() -> None:
    for module in pkgutil.walk_packages(kedit.__path__, "kedit."):
        if module.name.startswith(("kedit.results", "kedit.studies")):
            importlib.import_module(module.name)
    assert len(Result.__subclasses__()) > 10
    for kind in Result.__subclasses__():
        written = inspect.unwrap(kind.__repr__).__code__.co_filename
        assert written.endswith(".py"), f"{kind.__name__} has the __repr__ that dataclass makes"
