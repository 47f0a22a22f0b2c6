"""Study: at which write site and key position should a relation edit be written?

ROME chooses its layer by causal tracing, but tracing need not show where edits work best (Hase et
al. 2023, arXiv 2301.04213). This study measures causal effects and the separation of keys at every
candidate, also edits there, and reports which of the criteria predicts where editing works.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor, PreparedEditor
from kedit.editors.joint import Joint
from kedit.editors.registry import label_of
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.models.prompts import KeyPosition
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.results.sites import SiteFindings, SiteNumbers
from kedit.scoring.score import Scoring
from kedit.studies.edits import Assessment, edit_cases
from kedit.studies.prepare import Arm
from kedit.studies.protocol import EditProtocol
from kedit.studies.scoring import scores_before
from probes.studies.candidate_sites import (
    POSITIONS,
    CandidateSite,
    candidate_sites,
    plain_joint,
    positions_of,
)
from probes.studies.site_controls import (
    Measured,
    controls,
    correlations,
    drawn,
    estimates,
    total_effects,
)
from probes.studies.site_effects import EFFECTS, SEPARATIONS, Records, effects, separations


# more parameters than six: a study's settings are plain arguments
def choose_sites(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    *,
    pool: Sequence[EditCase] | None = None,
    positions: Sequence[KeyPosition] = POSITIONS,
    layers: Sequence[int] = (),
    n_neighbours: int = 12,
    settings: str = "",
    best: int = 5,
    text: str = "",
    tokens_per_dim: int = 4,
    held_out_text: str = "",
    chunks: int = 2,
    chunk_tokens: int = 128,
    seed: int = 0,
    journal: Journal | None = None,
) -> SiteFindings:
    """Traces each case, compares its keys, and edits it at every site; then correlates the results.

    Args:
        cases: cases with a relation request. Editors should not be tested on them later, since the
            sites are chosen on them.
        pool: cases whose words replace others; None: `cases`.
        positions: key positions to try.
        layers: layers to try; empty: all layers.
        n_neighbours: number of neighbours per case, from whose keys the edit's are separated.
        settings: further settings of the joint editor, each as field=value, such as
            neighbours=8:weight=3.
        best: number of sites that are chosen by each criterion, and of random sites.
        text: text whose keys' second moment edits should spare (`kedit.studies.prepare.prepare`).
        tokens_per_dim: number of its tokens per dimension of the key.
        held_out_text: text whose perplexity is watched (`kedit.scoring.drift.held_out`).
        chunks: number of held-out chunks.
        chunk_tokens: number of tokens per held-out chunk.
        seed: seed of neighbours, replacements, contexts, kedit's own text and the bootstrap.
        journal: records that exist already are not computed again.

    Raises:
        InputError: there is no such layer or setting, or no case can be scored.
    """
    protocol = EditProtocol(text, tokens_per_dim, held_out_text, chunks, chunk_tokens, seed)
    journal = protocol.begin(
        "choose_sites", model, journal, n_neighbours=n_neighbours, settings=settings
    )
    candidates, plain = candidate_sites(model, layers, positions), plain_joint(model, settings)
    assessment = protocol.assessment(model, Scoring(say=False, seed=seed))
    before = scores_before(model, cases, assessment.scoring, journal)
    usable, pool = list(before), cases if pool is None else pool
    traced = {
        name: effects(model, usable, pool, candidates, name, seed, journal) for name in EFFECTS
    }
    apart = separations(
        model, usable, candidates, n_neighbours, text, tokens_per_dim, seed, journal
    )
    make = functools.partial(protocol.prepare, model, sides=["relation"])
    editors = {
        site: (site.spec(settings), site.editor(plain)) for site in candidates if site.head is None
    }
    outcomes = _edits(model, before, editors, make, assessment, journal)
    tables = {name: _table(candidates, records, "nats") for name, records in traced.items()}
    tables |= {name: _table(candidates, apart, name) for name in SEPARATIONS}
    totals = {
        name: np.array([record.get("total", np.nan) for record in records])
        for name, records in traced.items()
    }
    measured = Measured(candidates, tables, totals, list(before.values()), outcomes)
    skipped = {
        key: record["skipped"] for key, record in journal.records.items() if "skipped" in record
    }
    specs = {site: spec for site, (spec, _) in editors.items()}
    return summed_up(measured, name_of(model), model.cfg.n_layers, specs, skipped, best, seed)


# seven parameters: what was measured, and what the result reports with it
def summed_up(
    measured: Measured,
    model: str,
    n_layers: int,
    specs: Mapping[CandidateSite, str],
    skipped: Mapping[str, str],
    best: int,
    seed: int,
) -> SiteFindings:
    """Computes means with intervals, correlations with editing, and controls.

    Args:
        measured: all measurements.
        model: the model's name.
        n_layers: its number of layers.
        specs: the spec of each candidate's editor.
        skipped: why cases were skipped, by their records' keys.
        best: number of sites that are chosen by each criterion.
        seed: seed of the bootstrap and of the random sites.
    """
    rows = drawn(measured, seed)
    sites = [
        SiteNumbers(**site._asdict(), editor=specs.get(site, ""), found=found)
        for site, found in zip(measured.places, estimates(measured, rows), strict=True)
    ]
    # correlations and controls are over whole matrices, since heads are not edited alone
    columns = [index for index, site in enumerate(measured.places) if site.head is None]
    edited_sites = [measured.places[index] for index in columns]
    edited = {name: row[:, columns] for name, row in rows.items()}
    return SiteFindings(
        model=model,
        seed=seed,
        n_cases=len(measured.before),
        n_best=best,
        skipped=skipped,
        totals=total_effects(measured, seed),
        sites=tuple(sites),
        correlations=tuple(correlations(edited, edited_sites)),
        controls=tuple(controls(edited, best, seed)),
        n_layers=n_layers,
    )


def _table(
    candidates: Sequence[CandidateSite], records: Records, field: str
) -> Float[ndarray, "case site"]:
    """Arranges records by case and candidate, with NaN where a record has no value."""
    rows = [record.get(field, {}) for record in records]
    return np.array([[row.get(site.name) for site in candidates] for row in rows], dtype=float)


def _edits(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    editors: Mapping[CandidateSite, tuple[str, Joint]],
    make: Callable[[Sequence[Editor]], list[Arm]],
    assessment: Assessment,
    journal: Journal,
) -> dict[CandidateSite, list[Outcome]]:
    """Edits each case at every site, one key position after the other: moments need much memory."""
    found: dict[CandidateSite, list[Outcome]] = {}
    for where in positions_of(editors):
        at_position = {site: editors[site] for site in editors if site.where == where}
        prepare_all = functools.cache(
            functools.partial(make, [editor for _, editor in at_position.values()])
        )
        arms = {
            site: Arm(spec, "relation", _nth_of(prepare_all, index), label_of(editor))
            for index, (site, (spec, editor)) in enumerate(at_position.items())
        }
        if any(arm.key(case) not in journal.records for arm in arms.values() for case in cases):
            prepare_all()  # now, so that its time does not count as the first edit's
        outcomes = edit_cases(model, cases, list(arms.values()), assessment, journal)
        found |= {site: outcomes[arm] for site, arm in arms.items()}
    return found


def _nth_of(prepare_all: Callable[[], list[Arm]], index: int) -> PreparedEditor:
    """One of several editors, all of which are prepared together at the first edit of any."""
    return lambda requests: prepare_all()[index].make(requests)
