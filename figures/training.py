"""How a training went: losses against steps."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from figures.style import (
    DOUBLE,
    PART_COLOURS,
    legend_above,
    new_figure,
    styled,
    titled,
)
from kedit.results.mend import TrainedMend
from kedit.tables import plural

COLOURS = {"training": "0.6", "entity": PART_COLOURS["subject"], "relation": "#D55E00"}


@styled
def losses(trained: TrainedMend) -> Figure:
    """Left, what the edits want, with the unedited model as dashes; right, what should stay."""
    told = (
        f"n = {plural(trained.n_held_out, 'edit')} to validate with, {trained.n_train:,} to train "
        f"on; seed {trained.seed}"
    )
    caption = (
        f"{told}. Means over exercises: dots, of those that are validated with; "
        "grey, of those practised since the last dot, so that it starts later. Right: KL(unedited "
        "‖ edited) of the next token. “kept”: the step whose network is used."
    )
    figure = new_figure(DOUBLE, 2.2, titled("Training MEND", trained.model), caption)
    edit, kl = figure.subplots(1, 2)
    series = {"training": trained.training, **trained.validation}
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
            edit.axhline(
                ones[-1].before, color=COLOURS[name], linestyle="--", linewidth=0.8,
                label=f"before the edit, {name} edits",
            )  # fmt: skip
    _labelled(
        edit, "What the edit wants", "negative log-likelihood\nof the target (nats)", trained.best
    )
    _labelled(
        kl, "What should stay", "change of the next token’s\ndistribution (KL, nats)", trained.best
    )
    kl.set_yscale("log")
    for formatter in (kl.yaxis.set_major_formatter, kl.yaxis.set_minor_formatter):
        formatter("{x:g}")  # not as powers: mathematical text is switched off
    kl.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    handles, labels = edit.get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def _labelled(ax: Axes, title: str, unit: str, best: int) -> None:
    ax.set_title(title)
    ax.set_ylabel(unit)
    ax.set_xlabel("training step")
    ax.axvline(best, color="0.8", linewidth=0.8, zorder=0)
    look = {"color": "0.5", "textcoords": "offset points", "annotation_clip": False}
    ax.annotate("kept", (best, 1), (0, 1), ("data", "axes fraction"), ha="right", **look)
    ax.spines[["top", "right"]].set_visible(False)
