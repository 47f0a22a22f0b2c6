"""What choose_sites prints: the best sites, rank correlations, and chosen against random sites."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._run import console
from experiments._tables import percent, plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from experiments._site_report import Control, Correlation, Findings
    from experiments.choose_sites import Config
    from figures.sites import Estimate

EFFECTS = ("effect of relation", "effect of subject", "separation")
PARTS = {  # heading: quantity
    "add": "add lift",
    "paraphrases": "paraphrase lift",
    "removal": "removal lift",
    "neighbours": "neighbours kept",
    "objects": "other objects kept",
    "others": "other relations kept",
}


def print_tables(config: "Config", findings: "Findings", n_skipped: int, path: Path) -> None:
    screen = console(175)
    screen.print(_best(config, findings))
    screen.print(_correlated(config, findings.correlations))
    screen.print(_against_random(config, findings.controls))
    screen.print(
        f"{n_skipped} cases or traces that could not be used are left out (records.jsonl says "
        "why). That one number goes with another here says nothing of other cases or models."
    )
    screen.print(f"Everything is in {path}", soft_wrap=True)


def _best(config: "Config", findings: "Findings") -> "Table":
    from figures.style import estimate, plural

    totals = ", ".join(
        f"{name} {estimate(*one[:3])} (n = {one.n})" for name, one in findings.totals.items()
    )
    table = plain_table(
        f"Where editing brings most: {config.model}, {plural(findings.n_cases, 'case')}",
        "Effects in nats; the rest but separation in percent: mean share and Score, then what they "
        "are made of, gained (add, paraphrases, removal) or kept.\n95 % bootstrap intervals over "
        f"cases (seed {config.seed}); chosen and measured on the same cases. Total {totals}.",
        ("site", *EFFECTS, "mean share", "Score", *PARTS),
    )
    for one in findings.best(config.best):
        found = one.found
        table.add_row(
            f"L{one.layer} {one.half}, {one.where}",
            *(estimate(*found[name][:3]) for name in EFFECTS),
            *(_share(found[name]) for name in ("mean share", "Score")),
            *(_share(found[name]).split(" ")[0] for name in PARTS.values()),
        )
    return table


def _correlated(config: "Config", found: "Sequence[Correlation]") -> "Table":
    from figures.style import estimate

    columns = list(dict.fromkeys(one.where for one in found))
    table = plain_table(
        "Does it go with editing? Rank correlations over sites",
        "Spearman's ρ with 95 % bootstrap intervals over cases, and how many sites; every draw's "
        "noise draws ρ towards 0.",
        ("editing", "criterion", *columns),
    )
    for editing in dict.fromkeys(one.editing for one in found):
        for criterion in dict.fromkeys(one.criterion for one in found):
            row = [one.rho for one in found if one[:2] == (criterion, editing)]
            cells = [f"{estimate(*rho[:3])} ({rho.n})" if rho.n else "-" for rho in row]
            table.add_row(editing, criterion, *cells)
        table.add_section()
    return table


def _against_random(config: "Config", found: "Sequence[Control]") -> "Table":
    table = plain_table(
        "The sites that a criterion puts first, against as many random ones",
        "Means in percent with 95 % bootstrap intervals over cases and choices. Best: the site at "
        "which editing brought most on these cases.",
        ("editing", "criterion", "sites", "first by it", "random", "difference", "best"),
    )
    for one in found:
        cells = [_share(e) for e in (one.chosen, one.random, one.difference, one.best)]
        table.add_row(one.editing, one.criterion, str(one.n_sites), *cells)
    return table


def _share(one: "Estimate") -> str:
    """In percent; "-" where there is no number."""
    import numpy as np

    from kedit.stats import Interval

    return percent(Interval(*map(np.asarray, one[:3])))
