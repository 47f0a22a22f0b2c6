"""The result of `choose_sites`: criteria for write sites, edits there, and their correlations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from kedit.models.prompts import KeyPosition
from kedit.results.base import Result
from kedit.run_folder import RunFolder
from kedit.stats import Interval
from kedit.tables import Table, estimate, percent, plural

SHARE, SCORE = "mean share", "Score"
EDITED = (SHARE, SCORE)  # the measures of how well an edit at a site works
EVERYWHERE = "all positions"
SHOWN = ("effect of relation", "effect of subject", "separation")
PARTS = {  # column head: quantity
    "addition": "add lift",
    "paraphrases": "paraphrase lift",
    "removal": "removal lift",
    "neighbours": "neighbours kept",
    "objects": "other objects kept",
    "others": "other relations kept",
}


class Estimate(NamedTuple):
    """A mean over `n` cases with its bootstrap interval; NaN if there are no cases."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def formatted(self) -> str:
        """The mean with its interval, as text for a table."""
        return estimate(*self[:3])

    @property
    def formatted_percent(self) -> str:
        """The mean, a share, in percent with its interval, as text for a table."""
        return percent(Interval(*map(np.asarray, self[:3])))


@dataclass(frozen=True)
class SiteNumbers:
    """What was measured at a write site (or one head's rows of W_O) and a key position.

    Args:
        layer: layer of the site.
        half: "mlp" for W_out, "attn" for W_O.
        head: the head, if only its rows of W_O were measured; None for a whole site.
        where: the key position.
        editor: spec of the editor that edited there; "" for a head.
        found: the estimates, by quantity.
    """

    layer: int
    half: Literal["mlp", "attn"]
    head: int | None
    where: KeyPosition
    editor: str
    found: Mapping[str, Estimate]

    def row(self) -> dict[str, Any]:
        """One row with a column for each number."""
        site = {"layer": self.layer, "half": self.half, "head": self.head, "where": self.where}
        return {**site, "editor": self.editor} | {
            f"{name} {bound}".removesuffix(" mean"): value
            for name, quantity in self.found.items()
            for bound, value in quantity._asdict().items()
        }


@dataclass(frozen=True)
class Correlation:
    """Rank correlation over sites between a criterion and how well edits there work.

    Args:
        criterion: the criterion.
        editing: the measure of editing, one of EDITED.
        where: the key position of the sites, or EVERYWHERE.
        rho: Spearman's ρ; `rho.n` is the number of sites.
    """

    criterion: str
    editing: str
    where: str
    rho: Estimate


@dataclass(frozen=True)
class Control:
    """How well edits work at the sites that a criterion ranks first, compared with random sites.

    Args:
        criterion: the criterion by which sites are chosen.
        editing: the measure of editing, one of EDITED.
        n_sites: number of chosen sites, and of random sites.
        chosen, random, difference: mean over the chosen sites, mean over random sites, and their
            difference.
        best: the value at the site with the largest one.
    """

    criterion: str
    editing: str
    n_sites: int
    chosen: Estimate
    random: Estimate
    difference: Estimate
    best: Estimate


