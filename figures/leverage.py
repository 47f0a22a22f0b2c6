"""Figure of the leverage of an edit's key by layer, and of what attention's key saves."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from figures.style import (
    DOUBLE,
    SITE_COLOURS,
    layer_axis,
    legend_above,
    new_figure,
    readable,
    styled,
    titled,
)
from kedit.results.leverage import BOTH, HALVES, Leverages
from kedit.tables import plural

COLOURS = {"mlp": SITE_COLOURS["mlp_out"], "attn": SITE_COLOURS["attn_out"], BOTH: "black"}
HEAD = "W_out and the best head"


@styled
def leverage(found: Leverages) -> Figure:
    """Draws kᵀC⁻¹k of W_out, W_O and both by layer, and beside it what attention saves."""
    caption = (
        f"n = {plural(found.n_cases, 'case')}, at {readable(found.where)}; C: "
        f"{readable(found.text)}; seed {found.seed}. Left: leverage of the key, divided by its "
        "length. Right: by which share one solve of both halves lowers the square of what an edit "
        "writes at other tokens, below that of W_out alone (dashed: at a mean token). Bands: "
        "95\u00a0% bootstrap intervals over cases."
    )
    title = titled("Leverage of an edit’s key, and what attention’s key saves", found.model)
    figure = new_figure(DOUBLE, 2.3, title, caption)
    left, right = figure.subplots(1, 2)
    numbers = [layer.layer for layer in found.layers]
    for half, name in HALVES.items():
        means, lows, highs = zip(
            *(layer.leverage[half].floats() for layer in found.layers), strict=True
        )
        left.plot(numbers, means, color=COLOURS[half], linewidth=1, label=name)
        left.fill_between(numbers, lows, highs, color=COLOURS[half], alpha=0.15, linewidth=0)
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylabel("leverage / length\n(1: a mean token)")
    means, lows, highs = zip(*(layer.saved.floats() for layer in found.layers), strict=True)
    right.plot(numbers, means, color=COLOURS[BOTH], linewidth=1)
    right.fill_between(numbers, lows, highs, color=COLOURS[BOTH], alpha=0.15, linewidth=0)
    best = [max(layer.saved_by_head) for layer in found.layers]
    right.plot(numbers, best, ":", color=SITE_COLOURS["z"], linewidth=1, label=HEAD)
    right.axhline(found.at_mean_token, color="0.6", linewidth=0.7, linestyle="--")
    right.set_ylim(0, 1)
    right.set_ylabel("share saved by attention")
    for ax in (left, right):
        ax.set_xlabel("layer")
        layer_axis(ax, max(numbers) + 1)
        ax.spines[["top", "right"]].set_visible(False)
    entries = [ax.get_legend_handles_labels() for ax in (left, right)]
    handles, labels = ([*one, *other] for one, other in zip(*entries, strict=True))
    legend_above(figure, handles, labels)
    return figure
