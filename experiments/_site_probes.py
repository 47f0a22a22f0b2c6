"""Effects and separations of places, record by record: with progress, resume, recorded skips."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from experiments._finite import require_finite
from experiments._folder import key_of
from experiments._run import RunFolder
from experiments._sites import EFFECTS, SEPARATIONS, Place, positions
from kedit.progress import progress

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.choose_sites import Config
    from kedit.facts import EditCase, Fact


def effects(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Sequence[EditCase]",
    pool: "Sequence[EditCase]",
    every: Sequence[Place],
    name: str,
) -> list[dict[str, Any]]:
    """What restoring a place brings, one layer at a time, with words of one kind corrupted.

    Args:
        pool: whose words replace others.
        name: of EFFECTS.
    """
    from kedit.errors import InputError
    from kedit.models.prompts import located
    from probes.corrupt import replaced
    from probes.patch import Patch
    from probes.trace import trace

    part = EFFECTS[name]
    facts = [asked[0] for case in pool if (asked := _asked(case, part))]
    patches = Patch("mlp_out"), Patch("attn_out"), Patch("z")

    def measure(case: "EditCase") -> dict[str, Any]:
        asked = _asked(case, part)
        if asked is None:
            raise InputError("no pair loses the relation in this record")
        fact, mentioned = asked
        at = {}
        for where in positions(every):
            with contextlib.suppress(InputError):  # the entity's prompt spells out no object
                at[where] = located(model, fact, where, mentioned)[1]
        corruption = replaced(model, fact, part, facts, config.seed)
        traced = trace(model, fact, part, corruption, patches, sorted({*at.values()}))
        effects = {}
        for place in every:
            grid = traced.grids["z" if place.head is not None else f"{place.half}_out"]
            if place.where in at:
                column = grid.positions.index(at[place.where])
                effect = grid.indirect_effect("logprob")[place.layer, column]
                effects[place.name] = float(effect if place.head is None else effect[place.head])
        total = next(iter(traced.grids.values())).total_effect("logprob")
        told = {"prompt": fact.prompt, "answer": traced.answer, "corruption": traced.corruption}
        return {**told, "total": total, "nats": effects}

    return _recorded(folder, cases, name, measure)


def _asked(case: "EditCase", part: str) -> "tuple[Fact, str] | None":
    """What is traced when `part` is corrupted, and the object that its prompt spells out."""
    if part == "relation":
        return case.entity.fact, ""
    request = case.request("relation")
    return (request.removal, request.mentioned_by_removal) if request.removal else None


def separations(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Sequence[EditCase]",
    every: Sequence[Place],
) -> list[dict[str, Any]]:
    """How far each case's keys stand apart from its neighbours', and from each other."""
    from kedit.editing.moments import moments
    from kedit.editing.neighbours import neighbours
    from kedit.editing.write_sites import WriteSite
    from probes.separation import Metric, metrics, separation

    sites = list(dict.fromkeys(WriteSite(place.layer, place.half) for place in every))

    @functools.cache
    def compared() -> list[Metric]:
        groups = [[site] for site in sites]
        widest = max(site.d_key(model) for site in sites)
        n_tokens = config.tokens_a_key * widest
        return metrics(model, moments(model, groups, config.text, n_tokens, config.seed))

    def measure(case: "EditCase") -> dict[str, Any]:
        request = case.request("relation")
        others = neighbours(request, config.neighbours, config.seed)
        found: dict[str, dict[str, float | None]] = {name: {} for name in SEPARATIONS}
        for where in positions(every):
            apart = separation(model, request, others, where, compared())
            for one, numbers in zip(compared(), apart, strict=True):
                name = Place(one.site.layer, one.site.half, one.head, where).name
                for quantity, value in zip(SEPARATIONS, numbers, strict=True):
                    found[quantity][name] = None if math.isnan(value) else value
        return {"neighbours": len(others), **found}

    if any(f"{key_of(case)}-separation" not in folder.records for case in cases):
        compared()  # their bar is to be gone when the cases' own begins
    return _recorded(folder, cases, "separation", measure)


def _recorded(
    folder: RunFolder,
    cases: "Sequence[EditCase]",
    name: str,
    measure: "Callable[[EditCase], dict[str, Any]]",
) -> list[dict[str, Any]]:
    """Each case's record under `name`, made now or before; a bad case costs only itself."""
    from kedit.errors import InputError

    keys = {f"{key_of(case)}-{name}": case for case in cases}
    todo = [key for key in keys if key not in folder.records]
    with progress("cases") as bars:
        bar = bars.add_task(name, total=len(keys), completed=len(keys) - len(todo))
        for key in todo:
            start, told = time.perf_counter(), {"id": keys[key].id, "measured": name}
            try:
                found = measure(keys[key])
                require_finite(keys[key].id, found)
                told |= found | {"seconds": time.perf_counter() - start}
            except InputError as error:
                told |= {"skipped": str(error)}
            folder.add(key, told)
            bars.update(bar, advance=1)
    return [folder.records[key] for key in keys]
