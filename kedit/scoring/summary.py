"""Summarises scores of single cases as measures with intervals, before and after an edit.

A measure is the mean over the prompts of a case, then over the cases. The bootstrap draws cases,
with the same draws for every measure, so that differences and harmonic means are computed within
each draw.

Arrays with the axis one_and_draws hold the value over all cases, then the value in each draw:

    [ all cases | draw 0 | draw 1 | ... ]
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

# functions of a probe's score; None where the probe does not have the statistic
STATISTICS: dict[str, Callable[[ProbeScore], float | None]] = {
    # whether the answer is likelier than its rival, by mean log-probability of tokens (RaKE)
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

# statistics that are 0 or 1 for a prompt. Their intervals are Wilson's, since a bootstrap of 51
# successes in 51 cases has no width
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
# harmonic means of success rates, as in the published code of RaKE
HARMONIC: dict[Key, tuple[Key, ...]] = {
    Key("both", "Score", "harmonic mean"): (
        E_EFFICACY, E_PARAPHRASE, E_KEPT, R_EFFICACY, R_PARAPHRASE,
    ),
    Key("entity", "Score", "harmonic mean"): (E_EFFICACY, E_PARAPHRASE, E_KEPT),
    Key("both", "efficacy", "harmonic mean"): (E_EFFICACY, R_EFFICACY),
    Key("both", "paraphrase", "harmonic mean"): (E_PARAPHRASE, R_PARAPHRASE),
}  # fmt: skip
# of a probe: 1 - |magnitude after the edit - magnitude before it|
STEADINESS = "steadiness"
# Three ways to score lifts. Success asks only which of two answers is likelier, even if both have a
# probability of 1e-4. Magnitude asks by how much. Both together are high only if an edit is neither
# too weak for magnitude nor so strong that it changes neighbours.
BY_SUCCESS, BY_MAGNITUDE, BY_ALL = LIFTS = ("lifts", "magnitude lifts", "all lifts")


def _scored(parts: Mapping[str, tuple[Key, ...]], magnitude: str) -> dict[Key, tuple[Key, ...]]:
    """Builds, for each side and each of LIFTS, the key of the Score with the keys of its parts.

    Args:
        parts: by side, the keys of its success rates.
        magnitude: statistic that replaces success in the Scores by magnitude.
    """
    found = {}
    for side, by_success in parts.items():
        by_magnitude = tuple(key._replace(statistic=magnitude) for key in by_success)
        keys_of_lifts = by_success, by_magnitude, (*by_success, *by_magnitude)
        found |= {
            Key(side, "Score", lifts): keys
            for lifts, keys in zip(LIFTS, keys_of_lifts, strict=True)
        }
    return found


# A Score is the harmonic mean of the shares gained (of what was missing before the edit) and of the
# shares kept (of what was there before it).
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
# In plain means a share counts as at least -1. Shares have no lower bound: if little was missing
# before the edit, a small loss is many times what was missing.
MIN_SHARE = -1.0
# With less than 5 % to gain, the gained share is noise, since a single lost case may outweigh all
# others: use the rate after the edit.
MIN_HEADROOM = 0.05
# what an edit of one side gains on the other side
TRANSFER: dict[Key, tuple[Key, ...]] = {
    Key("entity", "transfer", "gain"): (E_EFFICACY, E_PARAPHRASE),
    Key("relation", "transfer", "gain"): (R_EFFICACY, R_PARAPHRASE),
}


UNDEFINED = np.full(1, np.nan)  # a mean of no shares, without draws


class Shares(NamedTuple):
    """The shares of which a Score on lifts is the harmonic mean.

    Args:
        gained: shares of what was missing before the edit; 1 is everything, and a share below 0 is
            a loss.
        kept: shares of what was there before the edit; at most 1.
    """

    gained: Mapping[Key, Float[ndarray, " one_and_draws"]]
    kept: Mapping[Key, Float[ndarray, " one_and_draws"]]

    @property
    def parts(self) -> Mapping[Key, Float[ndarray, " one_and_draws"]]:
        """All shares, gained and kept."""
        return {**self.gained, **self.kept}

    @property
    def score(self) -> Float[ndarray, " one_and_draws"]:
        """The harmonic mean of all shares: 0 if one of them is at most 0, NaN without shares."""
        return harmonic_mean(np.stack(list(self.parts.values()))) if self.parts else UNDEFINED

    @property
    def mean(self) -> Float[ndarray, " one_and_draws"]:
        """The plain mean of all shares, NaN without shares; it ranks editors whose Score is 0."""
        return _plain_mean(self.parts)

    @property
    def generalisation(self) -> Float[ndarray, " one_and_draws"]:
        """The plain mean of the shares gained; NaN if no case has a prompt for them."""
        return _plain_mean(self.gained)

    @property
    def locality(self) -> Float[ndarray, " one_and_draws"]:
        """The plain mean of the shares kept; NaN if no case has a prompt for them."""
        return _plain_mean(self.kept)

    @property
    def point(self) -> FrontierPoint:
        """Locality and generalisation with intervals."""
        return FrontierPoint(row_interval(self.locality), row_interval(self.generalisation))


def measures(scores: Sequence[EditScore], draws: int = 2000, seed: int = 0) -> list[Measure]:
    """Computes all measures of one model, then the harmonic means of RaKE.

    Args:
        scores: scores of the cases.
        draws: number of bootstrap draws.
        seed: seed of the draws.
    """
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
    """Computes `measures` before and after the edit of each case, with lifts and Scores on lifts.

    Args:
        before: the unedited model's scores.
        after: the edited models' scores of the same cases, in the same order.
        edited: the side that was edited; the gain of the other side is then added as transfer.
        draws, seed: as for `measures`.
    """
    assert [score.id for score in before] == [score.id for score in after]
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
        earlier, later = _harmonic(old, parts), _harmonic(new, parts)
        start, end, lift = (row_interval(row) for row in (earlier, later, later - earlier))
        found.append(Measure(key, start, end, lift, *old.counts(*parts)))
    for key, _ in _within(GAINED, old):
        gained_and_kept = _shares(old, new, key)
        counts = old.counts(*gained_and_kept.parts)
        found.append(Measure(key, None, row_interval(gained_and_kept.score), None, *counts))
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
    """Computes the shares of which each Score on lifts is the harmonic mean.

    Shares for which no case has a prompt are left out.

    Args:
        before, after, draws, seed: as for `changes`.
        scores: keys of the Scores.
    """
    assert [score.id for score in before] == [score.id for score in after]
    weights = resamples(len(before), draws, seed)
    old, new = (_Means(cases, weights, before) for cases in (before, after))
    return [_shares(old, new, score) for score in scores]


def part_name(key: Key) -> str:
    """Returns the name of a share in tables and figures."""
    kept = {"neighborhood": "neighbours kept"} | {
        group: f"{group} kept" for group in ("other objects", "other relations")
    }
    how = "" if key.statistic == "success" else ", magnitude"
    return kept.get(key.group, key.group) + how


def by_case(scores: Sequence[EditScore], key: Key) -> Float[ndarray, " case"]:
    """Averages a statistic over the prompts of each case; NaN for a case without such prompts."""
    by_score = [_by_key(score).get(key, []) for score in scores]
    return np.array([_mean(values) if values else np.nan for values in by_score])


def by_relation(scores: Sequence[EditScore]) -> dict[str, list[EditScore]]:
    """Groups the scores by relation, in the order of the relations' names."""
    names = sorted({score.relation for score in scores})
    return {name: [score for score in scores if score.relation == name] for name in names}


