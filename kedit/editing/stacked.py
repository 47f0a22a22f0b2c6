"""Sites that are written together: their keys one behind the other, their deltas from one solve.

The halves of a layer add up in the residual stream, so what is lacking there is one residual for
both, and the moment of their keys decides how much each of them brings:

    [z k] [D_O; D_out] = r                                  a row for each key

Behind post-norms (Gemma 3) what a half writes is normed before it is added. There each half has
residuals of its own:

    [[z, 0], [0, k]] [D_O; D_out] = [r_attn; r_mlp]         a row for each key and half

Both go to `kedit.editing.closed_form` as they are, with C = E[[z; k] [z; k]ᵀ], cross block and all.
One site alone is the same thing with one block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kedit.editing.closed_form import Solve, Spared
from kedit.editing.edit import LowRank
from kedit.editing.write_sites import WriteSite

Insert = Callable[[Tensor, Tensor], LowRank]  # of keys and residuals
Keys = Mapping[WriteSite, Float[Tensor, "n _"]]
Residuals = Mapping[WriteSite, Float[Tensor, "n d_model"]]


@dataclass(frozen=True, eq=False)
class Stack:
    """Sites with one solve.

    Args:
        rows: for each site those of its matrix that may change: W_O's of chosen heads, or all.
        solve: C⁻¹x, C being the moment of these numbers of the keys, one site behind the other.
        apart: each site has residuals of its own; else what they write adds up.
        moved: the sites whose keys move as the others are written: W_out's, in a block that is not
            parallel, as W_O is.
    """

    rows: Mapping[WriteSite, Int[Tensor, " _"]]
    solve: Solve
    apart: bool
    moved: "Stack | None" = None

    @property
    def sites(self) -> tuple[WriteSite, ...]:
        return tuple(self.rows)

    def keys(self, keys: Keys) -> Float[Tensor, "n_rows d_keys"]:
        """Whole keys of each site as rows of the stacked system."""
        own = [keys[site][:, rows] for site, rows in self.rows.items()]
        return torch.block_diag(*own) if self.apart else torch.cat(own, 1)

    def residuals(self, lacking: Residuals) -> Float[Tensor, "n_rows d_model"]:
        """What each site's output lacks as the right side of that system."""
        each = [lacking[site] for site in self.sites]
        return torch.cat(each) if self.apart else torch.stack(each).sum(0)

    def spared(self, keys: Keys) -> Spared:
        """Whole keys of each site as what a solve is to spare: each site by itself, for what
        attention writes moves the key behind it, even if W_out were to take it back.
        """
        rows = torch.block_diag(*(keys[site][:, own] for site, own in self.rows.items())).double()
        return Spared(rows, self.solve(rows.T))

    def rows_of(self, chosen: Bool[Tensor, " n"]) -> Bool[Tensor, " n_rows"]:
        """The rows of `spared` that are those of chosen keys."""
        return chosen.repeat(len(self.sites))

    def inserted(self, keys: Keys, lacking: Residuals, insert: Insert) -> dict[WriteSite, LowRank]:
        """The deltas that bring what is lacking; rows that may not change have zeros."""
        delta = insert(self.keys(keys), self.residuals(lacking))
        parts = delta.left.split([len(rows) for rows in self.rows.values()])
        made = {}
        for (site, rows), part in zip(self.rows.items(), parts, strict=True):
            left = part.new_zeros(keys[site].shape[1], part.shape[1])
            made[site] = LowRank(left.index_copy(0, rows, part), delta.right)
        return made
