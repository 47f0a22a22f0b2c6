"""Chooses and draws the figures of a tracing run: maps, heads, severed modules, both parts."""

from collections.abc import Iterator
from typing import Literal, get_args

from matplotlib.figure import Figure

from figures.curves import LAST, severed, sides
from figures.heads import heads
from figures.style import Study
from figures.trace import averages, heatmap
from kedit.errors import InputError
from kedit.results.trace_averages import TraceAverages
from kedit.results.traced import Traces
from kedit.run_folder import file_name

MAPPED = ("resid_post", "mlp_out", "attn_out", "cross_attn_out")
ORDINARY = "resid_post"
SEVERED = tuple(f"resid_post-severed-{site}" for site in ("mlp_out", "attn_out", "cross_attn_out"))
HEADS: "dict[Kind, str]" = {"heads": "z", "cross heads": "cross_z"}
TOTAL = "total effect"
Kind = Literal["maps", "heads", "cross heads", "severed", "sides"]


def effects(
    found: TraceAverages, kind: Kind = "maps", part: str = "", so_far: str = "", tower: str = ""
) -> Figure:
    """Draws one figure of average effects.

    Args:
        found: the averages.
        kind: "maps": by token bucket and layer; "heads": by head; "cross heads": by head of cross
            attention (T5); "severed": residuals with modules severed; "sides": corrupted subject
            compared with corrupted relation.
        part: whose words were corrupted; "" for the first part with averages.
        so_far: how many facts are traced of how many, while the study runs, for the title.
        tower: "encoder" or "decoder" for T5; "" for its encoder, and for any other model.

    Raises:
        InputError: there is no such figure, or its data were not traced.
    """
    part = part or found.parts[0]
    if tower not in ("", *found.towers):
        raise InputError(f"tower {tower!r}: must be one of {', '.join(found.towers)}")
    found = found.of_tower(tower or found.towers[0])
    if kind not in get_args(Kind) or kind not in _allowed(found, part):
        able = sorted({name for each in found.parts for name in _allowed(found, each)})
        raise InputError(
            f"figure {kind!r}: not possible for these averages with {part} corrupted; use "
            f"{' or '.join(able)}"
        )
    if kind == "sides":
        return _sides(found, so_far)
    grids, total = found.grids(part), found.total_effects[part][TOTAL]
    corruption = f"the {part}'s {found.settings.corruption}"
    study = _study(found, found.counts.traced[part], corruption, so_far)
    if kind == "maps":
        return averages([grids[name] for name in grids if name in MAPPED], study, total)
    if kind in HEADS:
        return heads(grids[HEADS[kind]], study)
    cut = [grids[name] for name in SEVERED if name in grids]
    return severed(grids[ORDINARY], cut, study, total)


def every(found: TraceAverages, so_far: str = "") -> Iterator[tuple[str, Figure]]:
    """Draws all figures that are possible, each with a name for its files; see `effects`."""
    for tower in found.towers:
        one, start = found.of_tower(tower), f"{tower}-" if tower else ""
        for part in one.parts:
            for kind in get_args(Kind):
                if kind != "sides" and kind in _allowed(one, part):
                    name = kind.replace(" ", "-")
                    yield f"{start}{part}-{name}", effects(one, kind, part, so_far)
        if "sides" in _allowed(one, one.parts[0]):
            yield f"{start}relation-against-subject", effects(one, "sides", so_far=so_far)


def single_facts(traces: Traces, limit: int, metric: str = "prob") -> Iterator[tuple[str, Figure]]:
    """Draws the maps of the first `limit` facts of each part, each with a name for its files."""
    for part, done in traces.averaged.items():
        for trace in done[:limit]:
            for name in trace.grids:
                if "severed" not in name:
                    title = file_name(f"{part}-{trace.relation}-{trace.subject}-{name}")
                    yield title, heatmap(trace, name, metric, traces.model)


def _allowed(found: TraceAverages, part: str) -> tuple[Kind, ...]:
    """The kinds of figures for which the grids were measured."""
    grids = found.grids(part)
    there: dict[Kind, bool] = {
        "maps": any(name in MAPPED for name in grids),
        **{kind: site in grids for kind, site in HEADS.items()},
        # drawn at the last corrupted token, which T5's decoder does not have
        "severed": any(name in grids for name in SEVERED)
        and ORDINARY in grids
        and bool(dict(zip(grids[ORDINARY].buckets, grids[ORDINARY].n_tokens, strict=True))[LAST]),
    }
    there["sides"] = len(found.parts) == 2 and there["maps"]
    return tuple(kind for kind, is_there in there.items() if is_there)


def _sides(found: TraceAverages, so_far: str) -> Figure:
    """Draws the figure that compares both corrupted parts."""
    relation, subject = (
        [effect for name, effect in found.grids(part).items() if name in MAPPED]
        for part in ("relation", "subject")
    )
    counts = tuple(found.counts.traced[part] for part in found.settings.parts)
    totals = {part: total[TOTAL] for part, total in found.total_effects.items()}
    study = _study(found, counts, found.settings.corruption, so_far)
    return sides(relation, subject, study, totals)


def _study(
    found: TraceAverages, n_facts: int | tuple[int, ...], corruption: str, so_far: str
) -> Study:
    """The data of a figure's title and caption."""
    return Study(n_facts, corruption, found.metric, found.settings.seed, found.model, so_far)
