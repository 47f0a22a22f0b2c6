"""How a training went: losses against steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from figures.style import DOUBLE, PART_COLOURS, SMALL, new_figure, readable, styled

COLOURS = {"training": "0.6", "entity": PART_COLOURS["subject"], "relation": "#D55E00"}


class Loss(NamedTuple):
    """Losses in nats; of training they are means over the steps since the last ones.

    Args:
        edit: negative log-likelihood of what the edit wants.
        before: the same without an edit.
        kl: of what should stay.
    """

    step: int
    edit: float
    before: float
    kl: float


@styled
def losses(
    training: Sequence[Loss], validation: Mapping[str, Sequence[Loss]], best: int, study: str
) -> Figure:
    """What the edits want on the left, with the unedited model as dashes; what should stay right.

    Args:
        validation: by side.
        best: the step whose network was kept.
    """
    caption = (
        f"{readable(study)}. Means over exercises: dots, of those that are validated with; grey, "
        "of those practised since the last dot. Dashes: the unedited model."
    )
    figure = new_figure(DOUBLE, 2.4, "Training MEND", caption)
    edit, kl = figure.subplots(1, 2)
    series = {"training": training, **validation}
    for name, ones in series.items():
        if not ones:
            continue
        steps = [one.step for one in ones]
        dots = "" if name == "training" else "o"
        label = "training" if name == "training" else f"validation, {name} edits"
        look = {"color": COLOURS[name], "marker": dots, "markersize": 2.5, "label": label}
        edit.plot(steps, [one.edit for one in ones], **look)
        kl.plot(steps, [one.kl for one in ones], **look)
        if name != "training":
            edit.axhline(ones[-1].before, color=COLOURS[name], linestyle="--", linewidth=0.8)
    _labelled(edit, "What the edit wants", "nll of the target (nats)", best)
    _labelled(kl, "What should stay: KL(unedited ‖ edited)", "KL a token (nats)", best)
    kl.set_yscale("log")
    for formatter in (kl.yaxis.set_major_formatter, kl.yaxis.set_minor_formatter):
        formatter("{x:g}")  # not as powers: mathematical text is switched off
    kl.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    edit.legend()
    return figure


def _labelled(ax: Axes, title: str, unit: str, best: int) -> None:
    ax.set_title(title)
    ax.set_ylabel(unit)
    ax.set_xlabel("steps")
    ax.axvline(best, color="0.8", linewidth=0.8, zorder=0)
    look = {"color": "0.5", "fontsize": SMALL, "textcoords": "offset points"}
    ax.annotate("kept", (best, 0.4), (-2, 0), ("data", "axes fraction"), ha="right", **look)
    ax.spines[["top", "right"]].set_visible(False)