@dataclass(frozen=True)
class SiteFindings(Result):
    """Criteria and edits for write sites at key positions; intervals are over cases.

    Args:
        model: name of the model.
        seed: seed of neighbours, replacements, contexts, generated text and the bootstrap.
        n_cases: number of cases that could be scored; fewer may have been traced.
        n_best: number of sites that count as the best ones.
        skipped: why cases or their traces could not be used, by the keys of their records.
        totals: total effect (clean - corrupted) of each kind of effect, in nats.
        sites: the numbers at all sites, and at single heads, where no edit was made.
        correlations: correlations between criteria and editing.
        controls: chosen sites compared with random sites.
        n_layers: number of layers of the model, measured or not.
    """

    FILE = "sites.json"

    model: str
    seed: int
    n_cases: int
    n_best: int
    skipped: Mapping[str, str]
    totals: Mapping[str, Estimate]
    sites: tuple[SiteNumbers, ...]
    correlations: tuple[Correlation, ...]
    controls: tuple[Control, ...]
    n_layers: int

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self.tables()))

    @property
    def edited(self) -> list[SiteNumbers]:
        """The sites at which edits were made: all but single heads."""
        return [site for site in self.sites if site.head is None]

    @property
    def best(self) -> list[SiteNumbers]:
        """The sites with the largest mean shares; sites without a mean share are left out."""
        known = [site for site in self.edited if not math.isnan(site.found[SHARE].mean)]
        return sorted(known, key=lambda site: -site.found[SHARE].mean)[: self.n_best]

    @property
    def unmeasured(self) -> list[str]:
        """The parts of the mean share that no site has a value of: no case had what they need."""
        return [
            part
            for part, name in PARTS.items()
            if all(math.isnan(site.found[name].mean) for site in self.edited)
        ]

    @property
    def note(self) -> str:
        """A remark on the tables: what was left out, and what a correlation does not show."""
        return (
            f"{len(self.skipped)} cases or traces could not be used and are left out "
            "(records.jsonl says why). A correlation on these cases need not hold for other cases "
            "or models."
        )

    def table(self) -> Table:
        """The sites where edits work best; all edited sites if none has a mean share."""
        listed = "Sites where edits work best" if self.best else "Sites, none with a mean share"
        lacking = ""
        if self.unmeasured:
            lacking = (
                f"\nNo mean share and no Score without {' and '.join(self.unmeasured)}: the model "
                "answered no such prompt right before the edit."
            )
        totals = ", ".join(
            f"{name} {total.formatted} (n = {total.n})" for name, total in self.totals.items()
        )
        return Table(
            f"{listed}: {self.model}, {plural(self.n_cases, 'case')}",
            ("site", *SHOWN, *EDITED, *PARTS),
            tuple(
                (
                    f"L{site.layer} {site.half}, {site.where}",
                    *(site.found[name].formatted for name in SHOWN),
                    *(site.found[name].formatted_percent for name in EDITED),
                    *(site.found[name].formatted_percent.split(" ")[0] for name in PARTS.values()),
                )
                for site in self.best or self.edited
            ),
            "Effects in nats, separation from 0 to 1, all others in percent. Mean share and Score "
            "summarise the columns after them: shares gained (addition, paraphrases, removal) and "
            "shares kept (neighbours, objects, others).\n95 % bootstrap intervals over cases "
            f"(seed {self.seed}). The best sites are chosen and measured on the same cases, so "
            f"their values are likely too high. Total {totals}.{lacking}",
        )

    def correlation_table(self) -> Table:
        """Correlations between criteria and editing, over all sites and at each key position."""
        columns = tuple(dict.fromkeys(correlation.where for correlation in self.correlations))
        lines: dict[tuple[str, str], list[str]] = {}
        for correlation in self.correlations:
            cell = (
                f"{correlation.rho.formatted} ({correlation.rho.n})" if correlation.rho.n else "-"
            )
            lines.setdefault((correlation.editing, correlation.criterion), []).append(cell)
        return Table(
            "Rank correlations over sites between criteria and editing",
            ("editing", "criterion", *columns),
            tuple((*line, *cells) for line, cells in lines.items()),
            "Spearman's ρ with 95 % bootstrap intervals over cases, and the number of sites. Noise "
            "in the bootstrap draws moves the intervals towards 0.",
        )

    def control_table(self) -> Table:
        """The sites that a criterion ranks first, compared with random sites."""
        return Table(
            "Sites that a criterion ranks first, compared with the same number of random sites",
            ("editing", "criterion", "sites", "chosen", "random", "difference", "best"),
            tuple(
                (
                    control.editing, control.criterion, str(control.n_sites),
                    *(mean.formatted_percent for mean in (
                        control.chosen, control.random, control.difference, control.best,
                    )),
                )
                for control in self.controls
            ),
            "Means in percent with 95 % bootstrap intervals over cases and choices of sites. best: "
            "the site at which edits worked best on these cases.",
        )  # fmt: skip

    def tables(self) -> list[Table]:
        """The best sites, the correlations, and the control."""
        return [self.table(), self.correlation_table(), self.control_table()]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each site or head, and key position."""
        return [site.row() for site in self.sites]

    def save(self, folder: RunFolder) -> None:
        """Writes sites.json, sites.csv, and the best sites to chosen.json."""
        super().save(folder)
        folder.write_json("chosen.json", self.best)
