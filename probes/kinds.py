"""How much of a fact's recall goes through attention, by kind of relation?

ROME edits MLPs because tracing attributes the recall of facts to them; RaKE finds that relations
involve attention more. Symmetric, asymmetric and hierarchical relations may differ in this. This
module computes attention's share of the effects of attention and MLPs together, and tests by
permutation whether the kinds differ. There are two measures:

- "restored" compares the indirect effects of attn_out and mlp_out, summed over layers and tokens.
- "severed" compares how much of the effect of the residual at the last corrupted token is lost
  when attention is held at its corrupted values, and when the MLPs are.

A sum below zero counts as zero. A share is a ratio of sums over facts, not a mean of the facts'
ratios, so that facts with hardly any effect hardly count.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kedit.errors import InputError
from kedit.results.averages import finite_grid
from kedit.results.heads import AttentionShare, KindTest
from kedit.results.traces import FactTrace
from kedit.stats import percentile_interval, permuted, resamples

ShareMeasure = Literal["restored", "severed"]
SEVERED = {half: f"resid_post-severed-{half}" for half in ("attn_out", "mlp_out")}
# the sites (`kedit.results.tracing.SITES`) that each measure compares
MEASURES: Mapping[ShareMeasure, tuple[str, ...]] = {
    "restored": ("attn_out", "mlp_out"),
    "severed": ("resid_post", "severed"),
}
ALL = "all"


class Parts(NamedTuple):
    """The effects of a fact's attention and MLPs, in the metric's units."""

    attention: float
    mlp: float


def measures_of(sites: Collection[str]) -> list[ShareMeasure]:
    """Returns the measures whose sites are all among the restored ones.

    Raises:
        InputError: there is no such measure.
    """
    found: list[ShareMeasure] = [name for name, own in MEASURES.items() if {*own} <= {*sites}]
    if not found:
        of_measures = " or ".join(map(" and ".join, MEASURES.values()))
        raise InputError(
            f"sites (--sites): attention's share needs {of_measures}, got "
            f"{', '.join(sites) or 'none'}"
        )
    return found


def parts(trace: FactTrace, measure: ShareMeasure, metric: str) -> Parts:
    """Sums a trace's indirect effects for attention and for MLPs.

    Raises:
        InputError: the trace lacks a sweep that the measure needs, or a score is not finite.
    """
    needed = ("attn_out", "mlp_out") if measure == "restored" else ("resid_post", *SEVERED.values())
    if lacking := [name for name in needed if name not in trace.grids]:
        raise InputError(
            f"{trace.prompt!r}: the measure {measure!r} needs the sweeps {', '.join(lacking)}, "
            "which were not made"
        )
    if measure == "restored":
        attn, mlp = (
            float(finite_grid(trace, name).indirect_effect(metric).sum()) for name in needed
        )
        return Parts(max(0.0, attn), max(0.0, mlp))
    unsevered = finite_grid(trace, "resid_post")
    column = unsevered.positions.index(trace.corrupted[-1])
    whole = unsevered.indirect_effect(metric)[:, column]
    lost = {  # a severed grid has one column: the last corrupted position
        half: float((whole - finite_grid(trace, name).indirect_effect(metric)[:, 0]).sum())
        for half, name in SEVERED.items()
    }
    return Parts(max(0.0, lost["attn_out"]), max(0.0, lost["mlp_out"]))


def shares(
    traces: Sequence[FactTrace],
    kinds: Mapping[str, str],
    measure: ShareMeasure,
    metric: str,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[list[AttentionShare], KindTest]:
    """Computes attention's share by kind of relation and over all, and tests if the kinds differ.

    Args:
        traces: traces in which the same part (subject or relation) was corrupted.
        kinds: each relation's kind, by relation id.
        measure: "restored" or "severed" (see the module's text).
        metric: metric of the effects.
        draws: number of bootstrap draws of relations, and of permutations of their kinds.
        seed: seed of both.

    Raises:
        InputError: there are no traces, or a trace lacks a sweep.
    """
    if not traces:
        raise InputError("no traces: attention's share is computed from at least one")
    relations = sorted({trace.relation for trace in traces})
    sums = np.zeros((len(relations), 2))
    n_facts = np.zeros(len(relations), dtype=int)
    for trace in traces:
        row = relations.index(trace.relation)
        sums[row] += parts(trace, measure, metric)
        n_facts[row] += 1
    kind_of = np.array([kinds[relation] for relation in relations])
    found = [
        _share(sums[chosen], n_facts[chosen], traces[0].part, measure, kind, draws, seed)
        for kind in (ALL, *dict.fromkeys(kind_of))
        if (chosen := (kind_of == kind) | (kind == ALL)).any()
    ]
    spread, p = permuted(partial(_spread, sums), kind_of, draws, seed)
    return found, KindTest(traces[0].part, measure, spread, p)


def _share(
    sums: Float[ndarray, "relation half"],
    n_facts: Int[ndarray, " relation"],
    part: str,
    measure: ShareMeasure,
    kind: str,
    draws: int,
    seed: int,
) -> AttentionShare:
    drawn = _ratio(resamples(len(sums), draws, seed) @ sums)
    if len(sums) < 2:
        drawn[:] = np.nan  # a single relation does not show how much relations differ
    interval = percentile_interval(np.asarray(_ratio(sums.sum(0))), drawn)
    return AttentionShare(part, measure, kind, interval, int(n_facts.sum()), len(sums))


def _spread(sums: Float[ndarray, "relation half"], kinds: ndarray) -> float:
    """The largest share of a kind minus the smallest."""
    found = [float(_ratio(sums[kinds == kind].sum(0))) for kind in np.unique(kinds)]
    return float(np.nanmax(found) - np.nanmin(found)) if not np.isnan(found).all() else 0.0


def _ratio(sums: Float[ndarray, "*draw half"]) -> Float[ndarray, "*draw"]:
    """attention / (attention + MLP); NaN where both are zero."""
    total = sums.sum(-1)
    return np.where(total > 0, sums[..., 0] / np.where(total > 0, total, 1), np.nan)
