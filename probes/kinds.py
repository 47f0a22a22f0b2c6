"""Attention's share of what is recalled: do symmetric, asymmetric, hierarchical relations differ?

Two measures. "restored": of the indirect effects of attn_out and mlp_out, summed over layers and
tokens, the part that is attn_out's. "severed": of what the residual at the last corrupted token
loses when attention, or the MLPs, above it are held at their corrupted values, attention's part.
A half that takes away more than it brings counts as bringing nothing. Shares are ratios of sums
over facts, so that facts without any effect do not decide.
"""

from collections.abc import Mapping, Sequence
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
MEASURES: tuple[ShareMeasure, ...] = ("restored", "severed")
SEVERED = {half: f"resid_post-severed-{half}" for half in ("attn_out", "mlp_out")}
ALL = "all"


class Parts(NamedTuple):
    """What a fact's attention and MLPs bring."""

    attention: float
    mlp: float


def parts(trace: FactTrace, measure: ShareMeasure, metric: str) -> Parts:
    """Sums of indirect effects, in the metric's units.

    Raises:
        InputError: the trace lacks a sweep that the measure needs, or a score is not finite.
    """
    wanted = ("attn_out", "mlp_out") if measure == "restored" else ("resid_post", *SEVERED.values())
    if lacking := [name for name in wanted if name not in trace.grids]:
        raise InputError(f"{trace.prompt!r}: {measure} needs the sweeps {', '.join(lacking)}")
    if measure == "restored":
        attn, mlp = (
            float(finite_grid(trace, name).indirect_effect(metric).sum()) for name in wanted
        )
        return Parts(max(0.0, attn), max(0.0, mlp))
    whole = finite_grid(trace, "resid_post")
    column = whole.positions.index(trace.corrupted[-1])
    ordinary = whole.indirect_effect(metric)[:, column]
    lost = {
        half: float((ordinary - finite_grid(trace, name).indirect_effect(metric)[:, 0]).sum())
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
    """Attention's share by kind of relation and over all, and whether the kinds differ.

    Args:
        traces: of one part.
        kinds: by relation id.

    Raises:
        InputError: no traces, or one lacks a sweep.
    """
    if not traces:
        raise InputError("no traces to take shares of")
    relations = sorted({trace.relation for trace in traces})
    sums = np.zeros((len(relations), 2))
    n_facts = np.zeros(len(relations), dtype=int)
    for trace in traces:
        row = relations.index(trace.relation)
        sums[row] += parts(trace, measure, metric)
        n_facts[row] += 1
    own = np.array([kinds[relation] for relation in relations])
    found = [
        _share(sums[chosen], n_facts[chosen], traces[0].part, measure, kind, draws, seed)
        for kind in (ALL, *dict.fromkeys(own))
        if (chosen := (own == kind) | (kind == ALL)).any()
    ]
    spread, p = permuted(partial(_spread, sums), own, draws, seed)
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
        drawn[:] = np.nan  # one relation does not say how much relations differ
    interval = percentile_interval(np.asarray(_ratio(sums.sum(0))), drawn)
    return AttentionShare(part, measure, kind, interval, int(n_facts.sum()), len(sums))


def _spread(sums: Float[ndarray, "relation half"], kinds: ndarray) -> float:
    found = [float(_ratio(sums[kinds == kind].sum(0))) for kind in np.unique(kinds)]
    return float(np.nanmax(found) - np.nanmin(found)) if not np.isnan(found).all() else 0.0


def _ratio(sums: Float[ndarray, "*draw half"]) -> Float[ndarray, "*draw"]:
    """attention / (attention + MLP); NaN where both together bring nothing."""
    total = sums.sum(-1)
    return np.where(total > 0, sums[..., 0] / np.where(total > 0, total, 1), np.nan)
