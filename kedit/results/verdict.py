"""Whether the edit of a fact works, says its target at a price, or fails: judged by numbers alone.

An edit can make a model say anything by damaging it. So each number that damage shows in has a
limit, and an edit that breaks one of them is not called a success.
"""

import math
from dataclasses import dataclass
from typing import Literal

VerdictName = Literal["works", "at a price", "fails"]
PriceName = Literal["targets", "perplexity", "repetition", "norm", "neighbours"]

# Chosen by hand, for one edit of one fact. An edit that should be local has no reason to move text
# about other things by a tenth, or a weight by half of its norm.
MOST_PERPLEXITY = 1.1  # times what it was
LEAST_VARIETY = 0.7  # of what it was; 20 tokens fall below it that repeat 7 or fewer all along
MOST_NORM = 0.5  # of the weight's own norm
LEAST_KEPT = 0.5  # of the neighbours
ALL = 1.0  # of the targets

SAID = {
    "works": "The edit works",
    "at a price": "The model says it, but at a price",
    "fails": "The edit fails",
}
SENTENCES = {
    "targets": "The model says {price.value:.0%} of the targets; all of them are wanted.",
    "perplexity": "Perplexity of held-out text is {price.value:.3g} times what it was; at most "
    "{price.limit:g} times is wanted.",
    "repetition": "What the model says repeats itself: it has {price.value:.0%} of the variety "
    "that it had; at least {price.limit:.0%} is wanted.",
    "norm": "The norm of the delta is {price.value:.3g} times that of the weight it is added to; "
    "at most {price.limit:g} times is wanted.",
    "neighbours": "{price.value:.0%} of the neighbours keep their answer; at least "
    "{price.limit:.0%} is wanted.",
}
SHORT = {
    "targets": "{price.value:.0%} of targets said",
    "perplexity": "perplexity of held-out text × {price.value:.3g}",
    "repetition": "text repeats itself (variety × {price.value:.2g})",
    "norm": "norm of delta / weight {price.value:.3g}",
    "neighbours": "{price.value:.0%} of neighbours kept",
}


@dataclass(frozen=True)
class Price:
    """A number that is beyond its limit.

    Args:
        name: "perplexity" of text that has nothing to do with the edit, after over before;
            "repetition": variety of what the model says, after over before; "norm" of the delta
            over that of its weight; "neighbours": the share that keeps its answer; "targets": of
            an edit of several facts, the share that is said.
        value: what was measured; NaN counts as beyond every limit.
        limit: the most that perplexity and norm may be, the least that the others may be.
    """

    name: PriceName
    value: float
    limit: float

    def __str__(self) -> str:
        """The number and its limit, as a sentence."""
        return SENTENCES[self.name].format(price=self)

    @property
    def short(self) -> str:
        return SHORT[self.name].format(price=self)


@dataclass(frozen=True)
class Verdict:
    """What became of an edit, and all that it costs; one that fails may have prices too."""

    outcome: VerdictName
    prices: tuple[Price, ...]

    @property
    def short(self) -> str:
        """For a figure's title."""
        costs = ", ".join(price.short for price in self.prices)
        return f"{SAID[self.outcome]}{f': {costs}' if costs else ''}"


def judged(
    says_target: bool,
    *,
    perplexity: tuple[float, float] | None = None,
    variety: tuple[float, float] | None = None,
    norm: float | None = None,
    kept: float | None = None,
    said: float | None = None,
) -> Verdict:
    """The verdict on one edit; None stands for what was not measured, and cannot be a price.

    Args:
        says_target: whether the edited model says the target after the prompt that was edited; of
            several facts, enough of the targets not to have failed.
        perplexity: of held-out text, before and after the edit.
        variety: `kedit.forward.generation.variety` of what the model says, before and after.
        norm: the largest ratio of a delta's norm to its weight's (`Edit.norms`).
        kept: the share of neighbours that keep their answer, from 0 to 1.
        said: of several facts, the share of the targets that the model says.
    """
    prices: list[Price] = []

    def at_most(name: PriceName, value: float | None, limit: float) -> None:
        # not "value > limit", which a NaN would pass
        if value is not None and not value <= limit:
            prices.append(Price(name, value, limit))

    def at_least(name: PriceName, value: float | None, limit: float) -> None:
        if value is not None and not value >= limit:
            prices.append(Price(name, value, limit))

    at_least("targets", said, ALL)
    at_most("perplexity", _ratio(perplexity), MOST_PERPLEXITY)
    at_least("repetition", _ratio(variety), LEAST_VARIETY)
    at_most("norm", norm, MOST_NORM)
    at_least("neighbours", kept, LEAST_KEPT)
    if not says_target:
        return Verdict("fails", tuple(prices))
    return Verdict("at a price" if prices else "works", tuple(prices))


def _ratio(pair: tuple[float, float] | None) -> float | None:
    """After over before."""
    if pair is None:
        return None
    before, after = pair
    if before == 0:  # text that did nothing but repeat itself can lose no variety
        return 1.0 if after == 0 else after * math.inf
    return after / before
