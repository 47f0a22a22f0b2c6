"""Figure of Scores of edits of W_out, W_O, both, or random heads of W_O."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.score import Dots
from figures.style import DOUBLE, legend_above, new_figure, styled, titled
from kedit.results.ablation import ALL, BOTH, RANDOM, SCORE, Ablation
from kedit.tables import plural

LOOKS = (
    Dots("W_out", "#009E73", "s"),
    Dots("W_O", "#D55E00", "^"),
    Dots(BOTH, "#0072B2", "D"),
    Dots(RANDOM, "0.5", "o"),
)
TITLES = {"free": "Unscaled edits", "equal": "Edits scaled to equal size"}


@styled
def ablation(result: Ablation) -> Figure:
    """A column for unscaled and one for scaled edits; rows: Score, its parts, Score by kind."""
    found = {(line.budget, line.kind, line.arm): line.shares for line in result.lines}
    n_cases = {line.kind: line.n_cases for line in result.lines}
    parts = list(result.lines[0].shares)
    rows = [(ALL, name) for name in parts] + [(kind, SCORE) for kind in n_cases if kind != ALL]
    caption = (
        f"n = {plural(n_cases[ALL], 'case')}; {result.perspective} edits; "
        f"seed {result.seed}; lines: 95\u00a0% bootstrap intervals over cases. Score: "
        "harmonic mean of the shares below it, each gained or kept by the edit. Size: "
        "Frobenius norm over all matrices of an edit; edits of one case are scaled to the smallest "
        "of them."
    )
    title = titled("Edits of MLPs, of attention, or of both", result.model)
    figure = new_figure(DOUBLE, 0.75 + 0.36 * len(rows), title, caption)
    axes = figure.subplots(1, 2, sharey=True, sharex=True)
    for ax, budget in zip(axes, TITLES, strict=True):
        for rank, look in enumerate(LOOKS):
            offset = 0.17 * (rank - (len(LOOKS) - 1) / 2)
            bounds = [found[budget, kind, look.name][name].floats(100) for kind, name in rows]
            _dots(ax, np.arange(len(rows)) + offset, np.array(bounds), look)
        ax.set_title(TITLES[budget])
        ax.set_xlabel("percent")
        ax.grid(axis="x", color="0.9", linewidth=0.5)
        ax.axhline(0.5, color="0.7", linewidth=0.6)
        if len(rows) > len(parts):
            ax.axhline(len(parts) - 0.5, color="0.7", linewidth=0.6)
    names = [
        name if kind == ALL else f"{name}, {kind} (n = {n_cases[kind]})" for kind, name in rows
    ]
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    legend_above(figure, *axes[0].get_legend_handles_labels())
    return figure


def _dots(ax: Axes, heights: np.ndarray, bounds: np.ndarray, look: Dots) -> None:
    """Draws means as marks, with their intervals as lines."""
    mean, low, high = bounds.T
    # if most bootstrap draws are zero, the mean can lie outside of its interval
    spread = np.clip([mean - low, high - mean], 0, None)
    ax.errorbar(
        mean, heights, xerr=spread, fmt=look.shape, color=look.colour, markersize=3.5,
        elinewidth=0.8, label=look.name,
    )  # fmt: skip
