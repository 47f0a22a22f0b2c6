"""Figures of edited facts: likeliest next tokens, and the probabilities of both answers."""

from bisect import bisect_left
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.score import Dots
from figures.style import (
    DOUBLE,
    legend_above,
    new_figure,
    readable,
    styled,
    text_width,
    titled,
    wrapped,
)
from kedit.results.before_after import BeforeAfter
from kedit.results.exchanges import Exchange
from kedit.results.many_facts import FactsEdited
from kedit.tables import number

Likeliest = Sequence[tuple[str, float]]  # likeliest next tokens with their probabilities

NEW, OLD = Dots("new answer", "#0072B2", "o"), Dots("old answer", "#D55E00", "D")
OTHERS = "0.72"  # grey of the tokens that start neither answer
WHEN = ("before the edit", "after the edit")
BAR, ROW = 0.16, 0.32  # inches: height of a token's bar; of a prompt's row
PROMPT_WIDTH, SAYS_WIDTH = 2.1, 1.35  # inches: width of a prompt's line; of a reply's line
TOKEN_WIDTH = 16  # characters shown of a token
EXPLAINED = (
    "n = 1 edit, no interval; probability of an answer of several tokens: exp of their mean "
    "log-probability; a neighbour’s old answer is what the unedited model says; on the right: the "
    "model’s reply, ✓: as expected; ␣: a blank at the start of a token"
)

MANY = (
    "one edit of all facts, no interval; probability of an answer of several tokens: exp of their "
    "mean log-probability; on the right: the model’s reply, ✓: it is the target"
)


DRAWN = 40  # facts in a figure, at most


@styled
def before_after(found: BeforeAfter) -> Figure:
    """Bars of the likeliest tokens after the edited prompt; below, a row for each prompt."""
    first = found.exchanges[0]
    answers = (first.question.new, first.question.old)  # bars of their first tokens are coloured
    likeliest = (first.before.likeliest, first.after.likeliest)
    prompt = shorten(readable(first.question.prompt), 240, placeholder=" …")
    title = titled(f"Edited: “{prompt}”", found.model) + f"\n{readable(found.verdict.short)}"
    blocks = {
        name: exchanges
        for name, changes in (("should change", True), ("should stay", False))
        if (
            exchanges := [
                exchange for exchange in found.exchanges if exchange.question.changes == changes
            ]
        )
    }
    above = 0.6 + BAR * max(map(len, likeliest))
    below = 0.75 + 0.24 * len(blocks) + ROW * len(found.exchanges)
    figure = new_figure(DOUBLE, above + below, title, f"{_made_by(found)}; {EXPLAINED}.")
    grid = figure.add_gridspec(2, 1, height_ratios=(above, below))
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    for ax, when, tokens in zip(upper.subplots(1, 2), WHEN, likeliest, strict=True):
        ax.set_title(when)
        _bars(ax, tokens, answers)
    panels = lower.subplots(
        len(blocks),
        1,
        sharex=True,
        squeeze=False,
        height_ratios=[len(exchanges) for exchanges in blocks.values()],
    )[:, 0]
    for ax, (name, exchanges) in zip(panels, blocks.items(), strict=True):
        ax.set_title(name, fontweight="bold")
        _rows(ax, exchanges)
    panels[-1].set_xlabel("probability of the answer")
    _legend(figure)
    return figure


@styled
def many_facts(found: FactsEdited, limit: int = DRAWN) -> Figure:
    """A row for each of the first `limit` facts of an edit: both answers to the edited prompt."""
    exchanges = [fact.exchanges[0] for fact in found.facts[:limit]]
    n_facts = len(found.facts)
    fewer = f"the first {len(exchanges)} of {n_facts} facts" if len(exchanges) < n_facts else ""
    caption = "; ".join(filter(None, (_made_by(found), fewer, MANY)))
    title = titled(readable(found.verdict.short), found.model)
    figure = new_figure(DOUBLE, 0.75 + ROW * len(exchanges), title, f"{caption}.")
    ax = figure.subplots()
    _rows(ax, exchanges)
    ax.set_xlabel("probability of the answer")
    _legend(figure)
    return figure


def _made_by(found: BeforeAfter | FactsEdited) -> str:
    """The editor and the seed, as a phrase."""
    return readable(f"{found.editor}; seed {found.seed}")


