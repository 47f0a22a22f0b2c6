"""From scores of single cases to what a paper's table holds: each with its pre-edit value.

Prompts are averaged within a case, then cases; a draw of the bootstrap is a draw of cases, the same
for every measure, so that differences and harmonic means are drawn as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kedit.facts import Perspective
from kedit.results.frontier import FrontierPoint
from kedit.results.measures import Key, Measure
from kedit.results.scores import EditScore, ProbeScore
from kedit.stats import (
    Interval,
    harmonic_mean,
    rate_interval,
    resampled_means,
    resamples,
    row_interval,
)

# each of a probe, or None where it has no such thing
STATISTICS: dict[str, Callable[[ProbeScore], float | None]] = {
    # is the answer likelier than its rival? (mean over tokens, as RaKE)
    "success": lambda p: None if p.rival_logprob is None else p.logprob > p.rival_logprob,
    "magnitude": lambda p: (
        None if p.rival_logprob is None else exp(p.logprob) - exp(p.rival_logprob)
    ),
    "probability": lambda p: exp(p.logprob),
    "rival's probability": lambda p: None if p.rival_logprob is None else exp(p.rival_logprob),
    "exact match": lambda p: p.exact,
    "says it": lambda p: p.says,
    "says the rival": lambda p: p.says_rival,
    "reciprocal rank": lambda p: None if p.rank is None else 1 / p.rank,
    "ranks first": lambda p: None if p.rank is None else p.rank == 1,
}

# of a prompt 0 or 1: their intervals are Wilson's, since a bootstrap of 51 of 51 has no width
RATES = ("success", "exact match", "says it", "says the rival", "ranks first")

E_EFFICACY, E_PARAPHRASE, E_KEPT, E_OTHERS = (
    Key("entity", group, "success")
    for group in ("efficacy", "paraphrase", "neighborhood", "other relations")
)
R_EFFICACY, R_PARAPHRASE, R_REMOVAL, R_KEPT, R_OBJECTS, R_OTHERS = (
    Key("relation", group, "success")
    for group in (
        "efficacy", "paraphrase", "removal", "neighborhood", "other objects", "other relations",
    )
)  # fmt: skip
# harmonic means of success rates, as the authors' summary takes them
HARMONIC: dict[Key, tuple[Key, ...]] = {
    Key("both", "Score", "harmonic mean"): (
        E_EFFICACY, E_PARAPHRASE, E_KEPT, R_EFFICACY, R_PARAPHRASE,
    ),
    Key("entity", "Score", "harmonic mean"): (E_EFFICACY, E_PARAPHRASE, E_KEPT),
    Key("both", "efficacy", "harmonic mean"): (E_EFFICACY, R_EFFICACY),
    Key("both", "paraphrase", "harmonic mean"): (E_PARAPHRASE, R_PARAPHRASE),
}  # fmt: skip
# of a probe before and after an edit: 1 - |change of its magnitude|
STEADINESS = "steadiness"
# three ways to score lifts: success asks which answer is ahead, if both have a probability of 1e-4;
# magnitude, how far; and both together cannot be had by faint edits, nor by loud ones
BY_SUCCESS, BY_MAGNITUDE, BY_ALL = LIFTS = ("lifts", "magnitude lifts", "all lifts")


def _scored(parts: Mapping[str, tuple[Key, ...]], magnitude: str) -> dict[Key, tuple[Key, ...]]:
    """By each way to score a side, its parts; `magnitude` is the statistic for how far."""
    found = {}
    for side, by_success in parts.items():
        by_magnitude = tuple(key._replace(statistic=magnitude) for key in by_success)
        ways = by_success, by_magnitude, (*by_success, *by_magnitude)
        found |= {Key(side, "Score", way): own for way, own in zip(LIFTS, ways, strict=True)}
    return found


# harmonic means of what was gained of what there was to gain, and of what was kept
GAINED = _scored(
    {
        "both": (E_EFFICACY, E_PARAPHRASE, R_EFFICACY, R_PARAPHRASE),
        "entity": (E_EFFICACY, E_PARAPHRASE),
        "relation": (R_EFFICACY, R_PARAPHRASE, R_REMOVAL),
    },
    "magnitude",
)
KEPT = _scored(
    {
        "both": (E_KEPT, R_KEPT),
        "entity": (E_KEPT, E_OTHERS),
        "relation": (R_KEPT, R_OBJECTS, R_OTHERS),
    },
    STEADINESS,
)
LEAST = -1.0  # a share counts as no less: where little was to gain, losing it counts many times
# of one prompt in two hundred, shares are noise: one case lost would count as more than all
ROOM = 0.05
# what an edit from one side brings on the other
TRANSFER: dict[Key, tuple[Key, ...]] = {
    Key("entity", "transfer", "gain"): (E_EFFICACY, E_PARAPHRASE),
    Key("relation", "transfer", "gain"): (R_EFFICACY, R_PARAPHRASE),
}


NOTHING = np.full(1, np.nan)  # neither a mean nor draws of it


class Shares(NamedTuple):
    """What a Score on lifts is made of, over all cases and then over every draw of them.

    Args:
        gained: shares of what there was to gain; 1 is all, below 0 is less than before.
        kept: shares of what was there before; at most 1.
    """

    gained: Mapping[Key, Float[ndarray, " one_and_draws"]]
    kept: Mapping[Key, Float[ndarray, " one_and_draws"]]

    @property
    def parts(self) -> Mapping[Key, Float[ndarray, " one_and_draws"]]:
        return {**self.gained, **self.kept}

    @property
    def score(self) -> Float[ndarray, " one_and_draws"]:
        """The harmonic mean of all: 0 where one is 0 or less, NaN where there are none."""
        return harmonic_mean(np.stack(list(self.parts.values()))) if self.parts else NOTHING

    @property
    def mean(self) -> Float[ndarray, " one_and_draws"]:
        """Of all, NaN where there are none; it tells editors apart whose Score is 0."""
        return _plain_mean(self.parts)

    @property
    def generalisation(self) -> Float[ndarray, " one_and_draws"]:
        """The mean of what was gained; NaN where no case has a prompt for it."""
        return _plain_mean(self.gained)

    @property
    def locality(self) -> Float[ndarray, " one_and_draws"]:
        """The mean of what was kept; NaN where no case has a prompt for it."""
        return _plain_mean(self.kept)

    @property
    def point(self) -> FrontierPoint:
        """What was kept and what was gained, with intervals."""
        return FrontierPoint(row_interval(self.locality), row_interval(self.generalisation))


def measures(scores: Sequence[EditScore], draws: int = 2000, seed: int = 0) -> list[Measure]:
    """Every statistic of every group that the cases of one model have, then their Scores."""
    old = _Means(scores, resamples(len(scores), draws, seed))
    found = [Measure(key, old.interval(key), None, None, *old.counts(key)) for key in old]
    for key, parts in _within(HARMONIC, old):
        whole = _harmonic(old, parts)
        found.append(Measure(key, row_interval(whole), None, None, *old.counts(*parts)))
    return found


def changes(
    before: Sequence[EditScore],
    after: Sequence[EditScore],
    edited: Perspective | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> list[Measure]:
    """`measures` before and after an edit of each case, with lifts, and Scores on lifts.

    Args:
        after: the edited models' scores, of the same cases in the same order.
        edited: the side that was edited; the other side's gain is then given as transfer.
    """
    assert [one.id for one in before] == [one.id for one in after]
    weights = resamples(len(before), draws, seed)
    old, new = _Means(before, weights, before), _Means(after, weights, before)
    found = [
        Measure(
            key,
            old.interval(key),
            new.interval(key),
            row_interval(new.of(key) - old.of(key)),
            *old.counts(key),
        )
        for key in old
    ]
    for key, parts in _within(HARMONIC, old):
        then, now = _harmonic(old, parts), _harmonic(new, parts)
        start, end, lift = (row_interval(row) for row in (then, now, now - then))
        found.append(Measure(key, start, end, lift, *old.counts(*parts)))
    for key, _ in _within(GAINED, old):
        made_of = _shares(old, new, key)
        counts = old.counts(*made_of.parts)
        found.append(Measure(key, None, row_interval(made_of.score), None, *counts))
    transferred = {key: parts for key, parts in TRANSFER.items() if edited not in (None, key[0])}
    for key, parts in _within(transferred, old):
        gain = np.mean([_gain(old.of(part), new.of(part)) for part in parts], axis=0)
        found.append(Measure(key, None, row_interval(gain), None, *old.counts(*parts)))
    return found


def shares(
    before: Sequence[EditScore],
    after: Sequence[EditScore],
    scores: Sequence[Key],
    draws: int = 2000,
    seed: int = 0,
) -> list[Shares]:
    """What each Score on lifts is the harmonic mean of; parts that no case has are left out."""
    assert [one.id for one in before] == [one.id for one in after]
    weights = resamples(len(before), draws, seed)
    old, new = (_Means(cases, weights, before) for cases in (before, after))
    return [_shares(old, new, score) for score in scores]


def part_name(key: Key) -> str:
    """A share, as tables and figures call it."""
    kept = {"neighborhood": "neighbours kept"} | {
        group: f"{group} kept" for group in ("other objects", "other relations")
    }
    how = "" if key.statistic == "success" else ", magnitude"
    return kept.get(key.group, key.group) + how


def by_case(scores: Sequence[EditScore], key: Key) -> Float[ndarray, " case"]:
    """The mean of one measure over each case's prompts; NaN for a case without such prompts."""
    values = [_by_key(score).get(key, []) for score in scores]
    return np.array([_mean(one) if one else np.nan for one in values])


