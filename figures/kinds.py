"""Figure of attention's share of the indirect effect, by kind of relation."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from figures.style import DOUBLE, PART_COLOURS, Study, legend_above, new_figure, styled, titled
from kedit.errors import InputError
from kedit.results.heads import AttentionShare
from kedit.results.kinds import KindsCompared
from kedit.tables import plural

TITLES = {
    "restored": "Restored: attention / (attention + MLP)",
    "severed": "Severed: drop of the residual’s effect",
}
EXPLAINED = {
    "restored": "Restored: effects of restoring single outputs, summed over layers and tokens.",
    "severed": "Severed: how much the effect of the residual at the last corrupted token drops "
    "when attention, or MLPs, above it stay corrupted.",
}
WIDTH = 0.38


@styled
def attention_shares(found: KindsCompared) -> Figure:
    """Draws a panel for each measure, in it a pair of bars (by corrupted part) for each kind.

    Raises:
        InputError: there are no shares to draw.
    """
    shares, tests = found.shares, found.tests
    measures = list(dict.fromkeys(share.measure for share in shares))
    kinds = list(dict.fromkeys(share.kind for share in shares))
    corrupted = list(dict.fromkeys(share.part for share in shares))
    if not shares:
        raise InputError("there are no shares to draw")
    study = Study(found.n_facts, found.corruption, found.metric, found.seed, found.model)
    title = titled("Attention’s share of the indirect effect, by kind of relation", study.model)
    chance = "; ".join(f"{test.measure}, {test.part}: p = {test.p:.2g}" for test in tests)
    explained = " ".join(EXPLAINED[measure] for measure in measures)
    caption = (
        f"{study.caption('lines', over='relations')} {explained} "
        f"Test whether kinds differ (kinds permuted among relations): {chance}."
    )
    figure = new_figure(DOUBLE, 2.3, title, caption)
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for ax, measure in zip(axes, measures, strict=True):
        for share in (share for share in shares if share.measure == measure):
            offset = (corrupted.index(share.part) - (len(corrupted) - 1) / 2) * WIDTH
            x, colour = kinds.index(share.kind) + offset, PART_COLOURS[share.part]
            mean, low, high = share.share.floats()
            label = f"{share.part} corrupted" if share.kind == kinds[0] else None
            ax.bar(x, mean, WIDTH * 0.95, color=colour, alpha=0.75, label=label)
            ax.plot([x, x], [low, high], color="black", linewidth=0.9)
        ax.axhline(0.5, color="0.6", linewidth=0.6, linestyle=":")
        ax.set_xticks(range(len(kinds)), [_label(kind, shares) for kind in kinds])
        ax.set_title(TITLES[measure])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1)
    axes[0].set_ylabel("attention’s share")
    legend_above(figure, *axes[0].get_legend_handles_labels())
    return figure


def _label(kind: str, shares: Sequence[AttentionShare]) -> str:
    """A kind with its numbers of relations and facts, or two numbers if the bars differ in them."""
    same_kind = [share for share in shares if share.kind == kind]
    relations, facts = (
        " or ".join(map(str, sorted(set(counts))))
        for counts in (
            [share.n_relations for share in same_kind],
            [share.n_facts for share in same_kind],
        )
    )
    return f"{kind}\n{plural(relations, 'relation')}\n{plural(facts, 'fact')}"
