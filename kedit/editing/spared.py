"""The second moments of an editor's sites: given by the caller, or measured on the editor's text.

A given moment may be a file of the statistics that the code of ROME, MEMIT and EasyEdit saves: an
.npz with the arrays "mom2.mom2", the sum of k kᵀ over tokens, and "mom2.count", the number of these
tokens.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.cache import hashed
from kedit.editing.moments import BLOCK, moments
from kedit.editing.second_moment import Moment
from kedit.editing.write_sites import WriteSite, listed
from kedit.errors import InputError
from kedit.models.prompts import device

# largest asymmetry of a given moment, relative to its largest diagonal entry: sums in float32, as
# in the published files, are accurate to about 1e-5
SYMMETRIC = 1e-4


@runtime_checkable
class Sparing(Protocol):
    """An editor that spares the keys of running text, as `spared` needs it.

    `moments` are given moments or files (empty: measure them), `text`, `n_tokens` and `seed` say on
    what to measure, and `groups` lists the sites of each moment.
    """

    @property
    def moments(self) -> tuple[Moment | str, ...]: ...
    @property
    def text(self) -> str: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def groups(self) -> list[list[WriteSite]]: ...


def spared(model: HookedTransformer, editor: Sparing) -> list[Moment]:
    """Returns the moment of each of the editor's groups, given or measured on its text.

    `editor.moments` are used if there are any.

    Raises:
        InputError: `editor.moments` has not one entry per group; an entry cannot be read, or is of
            other sites, another layer or another model's size; or it is no second moment: not
            finite, or not symmetric and positive semidefinite up to rounding. If the moments are
            measured: see `kedit.editing.moments.moments`.
    """
    if not editor.moments:
        return moments(model, editor.groups, editor.text, editor.n_tokens, editor.seed)
    groups = [tuple(group) for group in editor.groups]
    if len(editor.moments) != len(groups):
        raise InputError(
            f"moments: got {len(editor.moments)}, but need {len(groups)}, in this order: "
            f"{', '.join(map(listed, groups))}"
        )
    return [
        _validated(model, sites, given) for sites, given in zip(groups, editor.moments, strict=True)
    ]


def settings_of(
    editor: Sparing, contexts: Sequence[str], seconds: Sequence[Moment]
) -> dict[str, Any]:
    """Returns the editor's settings for an edit's provenance, as plain values for JSON.

    Args:
        contexts: those that were used.
        seconds: what `spared` returned. Recorded are each moment's text and number of tokens (a
            cached moment may have more than were requested), and for given moments also a hash of
            the matrix.
    """
    assert dataclasses.is_dataclass(editor) and not isinstance(editor, type)
    described = [
        {"corpus": moment.corpus, "n_tokens": moment.n_tokens}
        | ({"digest": hashed(moment.matrix)[:16]} if editor.moments else {})
        for moment in seconds
    ]
    plain = dataclasses.asdict(dataclasses.replace(editor, moments=()))
    return plain | {"contexts": list(contexts), "moments": described}


def _validated(
    model: HookedTransformer, sites: tuple[WriteSite, ...], given: Moment | str
) -> Moment:
    """Checks a given moment of `sites`; returns it in float64 on the model's device, symmetric."""
    d_keys = tuple(site.d_key(model) for site in sites)
    if isinstance(given, Moment):
        name, found = f"the moment of {given.corpus}", given
    else:
        name, found = f"{given:.200}", _statistics(given, sites, d_keys)
    size = (sum(d_keys), sum(d_keys))
    if found.sites != sites:
        raise InputError(
            f"moments: {name} is for {listed(found.sites)}, but {listed(sites)} is needed"
        )
    if found.matrix.shape != size or found.d_keys != d_keys:
        raise InputError(
            f"moments: {name} is {' x '.join(map(str, found.matrix.shape))}, but keys of "
            f"{listed(sites)} have {size[0]} numbers in {model.cfg.model_name}"
        )
    matrix = found.matrix.to(device(model), torch.float64)
    asymmetry = _asymmetry(matrix)
    problem = ""
    if found.n_tokens < 1:
        problem = f"it is a mean over {found.n_tokens} tokens"
    elif not asymmetry.isfinite():
        problem = "it has numbers that are not finite"
    elif asymmetry > SYMMETRIC * matrix.diagonal().max():
        problem = "it is not symmetric"
    if problem:
        raise InputError(f"moments: {name} is not a second moment of keys: {problem}")
    # a copy only if it differs: the matrix may be larger than the model
    matrix = (matrix + matrix.T).div_(2) if asymmetry else matrix
    symmetric = dataclasses.replace(found, matrix=matrix)
    try:
        # fails if the matrix cannot be inverted; the factorisation is kept for the editor
        symmetric.solve(torch.zeros(size[0], 1))
    except InputError as error:
        raise InputError(f"moments: {name} is not a second moment of keys: {error}") from None
    return symmetric


def _statistics(file: str, sites: tuple[WriteSite, ...], d_keys: tuple[int, ...]) -> Moment:
    """Reads the moment in a file of ROME's statistics; `_validated` checks its numbers.

    Raises:
        InputError: the file cannot be read, or its name contains another layer.
    """
    try:
        # no pickle: reading one can run any code that its author put there
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            total, count = arrays["mom2.mom2"], arrays["mom2.count"].item()
        if total.dtype.kind != "f" or total.ndim != 2 or not isinstance(count, int) or count < 1:
            raise ValueError(f"mom2.mom2 is {total.dtype} {total.shape}, mom2.count is {count!r}")
    except Exception as error:  # the file system, zip and numpy raise errors of many types
        raise InputError(
            f"moments: {file:.200} cannot be read as statistics of ROME's code, which are an .npz "
            f"file with mom2.mom2 and mom2.count: {str(error)[:200] or type(error).__name__}"
        ) from None
    named = re.search(r"\.(?:h|layers)\.(\d+)\.", Path(file).name)
    layers = {site.layer for site in sites}
    if named is not None and {int(named[1])} != layers:
        raise InputError(
            f"moments: the file name {Path(file).name} says layer {named[1]}, but a moment of "
            f"{listed(sites)} is needed"
        )
    matrix = torch.from_numpy(total).to(torch.float64, copy=True).div_(count)
    return Moment(sites, d_keys, matrix, count, Path(file).name)


def _asymmetry(matrix: Float[Tensor, "d_keys d_keys"]) -> Float[Tensor, ""]:
    """Returns the largest |C - Cᵀ|, in blocks of rows; NaN if a number is not finite."""
    blocks = zip(matrix.split(BLOCK), matrix.split(BLOCK, 1), strict=True)
    return torch.stack([(rows - columns.T).abs().max() for rows, columns in blocks]).max()
