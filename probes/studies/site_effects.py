"""Measures the criteria of `choose_sites` for every case: causal effects and separations of keys.

Both can be measured without editing, so that they could tell where to edit: the causal effect of
restoring a site (ROME's argument for its layers), and how well the edit's key is separated from
its neighbours' keys (`probes.separation`).
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformer_lens import HookedTransformer

from kedit.editing.moments import moments
from kedit.editing.neighbours import neighbours
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import EditCase, Fact
from kedit.journal import Journal
from kedit.models.prompts import located
from kedit.records import key_of
from kedit.results.traces import FactTrace
from probes.corrupt import replaced
from probes.patch import Patch
from probes.separation import Metric, metrics, separation
from probes.studies.candidate_sites import CandidateSite, positions_of
from probes.trace import trace

# name of an effect: the part that is corrupted
EFFECTS = {"effect of relation": "relation", "effect of subject": "subject"}
SEPARATIONS = ("separation", "demands apart")
PATCHES = Patch("mlp_out"), Patch("attn_out"), Patch("z")

Records = list[Mapping[str, Any]]  # one per case, in the order of the cases


# seven parameters: what is corrupted, by which words, and where it is restored
def effects(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    pool: Sequence[EditCase],
    candidates: Sequence[CandidateSite],
    name: str,
    seed: int,
    journal: Journal,
) -> Records:
    """Measures the indirect effect of each candidate in single layers, with one part corrupted.

    Args:
        pool: cases whose words replace others.
        candidates: the sites and positions.
        name: one of EFFECTS.
    """
    part = EFFECTS[name]
    facts = [traceable[0] for case in pool if (traceable := _traceable(case, part))]

    def measure(case: EditCase) -> dict[str, Any]:
        traceable = _traceable(case, part)
        if traceable is None:
            raise InputError("this record has no removal: no pair loses the relation")
        fact, mentioned = traceable
        at = {}
        for where in positions_of(candidates):
            with contextlib.suppress(InputError):  # the entity's prompt contains no object
                at[where] = located(model, fact, where, mentioned)[1]
        corruption = replaced(model, fact, part, facts, seed)
        traced = trace(model, fact, part, corruption, PATCHES, sorted({*at.values()}))
        total = next(iter(traced.grids.values())).total_effect("logprob")
        about = {"prompt": fact.prompt, "answer": traced.answer, "corruption": traced.corruption}
        nats = {
            site.name: _effect(traced, site, at[site.where])
            for site in candidates
            if site.where in at
        }
        return {**about, "total": total, "nats": nats}

    return _recorded(cases, name, measure, journal)


def _effect(traced: FactTrace, site: CandidateSite, pos: int) -> float:
    """The indirect effect of one candidate, in nats."""
    grid = traced.grids["z" if site.head is not None else f"{site.half}_out"]
    effect = grid.indirect_effect("logprob")[site.layer, grid.positions.index(pos)]
    return float(effect if site.head is None else effect[site.head])


def _traceable(case: EditCase, part: str) -> tuple[Fact, str] | None:
    """The fact that is traced if `part` is corrupted, and the object that its prompt contains.

    If the relation is corrupted, this is the entity request's fact, whose prompt contains no
    object. If the subject is corrupted, it is the removal's: the present pair and its relation.
    None if the case has no removal.
    """
    if part == "relation":
        return case.entity.fact, ""
    request = case.request("relation")
    return (request.removal, request.mentioned_by_removal) if request.removal else None


# eight parameters: whose keys, from which neighbours, in the metric of which text
def separations(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    candidates: Sequence[CandidateSite],
    n_neighbours: int,
    text: str,
    tokens_per_dim: int,
    seed: int,
    journal: Journal,
) -> Records:
    """Measures how separate each case's keys are from its neighbours', and from each other.

    Args:
        candidates: the sites and positions whose keys are compared.
        n_neighbours: number of neighbours per case.
        text: text on which the second moments of keys are measured.
        tokens_per_dim: number of its tokens per dimension of the key.
    """
    sites = list(dict.fromkeys(WriteSite(site.layer, site.half) for site in candidates))

    @functools.cache
    def compared() -> list[Metric]:
        n_tokens = tokens_per_dim * max(site.d_key(model) for site in sites)
        return metrics(model, moments(model, [[site] for site in sites], text, n_tokens, seed))

    def measure(case: EditCase) -> dict[str, Any]:
        request = case.request("relation")
        others = neighbours(request, n_neighbours, seed)
        found: dict[str, dict[str, float | None]] = {name: {} for name in SEPARATIONS}
        for where in positions_of(candidates):
            apart = separation(model, request, others, where, compared())
            for metric, numbers in zip(compared(), apart, strict=True):
                site = CandidateSite(metric.site.layer, metric.site.half, metric.head, where)
                for quantity, value in zip(SEPARATIONS, numbers, strict=True):
                    found[quantity][site.name] = None if math.isnan(value) else value
        return {"neighbours": len(others), **found}

    if any(_key(case, "separation") not in journal.records for case in cases):
        compared()  # now, so that its progress bar ends before the one of the cases begins
    return _recorded(cases, "separation", measure, journal)


def _key(case: EditCase, name: str) -> str:
    return f"{key_of(case)}-{name}"


def _recorded(
    cases: Sequence[EditCase],
    name: str,
    measure: Callable[[EditCase], dict[str, Any]],
    journal: Journal,
) -> Records:
    """Returns each case's record of `name`, measured now or taken from the journal."""

    def about(case: EditCase) -> dict[str, Any]:
        return {"id": case.id, "measured": name}

    def work(case: EditCase) -> dict[str, Any]:
        start = time.perf_counter()
        found = measure(case)
        return {**about(case), **found, "seconds": time.perf_counter() - start}

    entries = journal.each(
        cases, lambda case: _key(case, name), work, unit="cases", doing=name, about=about
    )
    return [entry.record for entry in entries]
