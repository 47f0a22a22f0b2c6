"""Computes how much the attention key adds to the MLP key of an edit, before any edit is made.

An edit of a matrix that writes v at the key k, and as little as possible elsewhere, is
C⁻¹k vᵀ / (kᵀC⁻¹k), with C = E[k kᵀ] over a text (ROME, equation 2). At the text's tokens the square
of what it writes is |v|² / (kᵀC⁻¹k) on average. So the larger the leverage kᵀC⁻¹k, the less an edit
does elsewhere. One solve of W_out and W_O has the longer key [z; k], whose leverage is never
smaller than that of k alone: how much larger says what attention can gain at most.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.editing.keys import keys
from kedit.editing.moments import moments
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import EditCase, Perspective
from kedit.models.load import name_of
from kedit.models.prompts import KeyPosition
from kedit.progress import progress
from kedit.results.leverage import BOTH, LayerLeverage, Leverages
from kedit.stats import Interval, bootstrap_ratio
from kedit.studies.prepare import require_sides

LAYERS_AT_ONCE = 6  # whose C are in memory together; each pass over the text serves so many


# eight parameters: the edits, where they would be written, and the text that they spare
def measure_leverage(
    model: HookedTransformer,
    cases: Sequence[EditCase],
    *,
    perspective: Perspective = "relation",
    where: KeyPosition = "object_last",
    layers: Sequence[int] | None = None,
    text: str = "",
    n_tokens: int = 0,
    seed: int = 0,
) -> Leverages:
    """Computes kᵀC⁻¹k of the cases' keys at each layer: of W_out, of W_O, and of both in one solve.

    Args:
        perspective: whose prompt the key is read in: that of the object's edit, or the relation's.
        where: the token at which an edit would be written.
        layers: None: all.
        text: the text of C; see `kedit.data.corpus.corpus_of`.
        n_tokens: of this text; 0: as many as an editor takes; see `kedit.editing.moments.moments`.
        seed: seed of the bootstrap, and of a text that the model writes itself.

    Raises:
        InputError: there are no cases, one lacks the side or a token there, the model has no such
            layer, or see `moments`.
    """
    if not cases:
        raise InputError("cases: no case is given")
    require_sides(cases, [perspective])
    d_z, d_mlp = (WriteSite(0, half).d_key(model) for half in ("attn", "mlp"))
    chosen = list(range(model.cfg.n_layers) if layers is None else layers)
    found: list[LayerLeverage] = []
    with progress("layers") as bars:
        bar = bars.add_task("solving", total=len(chosen))
        for start in range(0, len(chosen), LAYERS_AT_ONCE):
            part = chosen[start : start + LAYERS_AT_ONCE]
            pairs = [(WriteSite(layer, "attn"), WriteSite(layer, "mlp")) for layer in part]
            sites = [site for pair in pairs for site in pair]
            for site in sites:
                site.weight(model)  # raises InputError if the layer doesn't exist
            read = [
                keys(model, sites, case.requests(perspective)[0].demands[0], [""], where)
                for case in cases
            ]
            at = {site: torch.cat([of_case[site] for of_case in read]) for site in sites}
            seconds = moments(model, pairs, text, n_tokens, seed)
            for pair, second in zip(pairs, seconds, strict=True):
                found.append(_of_layer(model, pair, second, at, seed))
                bars.advance(bar)
    return Leverages(
        model=name_of(model),
        where=where,
        n_cases=len(cases),
        text=corpus_of(str(model.cfg.model_name), text, seed).name,
        seed=seed,
        at_mean_token=d_z / (d_z + d_mlp),
        layers=tuple(found),
    )


def _of_layer(
    model: HookedTransformer,
    pair: tuple[WriteSite, WriteSite],
    second: Moment,
    at: Mapping[WriteSite, Float[Tensor, "case d_key"]],
    seed: int,
) -> LayerLeverage:
    """Computes the leverages of one layer, from its keys and their moment."""
    attn, mlp = pair
    by_half = {
        "attn": _leverages(second.of(attn), at),
        "mlp": _leverages(second.of(mlp), at),
        BOTH: _leverages(second, at),
    }
    lengths = {"attn": at[attn].shape[1], "mlp": at[mlp].shape[1]}
    lengths[BOTH] = sum(lengths.values())

    def mean(values: Float[np.ndarray, " case"]) -> Interval:
        return bootstrap_ratio(values, np.ones(len(values)), seed=seed)

    by_head = []
    every = torch.arange(lengths["mlp"], device=second.matrix.device)
    for head in range(model.cfg.n_heads):
        rows = {attn: attn.rows(model, [head]), mlp: every}
        with_head = _leverages(second.at(rows), {site: at[site][:, rows[site]] for site in pair})
        by_head.append(float((1 - by_half["mlp"] / with_head).mean()))
    return LayerLeverage(
        layer=mlp.layer,
        leverage={half: mean(values / lengths[half]) for half, values in by_half.items()},
        saved=mean(1 - by_half["mlp"] / by_half[BOTH]),
        saved_by_head=tuple(by_head),
    )


def _leverages(
    second: Moment, at: Mapping[WriteSite, Float[Tensor, "case d_key"]]
) -> Float[np.ndarray, " case"]:
    """Returns kᵀC⁻¹k of each case's key at the sites of a moment."""
    columns = torch.cat([at[site] for site in second.sites], 1).T.to(second.matrix)
    return (columns * second.solve(columns)).sum(0).cpu().numpy()
