"""What a choice of write sites found: effect, separation, editing, and how these go together."""

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
EDITED = (SHARE, SCORE)  # what editing at a site brings
EVERYWHERE = "all positions"
SHOWN = ("effect of relation", "effect of subject", "separation")
PARTS = {  # heading: quantity
    "add": "add lift",
    "paraphrases": "paraphrase lift",
    "removal": "removal lift",
    "neighbours": "neighbours kept",
    "objects": "other objects kept",
    "others": "other relations kept",
}


class Estimate(NamedTuple):
    """A mean over `n` cases with its bootstrap interval; NaN where there are none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> str:
        """With its interval, as a table has it."""
        return estimate(*self[:3])

    @property
    def told_in_percent(self) -> str:
        """A share in percent with its interval, as a table has it."""
        return percent(Interval(*map(np.asarray, self[:3])))


@dataclass(frozen=True)
class SiteNumbers:
    """What was measured at a write site, or one head's rows of W_O, at a key position.

    Args:
        editor: the editor that was tried there, as the command line has it; "" for a head.
        found: by quantity.
    """

    layer: int
    half: Literal["mlp", "attn"]
    head: int | None
    where: KeyPosition
    editor: str
    found: Mapping[str, Estimate]

    def row(self) -> dict[str, Any]:
        """On one line, a column for each number."""
        place = {"layer": self.layer, "half": self.half, "head": self.head, "where": self.where}
        return {**place, "editor": self.editor} | {
            f"{name} {bound}".removesuffix(" mean"): value
            for name, one in self.found.items()
            for bound, value in one._asdict().items()
        }


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ over sites; `rho.n` counts these.

    Args:
        where: a key position, or EVERYWHERE.
    """

    criterion: str
    editing: str
    where: str
    rho: Estimate


@dataclass(frozen=True)
class Control:
    """What editing brings at the sites that a criterion puts first, and at random ones.

    Args:
        n_sites: that are chosen, and drawn.
        chosen, random, difference: means over them.
        best: of the one site at which editing brings most.
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
    """Write sites at key positions, measured and edited; intervals are over cases.

    Args:
        seed: of neighbours, replacements, contexts, own text and the bootstrap.
        n_cases: that could be scored; fewer may have been traced.
        n_best: so many sites are called the best.
        skipped: why cases, or traces of them, could not be used, by their records' keys.
        totals: clean - corrupted, by effect: what there is to restore.
        sites: with their heads, at which no edit was made.
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

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self.tables()))

    @property
    def edited(self) -> list[SiteNumbers]:
        """The sites at which edits were made: all but single heads."""
        return [one for one in self.sites if one.head is None]

    @property
    def best(self) -> list[SiteNumbers]:
        """The sites with the largest mean shares; none where nothing was to gain or to keep."""
        known = [one for one in self.edited if not math.isnan(one.found[SHARE].mean)]
        return sorted(known, key=lambda one: -one.found[SHARE].mean)[: self.n_best]

    @property
    def note(self) -> str:
        """What a reader of the tables needs to know."""
        return (
            f"{len(self.skipped)} cases or traces that could not be used are left out "
            "(records.jsonl says why). That one number goes with another here says nothing of "
            "other cases or models."
        )

    def table(self) -> Table:
        """The sites where editing brings most."""
        totals = ", ".join(f"{name} {one.told} (n = {one.n})" for name, one in self.totals.items())
        return Table(
            f"Where editing brings most: {self.model}, {plural(self.n_cases, 'case')}",
            ("site", *SHOWN, *EDITED, *PARTS),
            tuple(
                (
                    f"L{one.layer} {one.half}, {one.where}",
                    *(one.found[name].told for name in SHOWN),
                    *(one.found[name].told_in_percent for name in EDITED),
                    *(one.found[name].told_in_percent.split(" ")[0] for name in PARTS.values()),
                )
                for one in self.best
            ),
            "Effects in nats; the rest but separation in percent: mean share and Score, then what "
            "they are made of, gained (add, paraphrases, removal) or kept.\n95 % bootstrap "
            f"intervals over cases (seed {self.seed}); chosen and measured on the same cases. "
            f"Total {totals}.",
        )

    def correlation_table(self) -> Table:
        """Whether a criterion goes with editing: everywhere, and at each key position."""
        columns = tuple(dict.fromkeys(one.where for one in self.correlations))
        lines: dict[tuple[str, str], list[str]] = {}
        for one in self.correlations:
            cell = f"{one.rho.told} ({one.rho.n})" if one.rho.n else "-"
            lines.setdefault((one.editing, one.criterion), []).append(cell)
        return Table(
            "Does it go with editing? Rank correlations over sites",
            ("editing", "criterion", *columns),
            tuple((*line, *cells) for line, cells in lines.items()),
            "Spearman's ρ with 95 % bootstrap intervals over cases, and how many sites; every "
            "draw's noise draws ρ towards 0.",
        )

    def control_table(self) -> Table:
        """The sites that a criterion puts first, held against random ones."""
        return Table(
            "The sites that a criterion puts first, against as many random ones",
            ("editing", "criterion", "sites", "first by it", "random", "difference", "best"),
            tuple(
                (
                    one.editing, one.criterion, str(one.n_sites),
                    *(each.told_in_percent
                      for each in (one.chosen, one.random, one.difference, one.best)),
                )
                for one in self.controls
            ),
            "Means in percent with 95 % bootstrap intervals over cases and choices. Best: the site "
            "at which editing brought most on these cases.",
        )  # fmt: skip

    def tables(self) -> list[Table]:
        """The best sites, the correlations, and the control."""
        return [self.table(), self.correlation_table(), self.control_table()]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each site, or head, and key position."""
        return [one.row() for one in self.sites]

    def save(self, folder: RunFolder) -> None:
        """sites.json and sites.csv, and the best sites in chosen.json."""
        super().save(folder)
        folder.write_json("chosen.json", self.best)