def _within(
    parts_of: Mapping[Key, tuple[Key, ...]], means: "_Means"
) -> Iterator[tuple[Key, tuple[Key, ...]]]:
    """Selects the keys for which the cases have every part."""
    return ((key, parts) for key, parts in parts_of.items() if all(part in means for part in parts))


def _shares(old: "_Means", new: "_Means", score: Key) -> Shares:
    """Computes the shares of one Score, without those for which no case has a prompt."""
    return Shares(
        {part: _gain(old.of(part), new.of(part)) for part in GAINED[score] if part in old},
        {part: _kept(old.of(part), new.of(part)) for part in KEPT[score] if part in old},
    )


def _plain_mean(
    rows: Mapping[Key, Float[ndarray, " one_and_draws"]],
) -> Float[ndarray, " one_and_draws"]:
    """Averages shares, each of which counts as at least MIN_SHARE; NaN without shares."""
    if not rows:
        return UNDEFINED
    return np.maximum(np.stack(list(rows.values())), MIN_SHARE).mean(0)


def _harmonic(means: "_Means", parts: Sequence[Key]) -> Float[ndarray, " one_and_draws"]:
    return harmonic_mean(np.stack([means.of(part) for part in parts]))


class _Means:
    """Each key's mean over all cases and in every draw: an array [1 + draws] per key.

    Args:
        scores: scores of the cases.
        weights: how often each draw contains each case.
        before: the unedited model's scores of the same cases; they add the key STEADINESS.
    """

    def __init__(
        self,
        scores: Sequence[EditScore],
        weights: Int[ndarray, "draw case"],
        before: Sequence[EditScore] = (),
    ) -> None:
        values = [_by_key(score) for score in scores]
        for by_key, old, new in zip(values, before, scores, strict=bool(before)):
            by_key.update(_steadiness(old, new))
        keys = list(dict.fromkeys(key for by_key in values for key in by_key))
        self._column = {key: index for index, key in enumerate(keys)}
        self._n_prompts = np.array(
            [[len(by_key.get(key, ())) for key in keys] for by_key in values]
        )
        table = [
            [_mean(by_key[key]) if key in by_key else np.nan for key in keys] for by_key in values
        ]
        self._values = np.array(table, dtype=float)
        self._means = resampled_means(self._values, weights)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._column)

    def __contains__(self, key: Key) -> bool:
        return key in self._column

    def of(self, key: Key) -> Float[ndarray, " one_and_draws"]:
        """The mean of a key over all cases, then in each draw."""
        return self._means[:, self._column[key]]

    def interval(self, key: Key) -> Interval:
        """The mean over all cases with its interval: Wilson's for rates, else the bootstrap's."""
        values = self._values[:, self._column[key]]
        values = values[~np.isnan(values)]
        # if every name ranks first, the mean of 1/rank is the rate of first ranks: all ones
        all_first = key.statistic == "reciprocal rank" and (values == 1).all()
        if key.statistic in RATES or all_first:
            return rate_interval(values, np.ones(len(values)))
        return row_interval(self.of(key))

    def counts(self, *keys: Key) -> tuple[int, int]:
        """Counts the cases with any of these keys, and their prompts."""
        n_prompts = self._n_prompts[:, [self._column[key] for key in keys]]
        return int((n_prompts > 0).any(1).sum()), int(n_prompts.sum())


