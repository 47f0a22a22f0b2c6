"""The verdict on an edit: it works, works at a price, or fails.

An edit can make a model say anything by damaging it. So there is a limit for each number that shows
damage, and an edit beyond one of these limits does not count as a success.
"""

import math
from dataclasses import dataclass
from typing import Literal

VerdictName = Literal["works", "at a price", "fails"]
PriceName = Literal["targets", "perplexity", "repetition", "norm", "neighbours"]

# Chosen by hand for one edit of one fact. A local edit has no reason to change the perplexity of
# unrelated text by a tenth, or a weight by half of its norm.
MOST_PERPLEXITY = 1.1  # perplexity after / before
LEAST_VARIETY = 0.7  # variety after / before; 20 tokens that only repeat 7 or fewer are below it
MOST_NORM = 0.5  # norm of the delta / norm of the weight
LEAST_KEPT = 0.5  # share of the neighbours that keep their answer
ALL = 1.0  # share of the targets that are said

SAID = {
    "works": "The edit works",
    "at a price": "The model says the target, but at a price",
    "fails": "The edit fails",
}
SENTENCES = {
    "targets": "The model says {price.value:.0%} of the targets; it should say all of them.",
    "perplexity": "Perplexity of held-out text is {price.value:.3g} times as high as before; at "
    "most {price.limit:g} times is allowed.",
    "repetition": "The model repeats itself: its text keeps {price.value:.0%} of the variety that "
    "it had before; at least {price.limit:.0%} is required.",
    "norm": "The norm of the delta is {price.value:.3g} times the norm of the weight; at most "
    "{price.limit:g} times is allowed.",
    "neighbours": "{price.value:.0%} of the neighbours keep their answer; at least "
    "{price.limit:.0%} is required.",
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
    """A measured number of an edit that is beyond its limit.

    Args:
        name: what was measured. "perplexity": perplexity of held-out text, after / before.
            "repetition": variety of the model's text, after / before. "norm": norm of the delta /
            norm of the weight. "neighbours": share of the neighbours that keep their answer.
            "targets": share of the targets that are said, for an edit of several facts.
        value: the measured number; NaN counts as beyond every limit.
        limit: the largest allowed value for perplexity and norm, the smallest for the others.
    """

    name: PriceName
    value: float
    limit: float

    def __str__(self) -> str:
        """A sentence with the number and its limit."""
        return SENTENCES[self.name].format(price=self)

    @property
    def short(self) -> str:
        """The number as a phrase, for a figure's title."""
        return SHORT[self.name].format(price=self)


@dataclass(frozen=True)
class Verdict:
    """Whether an edit works, with its prices; an edit that fails may have prices too."""

    outcome: VerdictName
    prices: tuple[Price, ...]

    @property
    def short(self) -> str:
        """The outcome and the prices as a phrase, for a figure's title."""
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
    """The verdict on one edit. A number that is None was not measured and cannot be a price.

    Args:
        says_target: whether the edited model says the target after the edited prompt; for several
            facts, whether it says enough targets for the edit not to fail.
        perplexity: perplexity of held-out text before and after the edit.
        variety: `kedit.forward.generation.variety` of the model's text before and after the edit.
        norm: largest ratio of a delta's norm to its weight's norm (`Edit.norms`).
        kept: share of the neighbours that keep their answer, from 0 to 1.
        said: share of the targets that the model says, from 0 to 1, for several facts.
    """
    prices: list[Price] = []

    def at_most(name: PriceName, value: float | None, limit: float) -> None:
        # not "value > limit", which is false for a NaN
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
    """The second number divided by the first."""
    if pair is None:
        return None
    before, after = pair
    if before == 0:  # text that already repeats one token cannot lose variety
        return 1.0 if after == 0 else after * math.inf
    return after / before
