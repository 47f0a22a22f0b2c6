"""Separation: could an edit at this site and position spare its neighbours?

This can be computed from keys, before any edit is made. A closed-form edit changes what a weight
writes at the key k. At another key k', it then writes the share

    k C⁻¹ k' / (k C⁻¹ k)

of the change (Meng et al. 2022, equation 2). So if the edit's key and a neighbour's are similar in
the metric of C⁻¹, every such edit leaks to the neighbour. Sites and positions with well separated
keys are better places to edit.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.closed_form import Solve
from kedit.editing.keys import last_keys
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, located


@dataclass(frozen=True, eq=False)
class Metric:
    """How keys are compared at a write site, or at one head's rows of W_O.

    Args:
        site: the write site.
        head: the head; None for the whole matrix.
        rows: indices of the matrix's rows.
        solve: the function x -> C⁻¹x, where C is the moment of these rows' keys alone.
    """

    site: WriteSite
    head: int | None
    rows: Int[Tensor, " row"]
    solve: Solve


class Separation(NamedTuple):
    """Separations of keys: 1 if they are orthogonal in the metric of C⁻¹, 0 if they are parallel.

    Args:
        neighbours: mean separation of the request's keys from the neighbours' keys; NaN without
            neighbours.
        demands: separation of the request's two keys from each other; NaN for a request with one
            demand.
    """

    neighbours: float
    demands: float


def metrics(model: HookedTransformer, seconds: Sequence[Moment]) -> list[Metric]:
    """Builds a metric for each site of these moments and, after each W_O, for each of its heads."""
    found = []
    for second in seconds:
        for site in second.sites:
            moment = second.of(site)
            found.append(Metric(site, None, site.rows(model, ()), moment.solve))
            for head in range(model.cfg.n_heads) if site.half == "attn" else ():
                rows = site.rows(model, [head])
                found.append(Metric(site, head, rows, moment.at({site: rows}).solve))
    return found


def separation(
    model: HookedTransformer,
    request: EditRequest,
    others: Sequence[Demand],
    where: KeyPosition,
    metrics: Sequence[Metric],
) -> list[Separation]:
    """Computes how separate a request's keys are, from neighbours' and among themselves.

    A neighbour can have exactly the edit's key, such as (S, another object) at the last token of
    the subject S. It counts with a separation of 0, because no edit there can spare it.

    Args:
        request: the requested edit.
        others: demands of neighbours. Those that cannot be read are left out (longer than the
            context, or without such a position).
        where: the key position.
        metrics: the sites and heads; the result has one entry for each.

    Raises:
        InputError: a prompt of the request cannot be read or has no such position.
    """
    openings = [_opening(model, demand, where) for demand in request.demands]
    other_openings = []
    for other in others:
        with contextlib.suppress(InputError):
            other_openings.append(_opening(model, other, where))
    # each opening is run once: equal openings then have exactly equal keys
    texts = list(dict.fromkeys([*openings, *other_openings]))
    keys = last_keys(model, list(dict.fromkeys(metric.site for metric in metrics)), texts)
    edited, neighbours = (
        [texts.index(text) for text in group] for group in (openings, other_openings)
    )
    found = []
    for metric in metrics:
        similarity = alike(keys[metric.site][:, metric.rows], metric.solve)
        within = similarity[edited][:, edited]
        pairs = within[~torch.eye(len(edited), dtype=torch.bool, device=within.device)]
        apart = (1 - similarity[edited][:, neighbours].mean(), 1 - pairs.mean())
        found.append(Separation(*map(float, apart)))
    return found


def alike(keys: Float[Tensor, "n d_key"], solve: Solve) -> Float[Tensor, "n n"]:
    """Computes |k C⁻¹ k'| / √(k C⁻¹ k · k' C⁻¹ k') of all pairs: 1 if parallel, 0 if orthogonal."""
    leverage = keys.double() @ solve(keys.double().T)
    size = leverage.diagonal().clamp(min=0).sqrt()
    return (leverage.abs() / size.outer(size).clamp(min=1e-300)).clamp(max=1)


def _opening(model: HookedTransformer, demand: Demand, where: KeyPosition) -> Tokens:
    """The prompt's tokens up to the key position."""
    tokens, pos = located(model, demand.fact, where, demand.mentioned)
    return tokens[: pos + 1]
