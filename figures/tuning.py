"""Figure of the Scores of all tried settings of each editor."""

import numpy as np
from matplotlib.figure import Figure

from figures.style import DOUBLE, new_figure, readable, styled, titled
from kedit.results.tuning import Tuning
from kedit.tables import number

PANELS = ("Score: harmonic mean of the shares", "Mean of the shares")
BEST, OTHERS = "#D55E00", "0.55"


@styled
def tuning(found: Tuning) -> Figure:
    """Draws a row for each editor and a dot for each setting; the chosen setting is coloured."""
    tried = {
        editor.name: [(float(each.score.mean), float(each.mean.mean)) for each in editor.tries]
        for editor in found.tuned
    }
    caption = (
        f"{readable(found.edits)}; seed {found.seed}. Shares: of what was missing before "
        "the edit, the part gained; of what should stay, the part kept. Coloured: the chosen "
        "setting, with the highest Score (ties: the highest mean)."
    )
    title = titled("Tried settings of each editor", found.model)
    figure = new_figure(DOUBLE, 0.6 + 0.28 * len(tried), title, caption)
    axes = figure.subplots(1, 2, sharey=True)
    heights = np.arange(len(tried))[::-1]
    for panel, (ax, title) in enumerate(zip(axes, PANELS, strict=True)):
        for height, scores in zip(heights, tried.values(), strict=True):
            values = [100 * pair[panel] for pair in scores]
            ax.plot(values[1:], [height] * (len(values) - 1), "o", color=OTHERS, ms=3, alpha=0.7)
            ax.plot(values[:1], [height], "D", color=BEST, ms=4)
            text = number(values[0]) if values[0] else "0"
            ax.annotate(
                text, (values[0], height), (0, 4), textcoords="offset points", ha="center",
                color=BEST,
            )  # fmt: skip
        ax.set_title(title)
        ax.set_xlabel("percent")
        ax.set_xlim(-3, 103)
        ax.set_ylim(-0.6, len(tried) - 0.4)
        ax.grid(axis="x", color="0.9", linewidth=0.5)
    axes[0].set_yticks(heights, [readable(name, 34) for name in tried])
    return figure
