"""Figure of the losses of training MEND, by step."""

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
    """Draws the edit loss (left; dashed: unedited model) and the locality loss (right)."""
    caption = (
        f"n = {plural(trained.n_held_out, 'validation edit')}, {trained.n_train:,} training edits; "
        f"seed {trained.seed}. Dots: means over validation edits; grey: means over the training "
        "edits since the last validation, so it starts later. Right: KL(unedited ‖ edited) of the "
        "next token. “best”: the step whose network is used."
    )
    figure = new_figure(DOUBLE, 2.2, titled("Training MEND", trained.model), caption)
    edit, kl = figure.subplots(1, 2)
    series = {"training": trained.training, **trained.validation}
    for name, points in series.items():
        if not points:
            continue
        steps = [point.step for point in points]
        dots = "" if name == "training" else "o"
        label = "training" if name == "training" else f"validation, {name} edits"
        look = {"color": COLOURS[name], "marker": dots, "markersize": 2.5, "label": label}
        edit.plot(steps, [point.edit for point in points], **look)
        kl.plot(steps, [point.kl for point in points], **look)
        if name != "training":
            edit.axhline(
                points[-1].before, color=COLOURS[name], linestyle="--", linewidth=0.8,
                label=f"before the edit, {name} edits",
            )  # fmt: skip
    _labelled(edit, "Edit loss", "negative log-likelihood\nof the target (nats)", trained.best)
    _labelled(
        kl,
        "Locality loss",
        "KL(unedited ‖ edited) of the\nnext token (nats)",
        trained.best,
    )
    kl.set_yscale("log")
    for formatter in (kl.yaxis.set_major_formatter, kl.yaxis.set_minor_formatter):
        formatter("{x:g}")  # no powers, since mathematical text is switched off
    kl.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    handles, labels = edit.get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def _labelled(ax: Axes, title: str, unit: str, best: int) -> None:
    """Labels a panel and marks the step whose network is used."""
    ax.set_title(title)
    ax.set_ylabel(unit)
    ax.set_xlabel("training step")
    ax.axvline(best, color="0.8", linewidth=0.8, zorder=0)
    look = {"color": "0.5", "textcoords": "offset points", "annotation_clip": False}
    ax.annotate("best", (best, 1), (0, 1), ("data", "axes fraction"), ha="right", **look)
    ax.spines[["top", "right"]].set_visible(False)
