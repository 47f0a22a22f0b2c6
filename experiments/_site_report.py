"""From measured sites to means with intervals, rank correlations, and a control; figure, files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._run import RunFolder
from experiments._site_tables import print_tables
from experiments._sites import EFFECTS, Measured, Place, positions
from experiments._tables import write_rows

if TYPE_CHECKING:
    import numpy as np

    from experiments.choose_sites import Config
    from figures.sites import Estimate, SiteNumbers

DRAWS = 2000
EDITED = ("mean share", "Score")
CRITERIA = (*EFFECTS, "separation", *(f"{effect} × separation" for effect in EFFECTS))
EVERYWHERE = "all positions"
Rows = Mapping[str, "np.ndarray"]  # by quantity: [1 + draws, place], first over all cases


class Correlation(NamedTuple):
    """Spearman's ρ over sites; `rho.n` counts these.

    Args:
        where: a key position, or EVERYWHERE.
    """

    criterion: str
    editing: str
    where: str
    rho: "Estimate"


class Control(NamedTuple):
    """What editing brings at the sites that a criterion puts first, and at random ones.

    Args:
        n_sites: that are chosen, and drawn.
        chosen, random, difference: means over them.
        best: of the one site at which editing brings most.
    """

    criterion: str
    editing: str
    n_sites: int
    chosen: "Estimate"
    random: "Estimate"
    difference: "Estimate"
    best: "Estimate"


@dataclass(frozen=True)
class Findings:
    """All that is told of a run; intervals are over cases.

    Args:
        totals: clean - corrupted, by effect: what there is to restore.
    """

    totals: "Mapping[str, Estimate]"
    sites: "Sequence[SiteNumbers]"
    correlations: Sequence[Correlation]
    controls: Sequence[Control]
    n_cases: int

    def best(self, n: int) -> "list[SiteNumbers]":
        """The sites with the largest mean shares; none where nothing was to gain or to keep."""
        edited = [
            one
            for one in self.sites
            if one.editor and one.found["mean share"].mean == one.found["mean share"].mean
        ]
        return sorted(edited, key=lambda one: -one.found["mean share"].mean)[:n]


def finish(config: "Config", folder: RunFolder, measured: Measured) -> None:
    """Numbers and the figure into the folder; tables and the folder's name to the screen."""
    from figures.sites import Sample, sites
    from figures.style import save

    findings = summed_up(config, measured)
    skipped = {key: one["skipped"] for key, one in folder.records.items() if "skipped" in one}
    folder.write_json(
        "sites.json",
        {
            "cases": findings.n_cases,
            "skipped": skipped,
            "total effects": {name: plain(one) for name, one in findings.totals.items()},
            "sites": [one.to_record() for one in findings.sites],
            "correlations": [plain(one) for one in findings.correlations],
            "against random sites": [plain(one) for one in findings.controls],
        },
    )
    chosen = [one.to_record() for one in findings.best(config.best)]
    folder.write_json("chosen.json", chosen)
    write_rows(folder.path / "sites.csv", _rows(findings.sites))
    overall = {
        one.criterion: one.rho
        for one in findings.correlations
        if (one.editing, one.where) == (EDITED[0], EVERYWHERE)
    }
    sample = Sample(config.model, findings.n_cases, config.seed)
    save(sites(findings.sites, overall, sample), folder.path, "sites")
    print_tables(config, findings, len(skipped), folder.path)


