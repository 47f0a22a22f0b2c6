"""Attention's share of the indirect effect by kind of relation: bars with their intervals."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from figures.style import DOUBLE, PART_COLOURS, Study, legend_above, new_figure, styled, titled
from kedit.errors import InputError
from kedit.results.heads import AttentionShare
from kedit.results.kinds import KindsCompared
from kedit.tables import plural

TITLES = {
    "restored": "Restored: attention of attention + MLP",
    "severed": "Severed above the last corrupted token",
}
WIDTH = 0.38


@styled
def attention_shares(found: KindsCompared) -> Figure:
    """A panel for each measure, a pair of bars (subject, relation corrupted) for each kind.

    Raises:
        InputError: nothing to draw.
    """
    shares, tests = found.shares, found.tests
    measures = list(dict.fromkeys(one.measure for one in shares))
    kinds = list(dict.fromkeys(one.kind for one in shares))
    corrupted = list(dict.fromkeys(one.part for one in shares))
    if not shares:
        raise InputError("no shares to draw")
    study = Study(found.n_facts, found.corruption, found.metric, found.seed, found.model)
    title = titled("Attention’s share of what is recalled, by kind of relation", study.model)
    chance = "; ".join(f"{one.measure}, {one.part}: p = {one.p:.2g}" for one in tests)
    caption = (
        f"{study.caption('lines', over='relations')} Do the kinds differ "
        f"(permutations of kinds among relations)? {chance}."
    )
    figure = new_figure(DOUBLE, 2.3, title, caption)
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for ax, measure in zip(axes, measures, strict=True):
        for one in (one for one in shares if one.measure == measure):
            offset = (corrupted.index(one.part) - (len(corrupted) - 1) / 2) * WIDTH
            place = kinds.index(one.kind) + offset
            mean, low, high = one.share.floats()
            label = f"{one.part} corrupted" if one.kind == kinds[0] else None
            ax.bar(place, mean, WIDTH * 0.95, color=PART_COLOURS[one.part], alpha=0.75, label=label)
            ax.plot([place, place], [low, high], color="black", linewidth=0.9)
        ax.axhline(0.5, color="0.6", linewidth=0.6, linestyle=":")
        ax.set_xticks(range(len(kinds)), [_label(kind, shares) for kind in kinds])
        ax.set_title(TITLES[measure])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1)
    axes[0].set_ylabel("share")
    legend_above(figure, *axes[0].get_legend_handles_labels())
    return figure


def _label(kind: str, shares: Sequence[AttentionShare]) -> str:
    """With how many relations and facts it has; both numbers where the bars differ in them."""
    own = [one for one in shares if one.kind == kind]
    relations, facts = (
        " or ".join(map(str, sorted(set(counts))))
        for counts in ([one.n_relations for one in own], [one.n_facts for one in own])
    )
    return f"{kind}\n{plural(relations, 'relation')}\n{plural(facts, 'fact')}"