def _bars(ax: Axes, tokens: Likeliest, answers: tuple[str, str]) -> None:
    """Draws a bar for each token, the likeliest at the top, with its probability as a number."""
    colours = [_colour(text, answers) for text, _ in tokens]
    values = [value for _, value in tokens]
    bars = ax.barh(range(len(tokens)), values, height=0.72, color=colours)
    ax.bar_label(bars, [number(value) for value in values], padding=2)
    ax.set_yticks(range(len(tokens)), [_token(text) for text, _ in tokens])
    ax.set_ylim(len(tokens) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlim(0, 1)
    ax.set_xticks((0, 0.25, 0.5, 0.75, 1))
    ax.set_xlabel("probability of the next token")


def _token(text: str) -> str:
    """The token with a visible blank at its start, since " Rome" and "Rome" are two tokens."""
    blank = "␣" if text.startswith(" ") and text.strip(" ") else ""
    return blank + readable(text, TOKEN_WIDTH)


def _colour(token: str, answers: tuple[str, str]) -> str:
    """The colour of the answer that starts with the token; grey if neither does."""
    for answer, dots in zip(answers, (NEW, OLD), strict=True):
        if token.strip() and answer.startswith(token.strip()):
            return dots.colour
    return OTHERS


def _rows(ax: Axes, exchanges: Sequence[Exchange]) -> None:
    """Draws both answers to each prompt, before (hollow) and after (filled), and the reply."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    for row in range(0, len(exchanges), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.955", linewidth=0, zorder=0)
    for step, dots, shifts in (
        (-0.17, NEW, [(exchange.before.new, exchange.after.new) for exchange in exchanges]),
        (0.17, OLD, [(exchange.before.old, exchange.after.old) for exchange in exchanges]),
    ):
        heights = [row + step for row in range(len(exchanges))]
        ax.hlines(
            heights,
            [before for before, _ in shifts],
            [after for _, after in shifts],
            color=dots.colour,
            linewidth=0.8,
            zorder=2,
        )
        for when, values in zip(WHEN, zip(*shifts, strict=True), strict=True):
            ax.scatter(
                values,
                heights,
                s=12,
                marker=dots.shape,
                facecolors="white" if when == WHEN[0] else dots.colour,
                edgecolors=dots.colour,
                linewidths=0.7,
                label=f"{dots.name}, {when}",
                zorder=3,
                clip_on=False,
            )
    prompts = [_wrapped(exchange.question.prompt) for exchange in exchanges]
    ax.set_yticks(range(len(exchanges)), prompts)
    ax.set_ylim(len(exchanges) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.grid(axis="x", color="0.85", linewidth=0.5, zorder=0.5)
    for row, exchange in enumerate(exchanges):
        _note(ax, row, _reply(exchange))


def _wrapped(text: str) -> str:
    """The prompt in at most two lines; of a longer prompt the start and the end."""
    shown = readable(text)
    lines = wrapped(shown, PROMPT_WIDTH)
    if len(lines) <= 2:
        return "\n".join(lines)
    return f"{_cut(shown, PROMPT_WIDTH)}\n{_cut(shown, PROMPT_WIDTH, end=True)}"


def _cut(text: str, width: float, end: bool = False) -> str:
    """The start of the text, or its end, shortened to `width` inches."""
    if text_width(text) <= 72 * width:
        return text
    pieces = [f"… {text[n:]}" if end else f"{text[:-n]} …" for n in range(1, len(text) + 1)]
    return pieces[bisect_left(pieces, -72 * width, key=lambda piece: -text_width(piece))]


def _reply(exchange: Exchange) -> str:
    """A mark and the replies: "✓ Paris → Rome", or "✓ Berlin" if the reply stays the same."""
    mark = "✓" if exchange.works else "✗"
    then, now = readable(exchange.before.answer), readable(exchange.after.answer)
    if then == now:
        return f"{mark} {_cut(now, SAYS_WIDTH)}"
    line = f"{then} → {now}"
    if text_width(line) <= 72 * SAYS_WIDTH:
        return f"{mark} {line}"
    return f"{mark} {_cut(then, SAYS_WIDTH)}\n→ {_cut(now, SAYS_WIDTH)}"


def _note(ax: Axes, row: int, text: str) -> None:
    """Writes text to the right of a row."""
    how: dict[str, Any] = {"va": "center", "annotation_clip": False}
    across = ax.get_yaxis_transform()
    ax.annotate(text, (1, row), (9, 0), xycoords=across, textcoords="offset points", **how)


def _legend(figure: Figure) -> None:
    """Adds the legend of marks below the title."""
    handles = [
        Line2D(
            [], [], color=dots.colour, marker=dots.shape, markersize=3.4, linewidth=0,
            markerfacecolor="white" if when == WHEN[0] else dots.colour,
            label=f"{dots.name}, {when}",
        )
        for dots in (NEW, OLD)
        for when in WHEN
    ]  # fmt: skip
    legend_above(figure, handles, [str(handle.get_label()) for handle in handles])
