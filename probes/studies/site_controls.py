"""Statistics of `choose_sites`: does any criterion tell, before editing, where editing works best?

Computes means with bootstrap intervals for every candidate, rank correlations between criteria
(causal effects, separation) and editing results, and a control: how well editing works at the sites
that a criterion ranks first, compared with sites chosen at random. Hase et al. 2023 (arXiv
2301.04213) found that causal tracing does not predict where editing works.
"""

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

# means of each candidate: over all cases in row 0, over a bootstrap draw of cases in each other row
Drawn = Float[ndarray, "one_and_draws site"]
Rows = Mapping[str, Drawn]  # by quantity


@dataclass(frozen=True)
class Measured:
    """All measurements of the study, case by case.

    Args:
        places: the candidates, including heads, at which no edits are made.
        tables: measured quantities by name; NaN where a case has no value.
        totals: total effects, by the names of EFFECTS.
        before: each case's score before any edit.
        outcomes: results of the edits at each candidate, in the order of the cases.
    """

    places: Sequence[CandidateSite]
    tables: Mapping[str, Float[ndarray, "case site"]]
    totals: Mapping[str, Float[ndarray, " case"]]
    before: Sequence[EditScore]
    outcomes: Mapping[CandidateSite, Sequence[Outcome]]


def drawn(measured: Measured, seed: int) -> Rows:
    """Averages every quantity over all cases and over the same bootstrap draws of cases."""
    weights = resamples(len(measured.before), DRAWS, seed)
    rows = {name: resampled_means(table, weights) for name, table in measured.tables.items()}
    for effect in EFFECTS:
        rows[f"{effect} × separation"] = rows[effect] * rows["separation"]
    return {**rows, **by_editing(measured, seed)}


def estimates(measured: Measured, rows: Rows) -> list[dict[str, Estimate]]:
    """Means and intervals for each candidate, by quantity."""

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
    """Means and intervals of the total effects, over the cases that could be traced."""
    weights = resamples(len(measured.before), DRAWS, seed)
    return {
        name: estimated(
            resampled_means(totals[:, None], weights)[:, 0], int((~np.isnan(totals)).sum())
        )
        for name, totals in measured.totals.items()
    }


def estimated(row: Float[ndarray, " one_and_draws"], n: int) -> Estimate:
    """Takes the first number as the estimate, and its interval from the draws after it."""
    return Estimate(*map(float, row_interval(row)), n=n)


def correlations(rows: Rows, places: Sequence[CandidateSite]) -> Iterator[Correlation]:
    """Correlates each criterion with each editing result: over all sites, and by key position."""
    for editing in EDITED:
        for criterion in CRITERIA:
            for where in (EVERYWHERE, *positions_of(places)):
                at_position = np.array([where in (EVERYWHERE, site.where) for site in places])
                both = at_position & ~np.isnan(rows[criterion][0] + rows[editing][0])
                rho = rank_correlation(rows[criterion][:, both], rows[editing][:, both])
                yield Correlation(criterion, editing, where, estimated(rho, int(both.sum())))


def controls(rows: Rows, n_sites: int, seed: int) -> Iterator[Control]:
    """Compares editing at the sites that a criterion ranks first with editing at random sites.

    Sites are ranked anew in every bootstrap draw, so that the interval includes the uncertainty of
    the ranking.

    Args:
        n_sites: number of sites to choose.
    """
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
            # Row 0 is the estimate over all cases. The lottery has put the mean over one random
            # choice of n sites there, which would make the estimate depend on the seed. Its
            # expected value is known: every site is equally likely to be chosen, so it is the mean
            # over all usable sites. The other rows keep their random choices, each a different
            # one, so that the interval covers both the draw of cases and the choice of sites.
            random[0] = result[0].mean()
            found = [
                estimated(row, n)
                for row in (chosen, random, chosen - random, result[:, result[0].argmax()])
            ]
            yield Control(criterion, editing, n, *found)


def by_editing(measured: Measured, seed: int) -> Rows:
    """The results of editing at each candidate: Score, mean share and its parts; NaN for heads."""
    shape = (1 + DRAWS, len(measured.places))
    rows = {name: np.full(shape, np.nan) for name in (*EDITED, *PARTS.values())}
    score = Key("relation", "Score", "lifts")
    for index, site in enumerate(measured.places):
        if site not in measured.outcomes:
            continue
        after = [
            outcome.counted(before)
            for outcome, before in zip(measured.outcomes[site], measured.before, strict=True)
        ]
        (found,) = shares(measured.before, after, [score], DRAWS, seed)
        rows[SCORE][:, index] = found.score
        rows[SHARE][:, index] = found.mean
        for part, row in found.parts.items():
            rows[PARTS[part]][:, index] = row
    return rows
