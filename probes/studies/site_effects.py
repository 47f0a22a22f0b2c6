"""Effects and separations of places, case by case."""

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

EFFECTS = {"effect of relation": "relation", "effect of subject": "subject"}  # what is corrupted
SEPARATIONS = ("separation", "demands apart")
PATCHES = Patch("mlp_out"), Patch("attn_out"), Patch("z")

Records = list[Mapping[str, Any]]  # of the cases, in their order


# seven parameters: what is corrupted, by which words, and where it is restored
def effects(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    pool: Sequence[EditCase],
    every: Sequence[CandidateSite],
    name: str,
    seed: int,
    journal: Journal,
) -> Records:
    """What restoring a place brings, one layer at a time, with words of one kind corrupted.

    Args:
        pool: whose words replace others.
        name: of EFFECTS.
    """
    part = EFFECTS[name]
    facts = [asked[0] for case in pool if (asked := _asked(case, part))]

    def measure(case: EditCase) -> dict[str, Any]:
        asked = _asked(case, part)
        if asked is None:
            raise InputError("no pair loses the relation in this record")
        fact, mentioned = asked
        at = {}
        for where in positions_of(every):
            with contextlib.suppress(InputError):  # the entity's prompt spells out no object
                at[where] = located(model, fact, where, mentioned)[1]
        corruption = replaced(model, fact, part, facts, seed)
        traced = trace(model, fact, part, corruption, PATCHES, sorted({*at.values()}))
        total = next(iter(traced.grids.values())).total_effect("logprob")
        told = {"prompt": fact.prompt, "answer": traced.answer, "corruption": traced.corruption}
        nats = {
            place.name: _effect(traced, place, at[place.where])
            for place in every
            if place.where in at
        }
        return {**told, "total": total, "nats": nats}

    return _recorded(cases, name, measure, journal)


def _effect(traced: FactTrace, place: CandidateSite, pos: int) -> float:
    """The indirect effect of one place, in nats."""
    grid = traced.grids["z" if place.head is not None else f"{place.half}_out"]
    effect = grid.indirect_effect("logprob")[place.layer, grid.positions.index(pos)]
    return float(effect if place.head is None else effect[place.head])


def _asked(case: EditCase, part: str) -> tuple[Fact, str] | None:
    """What is traced when `part` is corrupted, and the object that its prompt spells out."""
    if part == "relation":
        return case.entity.fact, ""
    request = case.request("relation")
    return (request.removal, request.mentioned_by_removal) if request.removal else None


# eight parameters: whose keys, from which neighbours, in the metric of which text
def separations(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    every: Sequence[CandidateSite],
    n_neighbours: int,
    text: str,
    tokens_per_dim: int,
    seed: int,
    journal: Journal,
) -> Records:
    """How far each case's keys stand apart from its neighbours', and from each other."""
    sites = list(dict.fromkeys(WriteSite(place.layer, place.half) for place in every))

    @functools.cache
    def compared() -> list[Metric]:
        n_tokens = tokens_per_dim * max(site.d_key(model) for site in sites)
        return metrics(model, moments(model, [[site] for site in sites], text, n_tokens, seed))

    def measure(case: EditCase) -> dict[str, Any]:
        request = case.request("relation")
        others = neighbours(request, n_neighbours, seed)
        found: dict[str, dict[str, float | None]] = {name: {} for name in SEPARATIONS}
        for where in positions_of(every):
            apart = separation(model, request, others, where, compared())
            for one, numbers in zip(compared(), apart, strict=True):
                name = CandidateSite(one.site.layer, one.site.half, one.head, where).name
                for quantity, value in zip(SEPARATIONS, numbers, strict=True):
                    found[quantity][name] = None if math.isnan(value) else value
        return {"neighbours": len(others), **found}

    if any(_key(case, "separation") not in journal.records for case in cases):
        compared()  # their bar is to be gone when the cases' own begins
    return _recorded(cases, "separation", measure, journal)


def _key(case: EditCase, name: str) -> str:
    return f"{key_of(case)}-{name}"


def _recorded(
    cases: Sequence[EditCase],
    name: str,
    measure: Callable[[EditCase], dict[str, Any]],
    journal: Journal,
) -> Records:
    """Each case's record under `name`, made now or before."""

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