def by_relation(scores: Sequence[EditScore]) -> dict[str, list[EditScore]]:
    """Scores of each relation's cases, the relations in order of their names."""
    names = sorted({score.relation for score in scores})
    return {name: [score for score in scores if score.relation == name] for name in names}


def _within(
    named: Mapping[Key, tuple[Key, ...]], there: "_Means"
) -> Iterator[tuple[Key, tuple[Key, ...]]]:
    """Those of which the cases have every part."""
    return ((key, parts) for key, parts in named.items() if all(part in there for part in parts))


def _shares(old: "_Means", new: "_Means", score: Key) -> Shares:
    return Shares(
        {part: _gain(old.of(part), new.of(part)) for part in GAINED[score] if part in old},
        {part: _kept(old.of(part), new.of(part)) for part in KEPT[score] if part in old},
    )


def _plain_mean(
    rows: Mapping[Key, Float[ndarray, " one_and_draws"]],
) -> Float[ndarray, " one_and_draws"]:
    """None of them counted as less than LEAST; NaN of none at all."""
    if not rows:
        return NOTHING
    return np.maximum(np.stack(list(rows.values())), LEAST).mean(0)


def _harmonic(means: "_Means", parts: Sequence[Key]) -> Float[ndarray, " one_and_draws"]:
    return harmonic_mean(np.stack([means.of(part) for part in parts]))