def summed_up(config: "Config", measured: Measured) -> Findings:
    from figures.sites import SiteNumbers
    from kedit.stats import resampled_means, resamples

    n_cases = len(measured.before)
    weights = resamples(n_cases, DRAWS, config.seed)
    rows = {name: resampled_means(table, weights) for name, table in measured.tables.items()}
    for effect in EFFECTS:
        rows[f"{effect} × separation"] = rows[effect] * rows["separation"]
    counts = {name: (table == table).sum(0) for name, table in measured.tables.items()}
    rows |= _edited(measured, config.seed)

    def estimate(name: str, index: int) -> "Estimate":
        row = rows[name][:, index]
        n = counts[name][index] if name in counts else n_cases * (row[0] == row[0])
        return estimated(row, int(n))

    shown = [name for name in rows if "×" not in name]
    sites = [
        SiteNumbers(
            **place._asdict(),
            editor=place.told(config.settings) if place in measured.outcomes else "",
            found={name: estimate(name, index) for name in shown},
        )
        for index, place in enumerate(measured.places)
    ]
    own = [index for index, place in enumerate(measured.places) if place.head is None]
    edited, places = (
        {name: row[:, own] for name, row in rows.items()},
        [measured.places[i] for i in own],
    )
    totals = {
        name: estimated(resampled_means(own[:, None], weights)[:, 0], int((own == own).sum()))
        for name, own in measured.totals.items()
    }
    return Findings(
        totals,
        sites,
        list(correlations(edited, places)),
        list(controls(edited, config.best, config.seed)),
        n_cases,
    )


def estimated(row: "np.ndarray", n: int) -> "Estimate":
    """The first number, with the interval of the draws behind it."""
    from figures.sites import Estimate
    from kedit.stats import row_interval

    return Estimate(*map(float, row_interval(row)), n=n)


def correlations(rows: Rows, places: Sequence[Place]) -> Iterator[Correlation]:
    """Of each criterion with each editing result: everywhere, and at each key position."""
    import numpy as np

    from kedit.stats import rank_correlation

    for editing in EDITED:
        for criterion in CRITERIA:
            for where in (EVERYWHERE, *positions(places)):
                at = np.array([where in (EVERYWHERE, place.where) for place in places])
                both = at & ~np.isnan(rows[criterion][0] + rows[editing][0])
                rho = rank_correlation(rows[criterion][:, both], rows[editing][:, both])
                yield Correlation(criterion, editing, where, estimated(rho, int(both.sum())))


def controls(rows: Rows, n_sites: int, seed: int) -> Iterator[Control]:
    """The sites that each criterion puts first against random ones, anew in every draw."""
    import numpy as np

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
            random[0] = result[0].mean()  # what is to be expected of them
            found = [
                estimated(row, n)
                for row in (chosen, random, chosen - random, result[:, result[0].argmax()])
            ]
            yield Control(criterion, editing, n, *found)


def _edited(measured: Measured, seed: int) -> dict[str, "np.ndarray"]:
    """What editing at each place brought: Score, mean share, and the shares; NaN for heads."""
    import numpy as np

    from kedit.scoring.summary import (
        R_EFFICACY,
        R_KEPT,
        R_OBJECTS,
        R_OTHERS,
        R_PARAPHRASE,
        R_REMOVAL,
        Key,
        shares,
    )  # fmt: skip

    parts = {
        R_EFFICACY: "add lift",
        R_PARAPHRASE: "paraphrase lift",
        R_REMOVAL: "removal lift",
        R_KEPT: "neighbours kept",
        R_OBJECTS: "other objects kept",
        R_OTHERS: "other relations kept",
    }
    shape = (1 + DRAWS, len(measured.places))
    rows = {name: np.full(shape, np.nan) for name in (*EDITED, *parts.values())}
    for index, place in enumerate(measured.places):
        if place not in measured.outcomes:
            continue
        before, score = measured.before, Key("relation", "Score", "lifts")
        after = [
            one.counted(old) for one, old in zip(measured.outcomes[place], before, strict=True)
        ]
        (found,) = shares(before, after, [score], DRAWS, seed)
        rows["Score"][:, index] = found.score
        rows["mean share"][:, index] = found.mean
        for part, row in found.parts.items():
            rows[parts[part]][:, index] = row
    return rows


def plain(one: "Estimate | Correlation | Control") -> dict[str, Any]:
    """For JSON, which has no NaN."""
    return {
        name: plain(value) if hasattr(value, "_asdict") else None if value != value else value
        for name, value in one._asdict().items()
    }


def _rows(sites: "Sequence[SiteNumbers]") -> list[dict[str, Any]]:
    """A line for each site, or head, and key position."""
    rows = []
    for one in sites:
        record = one.to_record()
        found = record.pop("found")
        rows.append(
            record
            | {
                f"{name} {bound}".removesuffix(" mean"): value
                for name, numbers in found.items()
                for bound, value in numbers.items()
            }
        )
    return rows
