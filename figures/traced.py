"""All figures of the averages of traced facts: maps, heads, severed modules, both sides."""

from collections.abc import Iterator
from typing import Literal, get_args

from matplotlib.figure import Figure

from figures.curves import severed, sides
from figures.heads import heads
from figures.style import Study
from figures.trace import averages, heatmap
from kedit.errors import InputError
from kedit.results.trace_averages import TraceAverages
from kedit.results.traced import Traces
from kedit.run_folder import file_name

MAPPED = ("resid_post", "mlp_out", "attn_out")
ORDINARY, SEVERED = "resid_post", ("resid_post-severed-mlp_out", "resid_post-severed-attn_out")
TOTAL = "total effect"
Kind = Literal["maps", "heads", "severed", "sides"]


def effects(found: TraceAverages, kind: Kind = "maps", part: str = "") -> Figure:
    """One figure of average effects.

    Args:
        kind: "maps" by token bucket and layer, "heads", residuals with modules "severed", or both
            "sides", the subject's words against the relation's.
        part: whose words were corrupted; "" for the first part that there is.

    Raises:
        InputError: there is no such figure, or what it shows was not traced.
    """
    part = part or found.parts[0]
    if kind not in get_args(Kind) or kind not in _allowed(found, part):
        able = sorted({one for own in found.parts for one in _allowed(found, own)})
        raise InputError(
            f"no figure {kind!r} of these averages, {part} corrupted: {' or '.join(able)} is wanted"
        )
    if kind == "sides":
        return _sides(found)
    grids, total = found.grids(part), found.total_effects[part][TOTAL]
    study = _study(found, found.counts.traced[part], f"the {part}'s {found.settings.corruption}")
    if kind == "maps":
        return averages([grids[name] for name in grids if name in MAPPED], study, total)
    if kind == "heads":
        return heads(grids["z"], study)
    cut = [grids[name] for name in SEVERED if name in grids]
    return severed(grids[ORDINARY], cut, study, total)


def every(found: TraceAverages) -> Iterator[tuple[str, Figure]]:
    """All figures, each with a name for its files."""
    for part in found.parts:
        for kind in ("maps", "heads", "severed"):
            if kind in _allowed(found, part):
                yield f"{part}-{kind}", effects(found, kind, part)
    if "sides" in _allowed(found, found.parts[0]):
        yield "relation-against-subject", effects(found, "sides")


def single_facts(traces: Traces, limit: int, metric: str = "prob") -> Iterator[tuple[str, Figure]]:
    """The maps of the first `limit` facts of each part, each with a name for its files."""
    for part, done in traces.averaged.items():
        for trace in done[:limit]:
            for name in trace.grids:
                if "severed" not in name:
                    title = file_name(f"{part}-{trace.relation}-{trace.subject}-{name}")
                    yield title, heatmap(trace, name, metric, traces.model)


def _allowed(found: TraceAverages, part: str) -> tuple[Kind, ...]:
    """The figures that the measured grids allow."""
    grids = found.grids(part)
    there: dict[Kind, bool] = {
        "maps": any(name in MAPPED for name in grids),
        "heads": "z" in grids,
        "severed": ORDINARY in grids and any(name in grids for name in SEVERED),
    }
    there["sides"] = len(found.parts) == 2 and there["maps"]
    return tuple(kind for kind, is_there in there.items() if is_there)


def _sides(found: TraceAverages) -> Figure:
    relation, subject = (
        [effect for name, effect in found.grids(part).items() if name in MAPPED]
        for part in ("relation", "subject")
    )
    counts = tuple(found.counts.traced[part] for part in found.settings.parts)
    totals = {part: total[TOTAL] for part, total in found.total_effects.items()}
    return sides(relation, subject, _study(found, counts, found.settings.corruption), totals)


def _study(found: TraceAverages, n_facts: int | tuple[int, ...], corruption: str) -> Study:
    return Study(n_facts, corruption, found.metric, found.settings.seed, found.model)
