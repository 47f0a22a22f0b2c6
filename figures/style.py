"""The common style of all figures: sizes, fonts, colours, scales, titles, captions and saving."""

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

from kedit.results.site_names import tower_of, within_tower
from kedit.tables import EFFECT_UNITS, plural

SINGLE, DOUBLE = 3.4, 7.0  # inches: width of one column of a page, and of two columns
FONT = "DejaVu Sans"  # comes with matplotlib, so that a figure is the same on every machine
SMALL, TITLE = 7, 8.5  # points: size of all text but the figure's title; of the bold title
LINE = 1.25  # height of a line of text / size of its font
LEGEND_LINE, HANDLE = 0.15, 0.45  # inches: height of a legend's line; width of mark and gaps
MARGIN = 0.05  # inches left and right of a title or a caption
PAD = 0.07  # inches around axes with their labels; labels of a PDF are a little wider
HINTED = 1.02  # text of a PNG is up to this factor wider than that of a PDF
DPI = 200  # of a PNG, and of the layout: hinted text is wider here than at other resolutions

# palettes of Okabe and Ito and of Tol, which colour-blind people can distinguish
SITE_COLOURS = {
    "resid_post": "#0072B2",
    "mlp_out": "#009E73",
    "attn_out": "#D55E00",
    "cross_attn_out": "#56B4E9",
    "z": "#AA4499",
}
PART_COLOURS = {"subject": "#332288", "relation": "#DDAA33"}
SIGNED = "RdBu_r"  # blue below zero, white at zero, red above

SITES = {
    "resid_post": "residual",
    "mlp_out": "MLP",
    "attn_out": "attention",
    "cross_attn_out": "cross attention",
    "z": "head",
    "cross_z": "head of cross attention",
}
METRIC_NAMES = {
    "prob": "probability of the answer",
    "logprob": "log-probability of the answer",
    "logit_diff": "logit difference, answer − foil",
}
METRIC_WIDTH = 24  # characters shown of the name of a user's own metric

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
        "text.parse_math": False,  # tokens may contain a $
        "pdf.fonttype": 42,  # text stays text that can be searched and edited
    }
)


@dataclass(frozen=True)
class Study:
    """The facts, runs, metric, seed and model of a figure of effects, for its title and caption.

    Args:
        n_facts: number of facts that are averaged; several numbers for groups of different sizes.
        corruption: what was corrupted and how, as a phrase; empty for clean runs.
        metric: one of `kedit.forward.metrics.METRICS`, or the name of a user's own metric.
        seed: seed of the noise and of the bootstrap.
        model: name of the model, or the path from which it was read.
        so_far: how far an unfinished study is, such as "4 of 32 facts"; empty if it is finished.
    """

    n_facts: int | tuple[int, ...]
    corruption: str
    metric: str = "prob"
    seed: int = 0
    model: str = ""
    so_far: str = ""

    def titled(self, title: str) -> str:
        """A title with the model's name, which says how far an unfinished study is."""
        return titled(title, self.model) + (f" (so far: {self.so_far})" if self.so_far else "")

    def caption(self, interval: str, over: str = "facts") -> str:
        """The caption.

        Args:
            interval: how the figure shows intervals, such as "bands" or "brackets".
            over: what the intervals are over.
        """
        runs = f"corruption: {readable(self.corruption)}" if self.corruption else "clean runs"
        spread = f"{interval}: 95\u00a0% bootstrap interval over {over}"
        if max(self.counts) == 1:
            spread = "no interval over a single fact"
        *others, last = dict.fromkeys(self.counts)
        n = " and ".join([*map(str, others), plural(last, "fact")])
        return f"n = {n}; {runs}; metric: {metric_name(self.metric)}; seed {self.seed}; {spread}."

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of facts of each group."""
        return (self.n_facts,) if isinstance(self.n_facts, int) else self.n_facts


@dataclass(frozen=True)
class Source:
    """The model and data of a figure of scores, for its title and caption.

    Args:
        model: name of the model, or the path from which it was read.
        details: which cases or editor and which seed, as a phrase.
    """

    model: str
    details: str


def effect_label(metric: str, lines: int = 1) -> str:
    """The label of an axis of effects, or in two lines that of a colour bar."""
    unit = EFFECT_UNITS.get(metric) or readable(metric, METRIC_WIDTH)
    return f"indirect effect{' ' if lines == 1 else chr(10)}({unit})"


def metric_name(metric: str) -> str:
    """A metric in words; for a user's own metric, its name."""
    return METRIC_NAMES.get(metric) or readable(metric, METRIC_WIDTH)


def titled(title: str, model: str) -> str:
    """A title with the model's name; of a path only the last part is shown."""
    name = last_part(model)
    return f"{title}, {readable(name, 40)}" if name else title


