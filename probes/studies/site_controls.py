"""From measured sites to means with intervals, rank correlations, and a control by chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.results.sites import EDITED, EVERYWHERE, SCORE, SHARE, Control, Correlation, Estimate
from kedit.scoring.summary import (
    R_EFFICACY,
    R_KEPT,
    R_OBJECTS,
    R_OTHERS,
    R_PARAPHRASE,
    R_REMOVAL,
    Key,
    shares,
)
from kedit.stats import rank_correlation, resampled_means, resamples, row_interval
from probes.studies.candidate_sites import CandidateSite, positions_of
from probes.studies.site_effects import EFFECTS

DRAWS = 2000
CRITERIA = (*EFFECTS, "separation", *(f"{effect} × separation" for effect in EFFECTS))
PARTS = {
    R_EFFICACY: "add lift",
    R_PARAPHRASE: "paraphrase lift",
    R_REMOVAL: "removal lift",
    R_KEPT: "neighbours kept",
    R_OBJECTS: "other objects kept",
    R_OTHERS: "other relations kept",
}

Drawn = Float[ndarray, "one_and_draws place"]  # over all cases, then over every draw of them
Rows = Mapping[str, Drawn]  # by quantity


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Args:
        places: with their heads, which nothing was written to.
        tables: by quantity; NaN where there is no number.
        totals: what each corruption costs, by effect.
        before: each case's score before any edit.
        outcomes: by place that was written to, in the order of the cases.
    """

    places: Sequence[CandidateSite]
    tables: Mapping[str, Float[ndarray, "case place"]]
    totals: Mapping[str, Float[ndarray, " case"]]
    before: Sequence[EditScore]
    outcomes: Mapping[CandidateSite, Sequence[Outcome]]


def drawn(measured: Measured, seed: int) -> Rows:
    """Every quantity over the same draws of cases."""
    weights = resamples(len(measured.before), DRAWS, seed)
    rows = {name: resampled_means(table, weights) for name, table in measured.tables.items()}
    for effect in EFFECTS:
        rows[f"{effect} × separation"] = rows[effect] * rows["separation"]
    return {**rows, **by_editing(measured, seed)}


def estimates(measured: Measured, rows: Rows) -> list[dict[str, Estimate]]:
    """Of each place, by quantity."""

    def n_of(name: str, index: int) -> int:
        if name in measured.tables:
            return int((~np.isnan(measured.tables[name][:, index])).sum())
        return 0 if np.isnan(rows[name][0, index]) else len(measured.before)

    shown = [name for name in rows if "×" not in name]
    return [
        {name: estimated(rows[name][:, index], n_of(name, index)) for name in shown}
        for index in range(len(measured.places))
    ]


def total_effects(measured: Measured, seed: int) -> dict[str, Estimate]:
    """What each corruption costs, over the cases that could be traced."""
    weights = resamples(len(measured.before), DRAWS, seed)
    return {
        name: estimated(
            resampled_means(own[:, None], weights)[:, 0], int((~np.isnan(own)).sum())
        )
        for name, own in measured.totals.items()
    }  # fmt: skip


def estimated(row: Float[ndarray, " one_and_draws"], n: int) -> Estimate:
    """The first number, with the interval of the draws behind it."""
    return Estimate(*map(float, row_interval(row)), n=n)


def correlations(rows: Rows, places: Sequence[CandidateSite]) -> Iterator[Correlation]:
    """Of each criterion with each editing result: everywhere, and at each key position."""
    for editing in EDITED:
        for criterion in CRITERIA:
            for where in (EVERYWHERE, *positions_of(places)):
                at = np.array([where in (EVERYWHERE, place.where) for place in places])
                both = at & ~np.isnan(rows[criterion][0] + rows[editing][0])
                rho = rank_correlation(rows[criterion][:, both], rows[editing][:, both])
                yield Correlation(criterion, editing, where, estimated(rho, int(both.sum())))


def controls(rows: Rows, n_sites: int, seed: int) -> Iterator[Control]:
    """The sites that each criterion puts first against random ones, anew in every draw."""
    for editing in EDITED:
        for criterion in CRITERIA:
            usable = ~np.isnan(rows[criterion][0] + rows[editing][0])
            by, result = rows[criterion][:, usable], rows[editing][:, usable]
            n = min(n_sites, result.shape[1])
            if not n:
                continue
            lottery = np.random.default_rng(seed).random(result.shape)
            chosen, random = (
                np.take_along_axis(result, np.argsort(-by_what, 1, "stable")[:, :n], 1).mean(1)
                for by_what in (by, lottery)
            )
            # The estimate of random sites is what is to be expected of them: the mean over all
            # usable sites. One choice by the lottery would be an accident of the seed. Every draw
            # behind it takes other sites, so that the interval holds the accident of the choice.
            random[0] = result[0].mean()
            found = [
                estimated(row, n)
                for row in (chosen, random, chosen - random, result[:, result[0].argmax()])
            ]
            yield Control(criterion, editing, n, *found)


def by_editing(measured: Measured, seed: int) -> Rows:
    """What editing at each place brought: Score, mean share, and the shares; NaN for heads."""
    shape = (1 + DRAWS, len(measured.places))
    rows = {name: np.full(shape, np.nan) for name in (*EDITED, *PARTS.values())}
    score = Key("relation", "Score", "lifts")
    for index, place in enumerate(measured.places):
        if place not in measured.outcomes:
            continue
        after = [
            one.counted(old)
            for one, old in zip(measured.outcomes[place], measured.before, strict=True)
        ]
        (found,) = shares(measured.before, after, [score], DRAWS, seed)
        rows[SCORE][:, index] = found.score
        rows[SHARE][:, index] = found.mean
        for part, row in found.parts.items():
            rows[PARTS[part]][:, index] = row
    return rows