def _by_key(score: EditScore) -> dict[Key, list[float]]:
    """Returns all values of one case: by key, one per prompt (or one for generated text)."""
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
    """Returns the steadiness of each prompt: 1 for an unchanged magnitude, 0 for a change by 1."""
    values: dict[Key, list[float]] = {}
    magnitude = STATISTICS["magnitude"]
    for old, new in zip(before.probes, after.probes, strict=True):
        earlier, later = magnitude(old), magnitude(new)
        if earlier is not None and later is not None:
            key = Key(new.perspective, new.group, STEADINESS)
            values.setdefault(key, []).append(max(0.0, 1 - abs(later - earlier)))
    return values


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _gain(
    old: Float[ndarray, " one_and_draws"], new: Float[ndarray, " one_and_draws"]
) -> Float[ndarray, " one_and_draws"]:
    """Computes the share of what was missing before the edit that is there after it.

    A measure that misses less than MIN_HEADROOM over all cases enters as it is after the edit, in
    all draws.
    """
    missing = 1 - old
    if missing[0] < MIN_HEADROOM:
        return new
    return np.where(missing > 1e-9, (new - old) / np.maximum(missing, 1e-9), new)


def _kept(old: ndarray, new: ndarray) -> ndarray:
    """Computes the share of what was there before the edit that is still there; at most 1."""
    return np.where(old > 0, np.minimum(new / np.where(old > 0, old, 1), 1), np.nan)