def last_part(model: str) -> str:
    """The name of a model without the folders in front of it."""
    return PurePath(model).name or model


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure with a title at the top and a caption in grey at the bottom.

    Args:
        width: width of the figure, in inches.
        height: height of the part between title and caption, in inches.
        title, caption: texts, which are broken into lines of the figure's width.
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
    """The layout engine that `new_figure` gave the figure; its spaces can be set."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    return engine


def legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> Legend:
    """Adds a legend below the title and makes the figure higher by the legend's height.

    A second legend goes below the first.
    """
    engine = layout_of(figure)
    width, height = figure.get_size_inches()
    widest = max(map(text_width, labels), default=0) / 72 + HANDLE
    most = max(1, int((width - 2 * MARGIN) / widest))
    n_lines = max(1, ceil(len(labels) / most))
    n_across = max(1, ceil(len(labels) / n_lines))  # lines of about equal length
    # matplotlib fills a legend column by column; the order undoes this
    order = [index for first in range(n_across) for index in range(first, len(labels), n_across)]
    added = LEGEND_LINE * n_lines
    used = (1 - engine.get()["rect"][3]) * height
    figure.set_size_inches(width, height + added)
    engine.set(rect=(0, 0, 1, 1 - (used + added) / (height + added)))
    title = LINE * TITLE * len(figure.get_suptitle().splitlines()) / 72 + PAD
    legend = figure.legend(
        [handles[index] for index in order], [labels[index] for index in order],
        loc="upper left", bbox_to_anchor=(MARGIN / width, 1 - (title + used) / (height + added)),
        ncols=n_across, borderaxespad=0, borderpad=0, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    legend.set_in_layout(False)
    return legend


def wrapped(text: str, width: float, size: float = SMALL, bold: bool = False) -> list[str]:
    """Breaks a text into lines of at most `width` inches; breaks words that are longer.

    Existing line ends stay. matplotlib's own wrapping is not used, since it fits lines to the
    figure at one resolution only: at another resolution they are too long.
    """
    return [
        line
        for paragraph in text.splitlines()
        for line in _wrapped(paragraph.split(" "), 72 * width / HINTED, size, bold)
    ]


def _wrapped(words: Iterable[str], width: float, size: float, bold: bool) -> list[str]:
    """The lines of one paragraph; `width` and `size` are in points."""
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
    """The width of a line of text in points, without hinting, as in a PDF."""
    font = FontProperties(family=FONT, weight="bold" if bold else "normal", size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


class NotebookFigure(Figure):
    """A figure that a notebook displays without pyplot."""

    @styled
    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.savefig(shown, format="png", dpi=DPI)
        return shown.getvalue()


@styled
def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `name`.png (at DPI) and `name`.pdf, without dates: equal figures give equal bytes.

    Figures need not be closed: pyplot holds no reference to them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # computing it again for the PDF would take long
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return png, pdf


@styled
def save_for_now(figure: Figure, folder: Path, name: str) -> Path:
    """Writes `name`.png alone, in half the time, for a figure that is drawn again later.

    An older `name`.pdf is removed, so that no file shows other numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    png.with_suffix(".pdf").unlink(missing_ok=True)
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    return png


def norm(*effects: ndarray) -> CenteredNorm:
    """One colour scale for several panels: symmetric about zero, wide enough for all effects."""
    largest = max((np.abs(finite(values)).max(initial=0.0) for values in effects), default=0.0)
    return CenteredNorm(0.0, halfrange=float(largest) or 1.0)  # if all are zero, any width will do


def finite(values: ndarray) -> ndarray:
    """The entries that are neither NaN nor infinite, flat."""
    return values[np.isfinite(values)]


def layer_axis(ax: Axes, n_layers: int) -> None:
    """Sets an x axis of layers: whole numbers, with half a layer of space at both ends."""
    ax.set_xlim(-0.5, n_layers - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def site_name(name: str, window: int) -> str:
    """The name of an `EffectGrid` in words: "MLP, window 10", "single residual, MLP severed"."""
    site, _, severed = within_tower(name).partition("-severed-")
    if site == "z":
        plain = "heads"
    elif site == "cross_z":
        plain = "heads of cross attention"
    else:
        plain = f"{SITES[site]}, window {window}" if window > 1 else f"single {SITES[site]}"
    if tower_of(name):
        plain = f"{tower_of(name)}: {plain}"
    return f"{plain}, {SITES[severed]} severed" if severed else plain


def readable(text: str, width: int | None = None) -> str:
    """`text` in characters that the font has, shortened to `width` characters.

    Line ends are shown as ↵ and a single blank as ␣. Characters that the font lacks are shown as
    code points.
    """
    drawn = unicodedata.normalize("NFC", text.strip(" ").replace("\n", "↵")) or "␣"
    pieces = []
    for known, chars in groupby(drawn, _in_font):
        run = list(chars)
        pieces.append("".join(run) if known else f"‹{' '.join(f'{ord(char):X}' for char in run)}›")
    shown = "".join(pieces)
    return shown if width is None or len(shown) <= width else shown[: width - 1] + "…"


def edited_from(side: str) -> str:
    """A heading such as "Edited from the entity side"; "together" means both sides."""
    return "Edited from both sides" if side == "together" else f"Edited from the {side} side"


def short_names(specs: Sequence[str], width: int = 54) -> dict[str, str]:
    """Labels of editors, by spec: the name without settings if no other spec has this name."""
    names = [spec.partition(":")[0] for spec in specs]
    return {
        spec: readable(name if names.count(name) == 1 else spec, width)
        for spec, name in zip(specs, names, strict=True)
    }


def _in_font(char: str) -> bool:
    """Whether the font has a character, in regular and in bold."""
    return char.isprintable() and all(ord(char) in glyphs for glyphs in _glyphs())


@cache
def _glyphs() -> tuple[frozenset[int], ...]:
    """The code points of the regular and of the bold font."""
    return tuple(
        frozenset(get_font(findfont(FontProperties(family=FONT, weight=weight))).get_charmap())
        for weight in ("normal", "bold")
    )
