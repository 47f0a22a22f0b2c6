"""Separation: can a key tell the edit from its neighbours? Read off keys, before any edit.

A delta that maps the key k to a residual writes, at another key k', the share

    k C⁻¹ k' / (k C⁻¹ k)

of it (Meng et al. 2022, equation 2), so that what two keys have in common in the metric of C⁻¹ is
what an edit at one of them leaks to the other.
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
from kedit.editing.moments import Moment
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, located


@dataclass(frozen=True, eq=False)
class Metric:
    """A write site, or one head's rows of W_O, and how its keys are compared.

    Args:
        head: None for the whole matrix.
        rows: of the matrix.
        solve: x -> C⁻¹x, C being the moment of these rows' keys alone.
    """

    site: WriteSite
    head: int | None
    rows: Int[Tensor, " row"]
    solve: Solve


class Separation(NamedTuple):
    """1 if keys have nothing in common in the metric of C⁻¹, 0 if they are one direction.

    Args:
        neighbours: of the request's keys from the neighbours'; NaN without any.
        demands: of the request's two keys from each other; NaN for a request with one.
    """

    neighbours: float
    demands: float


def metrics(model: HookedTransformer, seconds: Sequence[Moment]) -> list[Metric]:
    """Of each moment's sites, and behind each W_O its heads."""
    found = []
    for second in seconds:
        for site in second.sites:
            own = second.of(site)
            found.append(Metric(site, None, site.rows(model, ()), own.solve))
            for head in range(model.cfg.n_heads) if site.half == "attn" else ():
                rows = site.rows(model, [head])
                found.append(Metric(site, head, rows, own.at({site: rows}).solve))
    return found


def separation(
    model: HookedTransformer,
    request: EditRequest,
    others: Sequence[Demand],
    where: KeyPosition,
    metrics: Sequence[Metric],
) -> list[Separation]:
    """By each metric, at the key position of each prompt.

    A neighbour that has the very key of the edit, as (S, another object) has at the subject's last
    token, counts as what it is: not told apart.

    Args:
        others: neighbours; those that cannot be read (longer than the context) are left out.

    Raises:
        InputError: one of the request's own prompts cannot be read, or has no such position.
    """
    own = [_opening(model, demand, where) for demand in request.demands]
    near = []
    for other in others:
        with contextlib.suppress(InputError):
            near.append(_opening(model, other, where))
    texts = list(dict.fromkeys([*own, *near]))  # equal openings have equal keys, to the bit
    keys = last_keys(model, list(dict.fromkeys(one.site for one in metrics)), texts)
    edited, neighbours = ([texts.index(text) for text in some] for some in (own, near))
    found = []
    for one in metrics:
        shared = alike(keys[one.site].cpu()[:, one.rows], one.solve)
        among = shared[edited][:, edited]
        pairs = among[~torch.eye(len(edited), dtype=torch.bool)]
        apart = (1 - shared[edited][:, neighbours].mean(), 1 - pairs.mean())
        found.append(Separation(*map(float, apart)))
    return found


def alike(keys: Float[Tensor, "n d_key"], solve: Solve) -> Float[Tensor, "n n"]:
    """|k C⁻¹ k'| / √(k C⁻¹ k · k' C⁻¹ k') of all pairs: 1: one direction; 0: orthogonal ones."""
    leverage = keys.double() @ solve(keys.double().T)
    size = leverage.diagonal().clamp(min=0).sqrt()
    return (leverage.abs() / size.outer(size).clamp(min=1e-300)).clamp(max=1)


def _opening(model: HookedTransformer, demand: Demand, where: KeyPosition) -> Tokens:
    tokens, pos = located(model, demand.fact, where, demand.mentioned)
    return tokens[: pos + 1]