class _Means:
    """Each key's mean over all cases and over every draw of them, in one row: [1 + draws].

    Args:
        before: the unedited model's scores of the same cases, if these are to be held against them.
    """

    def __init__(
        self,
        scores: Sequence[EditScore],
        weights: Int[ndarray, "draw case"],
        before: Sequence[EditScore] = (),
    ) -> None:
        values = [_by_key(score) for score in scores]
        for own, old, new in zip(values, before, scores, strict=bool(before)):
            own.update(_steadiness(old, new))
        keys = list(dict.fromkeys(key for one in values for key in one))
        self._column = {key: index for index, key in enumerate(keys)}
        self._n_prompts = np.array([[len(one.get(key, ())) for key in keys] for one in values])
        table = [[_mean(one[key]) if key in one else np.nan for key in keys] for one in values]
        self._values = np.array(table, dtype=float)
        self._means = resampled_means(self._values, weights)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._column)

    def __contains__(self, key: Key) -> bool:
        return key in self._column

    def of(self, key: Key) -> Float[ndarray, " one_and_draws"]:
        return self._means[:, self._column[key]]

    def interval(self, key: Key) -> Interval:
        """The mean over all cases; of a rate with Wilson's interval, else by the bootstrap."""
        values = self._values[:, self._column[key]]
        values = values[~np.isnan(values)]
        # every name ranks first: the same as the rate of those that do
        all_first = key.statistic == "reciprocal rank" and (values == 1).all()
        if key.statistic in RATES or all_first:
            return rate_interval(values, np.ones(len(values)))
        return row_interval(self.of(key))

    def counts(self, *keys: Key) -> tuple[int, int]:
        """Cases that have any of these, and the prompts they rest on."""
        n_prompts = self._n_prompts[:, [self._column[key] for key in keys]]
        return int((n_prompts > 0).any(1).sum()), int(n_prompts.sum())


def _by_key(score: EditScore) -> dict[Key, list[float]]:
    """All prompts' values of one case."""
    values: dict[Key, list[float]] = {}
    for probe in score.probes:
        for name, statistic in STATISTICS.items():
            value = statistic(probe)
            if value is not None:
                key = Key(probe.perspective, probe.group, name)
                values.setdefault(key, []).append(float(value))
    if score.fluency is not None:
        values[Key("both", "generated text", "n-gram entropy")] = [score.fluency]
    return values


def _steadiness(before: EditScore, after: EditScore) -> Mapping[Key, list[float]]:
    """How little the magnitude of each prompt has moved: 1 not at all, 0 all the way."""
    values: dict[Key, list[float]] = {}
    magnitude = STATISTICS["magnitude"]
    for old, new in zip(before.probes, after.probes, strict=True):
        then, now = magnitude(old), magnitude(new)
        if then is not None and now is not None:
            key = Key(new.perspective, new.group, STEADINESS)
            values.setdefault(key, []).append(max(0.0, 1 - abs(now - then)))
    return values


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _gain(
    old: Float[ndarray, " one_and_draws"], new: Float[ndarray, " one_and_draws"]
) -> Float[ndarray, " one_and_draws"]:
    """The share of what was missing that is there now; what was complete counts as it is now.

    Complete is what lacks less than ROOM over all cases, in their draws too.
    """
    missing = 1 - old
    if missing[0] < ROOM:
        return new
    return np.where(missing > 1e-9, (new - old) / np.maximum(missing, 1e-9), new)


def _kept(old: ndarray, new: ndarray) -> ndarray:
    """The share of what was there that is there still, at most all of it."""
    return np.where(old > 0, np.minimum(new / np.where(old > 0, old, 1), 1), np.nan)
