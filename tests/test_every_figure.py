"""Every function that draws a figure: nothing cut off, no words on words, the model named."""

import importlib
import inspect
import pkgutil

import pytest
from matplotlib.figure import Figure

import figures
from tests.figure_checks import assert_fits, on_pdf, on_png
from tests.made_up_figures import FIGURES

CASES = [(function, case) for function, cases in FIGURES.items() for case in cases]
NAME = "a-model-with-a-name-of-many-words-1.4b-…"  # of MODEL, as a title has it
OF_NO_MODEL = ("benchmark.by_relation",)
OF_SEVERAL = ("by_depth", "by_model")  # name their models in the legend


def drawing_functions() -> set[str]:
    """Public functions of `figures` that return a matplotlib Figure, but for those of its style."""
    found = set()
    for module in pkgutil.iter_modules(figures.__path__):
        if module.name in ("style", "interactive"):  # the latter draws with Bokeh
            continue
        content = importlib.import_module(f"figures.{module.name}")
        for name, function in inspect.getmembers(content, inspect.isfunction):
            own = function.__module__ == content.__name__ and not name.startswith("_")
            if own and inspect.signature(function).return_annotation in (Figure, "Figure"):
                found.add(f"{module.name}.{name}")
    return found


def test_no_figure_is_left_out() -> None:
    assert set(FIGURES) == drawing_functions()


@pytest.mark.parametrize(("function", "case"), CASES, ids=[f"{f}, {c}" for f, c in CASES])
def test_every_word_lies_inside_the_page_and_none_on_another(function: str, case: str) -> None:
    figure = FIGURES[function][case]()
    assert_fits(figure)
    named = figure.get_suptitle().replace("\n", " ")
    if function.partition(".")[0] in OF_SEVERAL:
        named = figure.legends[0].get_texts()[0].get_text()
    assert function in OF_NO_MODEL or NAME in named


def test_what_is_cut_off_or_covered_is_found() -> None:
    figure = Figure(dpi=200)
    figure.text(0.5, 0.5, "one", fontsize=9)
    assert_fits(figure)
    other = figure.text(0.51, 0.51, "other", fontsize=9)
    with pytest.raises(AssertionError, match="PNG: 'one' lies on 'other'"):
        assert_fits(figure)
    other.set_position((0.99, 0.8))
    with pytest.raises(AssertionError, match="PNG: 'other' at"):
        assert_fits(figure)
    assert [word.text for word in on_png(figure)] == [word.text for word in on_pdf(figure)]
