"""Where should a relation edit be written? Causal effect, separation and editing, site by site."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor, PreparedEditor
from kedit.editing.provenance import fingerprint
from kedit.editors.joint import Joint
from kedit.facts import EditCase
from kedit.journal import Journal
from kedit.models.load import name_of
from kedit.models.prompts import KeyPosition
from kedit.results.outcomes import Outcome
from kedit.results.scores import EditScore
from kedit.results.sites import SiteFindings, SiteNumbers
from kedit.scoring.score import Scoring
from kedit.studies.edits import Assessment, edit_cases
from kedit.studies.prepare import Arm, prepare
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


# plain settings, each by its name
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
    """Traces each case, compares its keys, and edits it at every site; then what goes with what.

    Args:
        cases: with a relation side; nothing should be tested on them later.
        pool: cases whose words replace others; None: `cases`.
        positions: whose keys are taken.
        layers: none for all of the model's.
        n_neighbours: of each case, that its keys are to be told from.
        settings: more of the joint editor's, each as field=value: neighbours=8:weight=3.
        best: so many sites are chosen, and held against as many random ones.
        text, tokens_per_dim: whose statistics edits are to spare (`kedit.studies.prepare.prepare`).
        held_out_text, chunks, chunk_tokens: whose perplexity is watched: which text, how many
            chunks of it, and tokens per chunk (`kedit.scoring.drift.held_out`).
        seed: of neighbours, replacements, contexts, own text and the bootstrap.
        journal: keeps what is finished; what it holds is not done again.

    Raises:
        InputError: a layer or a setting that there is not, or no case can be scored.
    """
    journal = Journal() if journal is None else journal
    journal.ask(
        "choose_sites",
        model=fingerprint(model),
        n_neighbours=n_neighbours,
        settings=settings,
        text=text,
        tokens_per_dim=tokens_per_dim,
        held_out_text=held_out_text,
        chunks=chunks,
        chunk_tokens=chunk_tokens,
        seed=seed,
    )
    every, plain = candidate_sites(model, layers, positions), plain_joint(model, settings)
    scoring = Scoring((), say=False, seed=seed)
    assessment = Assessment.by(model, scoring, held_out_text, chunks, chunk_tokens)
    before = scores_before(model, cases, scoring, journal)
    usable, pool = list(before), cases if pool is None else pool
    traced = {name: effects(model, usable, pool, every, name, seed, journal) for name in EFFECTS}
    apart = separations(model, usable, every, n_neighbours, text, tokens_per_dim, seed, journal)
    make = functools.partial(
        prepare, model, sides=["relation"], text=text, tokens_per_dim=tokens_per_dim, seed=seed
    )
    arms = {
        place: (place.spec(settings), place.editor(plain)) for place in every if place.head is None
    }
    outcomes = _edits(model, before, arms, make, assessment, journal)
    tables = {name: _table(every, records, "nats") for name, records in traced.items()}
    tables |= {name: _table(every, apart, name) for name in SEPARATIONS}
    totals = {
        name: np.array([one.get("total", np.nan) for one in records])
        for name, records in traced.items()
    }
    measured = Measured(every, tables, totals, list(before.values()), outcomes)
    skipped = {key: one["skipped"] for key, one in journal.records.items() if "skipped" in one}
    specs = {place: spec for place, (spec, _) in arms.items()}
    return summed_up(measured, name_of(model), specs, skipped, best, seed)


# six parameters: what was measured, and what is told of it
def summed_up(
    measured: Measured,
    model: str,
    specs: Mapping[CandidateSite, str],
    skipped: Mapping[str, str],
    best: int,
    seed: int,
) -> SiteFindings:
    """Means with intervals, and what goes with editing.

    Args:
        specs: the editor of each place, as the command line has it.
    """
    rows = drawn(measured, seed)
    sites = [
        SiteNumbers(**place._asdict(), editor=specs.get(place, ""), found=found)
        for place, found in zip(measured.places, estimates(measured, rows), strict=True)
    ]
    at = [index for index, place in enumerate(measured.places) if place.head is None]
    own, edited = [measured.places[i] for i in at], {name: row[:, at] for name, row in rows.items()}
    return SiteFindings(
        model=model,
        seed=seed,
        n_cases=len(measured.before),
        n_best=best,
        skipped=skipped,
        totals=total_effects(measured, seed),
        sites=tuple(sites),
        correlations=tuple(correlations(edited, own)),
        controls=tuple(controls(edited, best, seed)),
    )


def _table(
    every: Sequence[CandidateSite], records: Records, field: str
) -> Float[ndarray, "case place"]:
    """NaN where a record says nothing of a place."""
    rows = [record.get(field, {}) for record in records]
    return np.array([[row.get(place.name) for place in every] for row in rows], dtype=float)


def _edits(
    model: HookedTransformer,
    cases: Mapping[EditCase, EditScore],
    editors: Mapping[CandidateSite, tuple[str, Joint]],
    make: Callable[[Sequence[Editor]], list[Arm]],
    assessment: Assessment,
    journal: Journal,
) -> dict[CandidateSite, list[Outcome]]:
    """Each case edited at every place; one key position at a time, for moments take memory."""
    found: dict[CandidateSite, list[Outcome]] = {}
    for where in positions_of(editors):
        own = {place: editors[place] for place in editors if place.where == where}
        ready = functools.cache(functools.partial(make, [editor for _, editor in own.values()]))
        arms = {
            place: Arm(spec, "relation", _one_of(ready, number))
            for number, (place, (spec, _)) in enumerate(own.items())
        }
        if any(arm.key(case) not in journal.records for arm in arms.values() for case in cases):
            ready()  # before the first edit, which else would seem to take that time
        outcomes = edit_cases(model, cases, list(arms.values()), assessment, journal)
        found |= {place: outcomes[arm] for place, arm in arms.items()}
    return found


def _one_of(ready: Callable[[], list[Arm]], number: int) -> PreparedEditor:
    """What one of several editors makes, which are made ready together when the first is wanted."""
    return lambda requests: ready()[number].make(requests)
