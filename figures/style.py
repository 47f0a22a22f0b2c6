"""One look for every figure: sizes, fonts, colours, scales, the caption line, and the saving."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

SINGLE, DOUBLE = 3.4, 7.0  # inches: one column of a page, and two
FONT = "DejaVu Sans"  # comes with matplotlib, so that a figure is the same on every machine
SMALL = 6  # points
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
EFFECT_UNITS = {"prob": "probability", "logprob": "nats", "logit_diff": "logits"}
METRIC_WIDTH = 24  # characters of the name of a user's own metric

styled = rc_context(
    {
        "font.family": [FONT],
        "font.size": 7,
        "axes.titlesize": 7,
        "axes.labelsize": 7,
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
    """What the line under a figure says of its numbers.

    Args:
        n_facts: facts averaged over; of several groups where they have not equally many.
        corruption: what was corrupted and how, in words; empty of clean runs.
        metric: one of kedit.metrics.METRICS, or a user's own.
        seed: of the noise and of the bootstrap.
    """

    n_facts: int | tuple[int, ...]
    corruption: str
    metric: str = "prob"
    seed: int = 0

    def caption(self, interval: str, over: str = "facts") -> str:
        """One line; where the figure shows its intervals ("bands", "brackets"), and over what."""
        runs = f"corruption: {readable(self.corruption)}" if self.corruption else "clean runs"
        spread = f"{interval}: 95\u00a0% bootstrap interval over {over}"
        counts = (self.n_facts,) if isinstance(self.n_facts, int) else self.n_facts
        *others, last = dict.fromkeys(counts)
        if max(counts) == 1:
            spread = "no interval over a single fact"
        n = " and ".join([*map(str, others), plural(last, "fact")])
        return f"n = {n}; {runs}; metric: {metric_name(self.metric)}; seed {self.seed}; {spread}."


def effect_label(metric: str) -> str:
    """The label of an axis or a colour bar of effects."""
    return f"indirect effect ({EFFECT_UNITS.get(metric) or readable(metric, METRIC_WIDTH)})"


def metric_name(metric: str) -> str:
    """A metric in words; one of a user's own has only its name."""
    return METRIC_NAMES.get(metric) or readable(metric, METRIC_WIDTH)


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure of so many inches, its title above and its small caption line below."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    left = 0.05 / width
    if title:
        figure.suptitle(title, x=left, ha="left", fontsize=8, fontweight="bold", wrap=True)
    figure.supxlabel(caption, x=left, ha="left", fontsize=SMALL, color="0.3", wrap=True)
    return figure


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


def number(value: float) -> str:
    """Two significant digits; all of them in front of the point, for 1.2e+02 is hard to read."""
    text = f"{value:,.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"
    return text.replace("-", "−")


def estimate(mean: float, low: float, high: float) -> str:
    """A number and its interval, all to the second significant digit of the largest.

    The number alone where there is no interval; "-" where there is no number.
    """
    if not np.isfinite(mean):
        return "-"
    there = (mean, low, high) if np.isfinite(low + high) else (mean,)
    largest = max(map(abs, there))
    decimals = min(6, max(0, 1 - int(np.floor(np.log10(largest))))) if largest > 0 else 0
    texts = [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in there]  # no -0.0
    text = texts[0] + (f" [{', '.join(texts[1:])}]" if texts[1:] else "")
    return text.replace("-", "−")


def plural(n: int | str, noun: str) -> str:
    """A count, or several in words: "1 fact", "3 facts", "1 or 2 facts"."""
    return f"{n} {noun}" if str(n) == "1" else f"{n} {noun}s"


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
