"""The moments that an editor spares: handed to it, or those of its text.

What is handed in may be a file of the statistics that ROME's and MEMIT's code keeps (and EasyEdit's
after them), an .npz with the arrays "mom2.mom2", the sum of k kᵀ over tokens, and "mom2.count", the
number of these tokens.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformer_lens import HookedTransformer

from kedit.cache import hashed
from kedit.editing.moments import Moment, moments
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError

SYMMETRIC = 1e-4  # of the largest number on the diagonal; sums in float32 are good to about 1e-5


@runtime_checkable
class Sparing(Protocol):
    """An editor that spares the keys of a text: at which groups of sites, and whose moments."""

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
    """The moment of each of the editor's groups: `editor.moments`, or if there are none its text's.

    Raises:
        InputError: what is handed in is not one for each group, cannot be read, is of other sites,
            another model's size or another layer, or is no second moment: not finite, symmetric and
            positive semidefinite, up to rounding. Else as `kedit.editing.moments.moments`.
    """
    if not editor.moments:
        return moments(model, editor.groups, editor.text, editor.n_tokens, editor.seed)
    groups = [tuple(group) for group in editor.groups]
    if len(editor.moments) != len(groups):
        raise InputError(
            f"moments: {len(editor.moments)} are given, but one for each of "
            f"{', '.join(map(_told, groups))} is wanted, in this order"
        )
    return [_taken(model, *both) for both in zip(groups, editor.moments, strict=True)]


def settings_of(
    editor: Sparing, contexts: Sequence[str], seconds: Sequence[Moment]
) -> dict[str, Any]:
    """The editor's settings for an edit's provenance: plain values, as JSON has them.

    Args:
        contexts: that were used.
        seconds: `spared` moments: their text and tokens are told, of which a cached one may have
            more than were asked for, and of those that were handed in a digest too.
    """
    assert dataclasses.is_dataclass(editor) and not isinstance(editor, type)
    told = [
        {"corpus": one.corpus, "n_tokens": one.n_tokens}
        | ({"digest": hashed(one.matrix)[:16]} if editor.moments else {})
        for one in seconds
    ]
    plain = dataclasses.asdict(dataclasses.replace(editor, moments=()))
    return plain | {"contexts": list(contexts), "moments": told}


def _taken(model: HookedTransformer, sites: tuple[WriteSite, ...], handed: Moment | str) -> Moment:
    """What was handed in, as the moment of `sites`, in float64, exactly symmetric."""
    d_keys = tuple(site.d_key(model) for site in sites)
    if isinstance(handed, Moment):
        name, found = f"that of {handed.corpus}", handed
    else:
        name, found = f"{handed:.200}", _statistics(handed, sites, d_keys)
    size = (sum(d_keys), sum(d_keys))
    if found.sites != sites:
        raise InputError(f"moments: {name} is of {_told(found.sites)}, not of {_told(sites)}")
    if found.matrix.shape != size or found.d_keys != d_keys:
        raise InputError(
            f"moments: {name} is {' x '.join(map(str, found.matrix.shape))}, but keys of "
            f"{_told(sites)} have {size[0]} numbers in {model.cfg.model_name}"
        )
    matrix = found.matrix.to("cpu", torch.float64)
    wrong = ""
    if found.n_tokens < 1:
        wrong = f"it is the mean over {found.n_tokens} tokens"
    elif not matrix.isfinite().all():
        wrong = "it has numbers that are not finite"
    elif (matrix - matrix.T).abs().max() > SYMMETRIC * matrix.diagonal().max():
        wrong = "it is not symmetric"
    if wrong:
        raise InputError(f"moments: {name} is no second moment of keys: {wrong}")
    taken = dataclasses.replace(found, matrix=(matrix + matrix.T) / 2)
    try:
        taken.solve(torch.zeros(size[0], 1))  # factors it, for the editor too
    except InputError as error:
        raise InputError(f"moments: {name} is no second moment of keys: {error}") from None
    return taken


def _statistics(file: str, sites: tuple[WriteSite, ...], d_keys: tuple[int, ...]) -> Moment:
    """The moment in a file of ROME's statistics, which is not checked yet.

    Raises:
        InputError: it cannot be read, or its name tells another layer.
    """
    try:
        # no pickle: reading one can run whatever its author wants
        with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            total, count = arrays["mom2.mom2"], arrays["mom2.count"].item()
        if total.dtype.kind != "f" or total.ndim != 2 or not isinstance(count, int) or count < 1:
            raise ValueError(f"mom2.mom2 is {total.dtype} {total.shape}, mom2.count is {count!r}")
    except Exception as error:  # of any kind: the file system's, zip's, numpy's
        raise InputError(
            f"moments: {file:.200} cannot be read as statistics of ROME's code, an .npz file with "
            f"mom2.mom2 and mom2.count: {str(error)[:200] or type(error).__name__}"
        ) from None
    named = re.search(r"\.(?:h|layers)\.(\d+)\.", Path(file).name)
    layers = {site.layer for site in sites}
    if named is not None and {int(named[1])} != layers:
        raise InputError(
            f"moments: {Path(file).name} is of layer {named[1]} by its name, but that of "
            f"{_told(sites)} is wanted"
        )
    return Moment(sites, d_keys, torch.from_numpy(total).double() / count, count, Path(file).name)


def _told(sites: Sequence[WriteSite]) -> str:
    return " + ".join(site.parameter for site in sites)
