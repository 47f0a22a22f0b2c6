"""What holds of every figure: its words lie inside its page, and not on each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import combinations
from typing import Any, NamedTuple
from unittest.mock import patch

from matplotlib.backends.backend_pdf import PdfFile, RendererPdf
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from figures.style import SMALL

TOUCHING = 0.5  # points that two boxes may share: they hold more than their ink


class Word(NamedTuple):
    """A text as it was drawn: its box in points, its size too."""

    text: str
    box: Bbox
    size: float


def assert_fits(figure: Figure) -> None:
    """In the PNG and in the PDF all words lie inside the page, none on others; none is tiny."""
    width, height = 72 * figure.get_size_inches()
    for drawn, words in {"PNG": on_png(figure), "PDF": on_pdf(figure)}.items():
        for word in words:
            box = word.box
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, f"{drawn}: {word.text!r} at {box.extents} of {width:.0f}, {height:.0f}"
            assert word.size >= SMALL, f"{drawn}: {word.text!r} of {word.size} points"
        for one, other in combinations(words, 2):
            lies_on = one.box.overlaps(other.box.padded(-TOUCHING))
            assert not lies_on, f"{drawn}: {one.text!r} lies on {other.text!r}"
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box


def caption_of(figure: Figure) -> str:
    """In one line."""
    return figure.get_supxlabel().replace("\n", " ")


def on_png(figure: Figure) -> list[Word]:
    """The words as the saved image has them; this lays the figure out."""
    with _recorded(figure) as words:
        figure.draw_without_rendering()
    return words


def on_pdf(figure: Figure) -> list[Word]:
    """The words as the PDF has them, in the layout of the image, as `figures.style.save` does."""
    engine, dpi = figure.get_layout_engine(), figure.dpi
    figure.set_layout_engine("none")
    figure.dpi = 72
    width, height = figure.get_size_inches()
    renderer: Any = RendererPdf(PdfFile(BytesIO()), 72, height, width)
    with _recorded(figure) as words, renderer._draw_disabled():
        figure.draw(renderer)
    figure.dpi = dpi
    figure.set_layout_engine(engine)
    return words


@contextmanager
def _recorded(figure: Figure) -> Iterator[list[Word]]:
    """What is drawn: tick labels out of sight are not."""
    words: list[Word] = []

    def draw(text: Text, renderer: object) -> None:
        if text.get_visible() and text.get_text().strip():
            box = Text.get_window_extent(text, renderer)  # pyright: ignore[reportArgumentType]
            scaled = Bbox(box.get_points() * 72 / figure.dpi)
            words.append(Word(text.get_text(), scaled, float(text.get_fontsize())))

    with patch.object(Text, "draw", draw):
        yield words
