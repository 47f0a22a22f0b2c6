"""One look for every figure: sizes, fonts, colours, scales, the caption line, and the saving."""

import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from math import ceil
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from kedit.tables import EFFECT_UNITS, plural

SINGLE, DOUBLE = 3.4, 7.0  # inches: one column of a page, and two
FONT = "DejaVu Sans"  # comes with matplotlib, so that a figure is the same on every machine
SMALL, TITLE = 7, 8.5  # points: of all text but the figure's title; of that, which is bold
LINE = 1.25  # a line's height, in sizes of its text
LEGEND_LINE, BESIDE = 0.15, 0.45  # inches: a line of a legend; its mark and gap beside a name
MARGIN = 0.05  # inches, left and right of a title or a caption
PAD = 0.07  # inches, around axes with their labels: those of a PDF are a little wider
HINTED = 1.02  # text of a PNG is up to so much wider than that of a PDF
DPI = 200  # of a PNG; the layout is made for it, since hinted text is wider than at other sizes

# Okabe and Ito's and Tol's palettes, told apart by the colour-blind
SITE_COLOURS = {
    "resid_post": "#0072B2",
    "mlp_out": "#009E73",
    "attn_out": "#D55E00",
    "z": "#AA4499",
}
PART_COLOURS = {"subject": "#332288", "relation": "#DDAA33"}
SIGNED = "RdBu_r"  # blue below zero, white at zero, red above

SITES = {"resid_post": "residual", "mlp_out": "MLP", "attn_out": "attention", "z": "head"}
METRIC_NAMES = {
    "prob": "probability of the answer",
    "logprob": "log-probability of the answer",
    "logit_diff": "logit difference, answer − foil",
}
METRIC_WIDTH = 24  # characters of the name of a user's own metric

styled = rc_context(
    {
        "font.family": [FONT],
        "font.size": SMALL,
        "axes.titlesize": SMALL,
        "axes.labelsize": SMALL,
        "axes.linewidth": 0.6,
        "axes.titlelocation": "left",
        "axes.unicode_minus": True,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "hatch.linewidth": 0.5,
        "text.parse_math": False,  # tokens may hold a $
        "pdf.fonttype": 42,  # text stays text
    }
)


@dataclass(frozen=True)
class Study:
    """What a figure of effects says of its numbers: in its title the model, below it the rest.

    Args:
        n_facts: facts averaged over; of several groups where they have not equally many.
        corruption: what was corrupted and how, in words; empty of clean runs.
        metric: one of kedit.forward.metrics.METRICS, or a user's own.
        seed: of the noise and of the bootstrap.
        model: its name, or where it was read from.
    """

    n_facts: int | tuple[int, ...]
    corruption: str
    metric: str = "prob"
    seed: int = 0
    model: str = ""

    def caption(self, interval: str, over: str = "facts") -> str:
        """One line; where the figure shows its intervals ("bands", "brackets"), and over what."""
        runs = f"corruption: {readable(self.corruption)}" if self.corruption else "clean runs"
        spread = f"{interval}: 95\u00a0% bootstrap interval over {over}"
        if max(self.counts) == 1:
            spread = "no interval over a single fact"
        *others, last = dict.fromkeys(self.counts)
        n = " and ".join([*map(str, others), plural(last, "fact")])
        return f"n = {n}; {runs}; metric: {metric_name(self.metric)}; seed {self.seed}; {spread}."

    @property
    def counts(self) -> tuple[int, ...]:
        """Facts of each group."""
        return (self.n_facts,) if isinstance(self.n_facts, int) else self.n_facts


@dataclass(frozen=True)
class Source:
    """Where other numbers come from.

    Args:
        model: its name, or where it was read from.
        told: which cases or editor and which seed, in words.
    """

    model: str
    told: str


def effect_label(metric: str, lines: int = 1) -> str:
    """The label of an axis or, in two lines, of a colour bar of effects."""
    unit = EFFECT_UNITS.get(metric) or readable(metric, METRIC_WIDTH)
    return f"indirect effect{' ' if lines == 1 else chr(10)}({unit})"


def metric_name(metric: str) -> str:
    """A metric in words; one of a user's own has only its name."""
    return METRIC_NAMES.get(metric) or readable(metric, METRIC_WIDTH)


def titled(title: str, model: str) -> str:
    """A figure's title, with the model's name; of a file or folder without where it lies."""
    name = PurePath(model).name or model
    return f"{title}, {readable(name, 40)}" if name else title


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure, its title above and its caption, in small print, below it.

    Args:
        width, height: in inches; `height` is of what is between title and caption.
    """
    above = wrapped(title, width - 2 * MARGIN, TITLE, bold=True)
    below = wrapped(caption, width - 2 * MARGIN)
    height += LINE * (TITLE * len(above) + SMALL * len(below)) / 72
    layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD)
    figure = NotebookFigure(figsize=(width, height), dpi=DPI, layout=layout)
    how = {"x": MARGIN / width, "ha": "left"}
    if above:
        figure.suptitle("\n".join(above), fontsize=TITLE, fontweight="bold", **how)
    if below:
        figure.supxlabel("\n".join(below), fontsize=SMALL, color="0.3", **how)
    return figure


def layout_of(figure: Figure) -> ConstrainedLayoutEngine:
    """How `new_figure` lays a figure out: its spaces may be set."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    return engine


def legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> Legend:
    """A legend below the title, line by line, for which the figure is made higher.

    As many stand in a line as have room; of the next one, called again, those stand below.
    """
    engine = layout_of(figure)
    width, height = figure.get_size_inches()
    widest = max(map(text_width, labels), default=0) / 72 + BESIDE
    most = max(1, int((width - 2 * MARGIN) / widest))
    n_lines = max(1, ceil(len(labels) / most))
    n_across = max(1, ceil(len(labels) / n_lines))  # no line has only one if another has three
    # matplotlib fills column by column
    order = [place for first in range(n_across) for place in range(first, len(labels), n_across)]
    added = LEGEND_LINE * n_lines
    used = (1 - engine.get()["rect"][3]) * height
    figure.set_size_inches(width, height + added)
    engine.set(rect=(0, 0, 1, 1 - (used + added) / (height + added)))
    title = LINE * TITLE * len(figure.get_suptitle().splitlines()) / 72 + PAD
    legend = figure.legend(
        [handles[place] for place in order], [labels[place] for place in order],
        loc="upper left", bbox_to_anchor=(MARGIN / width, 1 - (title + used) / (height + added)),
        ncols=n_across, borderaxespad=0, borderpad=0, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    legend.set_in_layout(False)
    return legend


def wrapped(text: str, width: float, size: float = SMALL, bold: bool = False) -> list[str]:
    """Lines of at most `width` inches; a word that is longer is broken. Line ends are kept.

    matplotlib's own wrapping reaches to the figure's edge at the resolution that it is asked for,
    and over it at another one.
    """
    return [
        line
        for paragraph in text.splitlines()
        for line in _wrapped(paragraph.split(" "), 72 * width / HINTED, size, bold)
    ]


def _wrapped(words: Iterable[str], width: float, size: float, bold: bool) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size, bold) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for char in word:
            if text_width(lines[-1] + char, size, bold) > width:
                lines.append("")
            lines[-1] += char
    return lines


def text_width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """Of a line, in points, without hints: as a PDF has it."""
    font = FontProperties(family=FONT, weight="bold" if bold else "normal", size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


class NotebookFigure(Figure):
    """A figure that a notebook shows as it is: pyplot, which would, has no part in it."""

    @styled
    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.savefig(shown, format="png", dpi=DPI)
        return shown.getvalue()


@styled
def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `name`.png (of DPI) and `name`.pdf: the same bytes for the same figure, at any time.

    There is nothing to close: no figure here is pyplot's, each goes with its last name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    figure.draw_without_rendering()  # lays it out
    figure.set_layout_engine("none")  # which both files keep: it takes as long as drawing one
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return png, pdf


def norm(*effects: ndarray) -> CenteredNorm:
    """One scale for all the panels compared: symmetric about zero, wide enough for every effect."""
    largest = max((np.abs(finite(values)).max(initial=0.0) for values in effects), default=0.0)
    return CenteredNorm(0.0, halfrange=float(largest) or 1.0)  # all zero: any width does


def finite(values: ndarray) -> ndarray:
    """The entries that are neither NaN nor infinite, flat."""
    return values[np.isfinite(values)]


def layer_axis(ax: Axes, n_layers: int) -> None:
    """Whole layers from left to right, half a layer to spare on both sides."""
    ax.set_xlim(-0.5, n_layers - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def site_name(name: str, window: int) -> str:
    """An EffectGrid's name in plain language: "MLP, window 10", "single residual, MLP severed"."""
    site, _, severed = name.partition("-severed-")
    if site == "z":
        plain = "heads"
    else:
        plain = f"{SITES[site]}, window {window}" if window > 1 else f"single {SITES[site]}"
    return f"{plain}, {SITES[severed]} severed" if severed else plain


def readable(text: str, width: int | None = None) -> str:
    """`text` as the font can draw it, shortened to `width` characters.

    Line ends are drawn as ↵, a lone blank as ␣; what the font lacks is spelt as its code points.
    """
    drawn = unicodedata.normalize("NFC", text.strip(" ").replace("\n", "↵")) or "␣"
    pieces = []
    for known, chars in groupby(drawn, _in_font):
        run = list(chars)
        pieces.append("".join(run) if known else f"‹{' '.join(f'{ord(char):X}' for char in run)}›")
    shown = "".join(pieces)
    return shown if width is None or len(shown) <= width else shown[: width - 1] + "…"


def edited_from(side: str) -> str:
    """A heading: "Edited from the entity side", or from both ("together")."""
    return "Edited from both sides" if side == "together" else f"Edited from the {side} side"


def short_names(told: Sequence[str], width: int = 54) -> dict[str, str]:
    """Editors without their settings, where none of the others is the same editor."""
    names = [one.partition(":")[0] for one in told]
    return {
        one: readable(name if names.count(name) == 1 else one, width)
        for one, name in zip(told, names, strict=True)
    }


def _in_font(char: str) -> bool:
    return char.isprintable() and all(ord(char) in glyphs for glyphs in _glyphs())


@cache
def _glyphs() -> tuple[frozenset[int], ...]:
    """The code points of the font, regular and bold."""
    return tuple(
        frozenset(get_font(findfont(FontProperties(family=FONT, weight=weight))).get_charmap())
        for weight in ("normal", "bold")
    )
