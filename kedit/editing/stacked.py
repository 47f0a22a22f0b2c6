"""Write sites that are solved for together: one linear system for their stacked keys.

Without post-norms, the attention and MLP outputs of a layer add up in the residual stream. So both
share one residual r, and the joint moment of their keys decides how much of it each half writes
(D_O and D_out are the deltas of W_O and W_out; z and k are their keys):

    [z k] [D_O; D_out] = r                                  one row per key

With post-norms (Gemma 3), each half's output is normalised before it is added, so neither can write
what the other lacks. Each half has its own residual:

    [[z, 0], [0, k]] [D_O; D_out] = [r_attn; r_mlp]         one row per key and half

Either system is passed to `kedit.editing.closed_form` with C = E[[z; k] [z; k]ᵀ], including the
cross block between the halves. A single site is the same with one block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kedit.editing.closed_form import Solve, Spared
from kedit.editing.edit import LowRank
from kedit.editing.write_sites import WriteSite

Insert = Callable[[Tensor, Tensor], LowRank]  # keys, residuals -> delta
Keys = Mapping[WriteSite, Float[Tensor, "n _"]]
Residuals = Mapping[WriteSite, Float[Tensor, "n d_model"]]


@dataclass(frozen=True, eq=False)
class Stack:
    """Sites that share one solve.

    Args:
        rows: for each site, the rows of its matrix that may change: for W_O those of chosen heads,
            or all.
        solve: x -> C⁻¹x, where C is the moment of these rows' keys, stacked in the order of the
            sites.
        apart: whether each site has its own residuals; otherwise their outputs add up.
        moved: the sites whose keys change when the others are written, or None. In a block that is
            not parallel, a change of W_O changes the input of the MLP and so W_out's keys.
    """

    rows: Mapping[WriteSite, Int[Tensor, " _"]]
    solve: Solve
    apart: bool
    moved: "Stack | None" = None

    @property
    def sites(self) -> tuple[WriteSite, ...]:
        return tuple(self.rows)

    def keys(self, keys: Keys) -> Float[Tensor, "n_rows d_keys"]:
        """Returns the rows of the stacked system for each site's full keys."""
        by_site = [keys[site][:, rows] for site, rows in self.rows.items()]
        return torch.block_diag(*by_site) if self.apart else torch.cat(by_site, 1)

    def residuals(self, lacking: Residuals) -> Float[Tensor, "n_rows d_model"]:
        """Returns the right side of the stacked system from what each site's output lacks."""
        by_site = [lacking[site] for site in self.sites]
        # without post-norms, all outputs add to one stream, so only the sum matters
        return torch.cat(by_site) if self.apart else torch.stack(by_site).sum(0)

    def spared(self, keys: Keys) -> Spared:
        """Returns keys that must keep their output, one block per site, for a solve to spare.

        With one block per site, each site's own change is kept small, not only the sum over sites.
        A sum of zero would not be enough: a change in attention shifts the MLP key after it, so
        W_out could not cancel the change at the key it was solved for.
        """
        rows = torch.block_diag(
            *(keys[site][:, chosen] for site, chosen in self.rows.items())
        ).double()
        return Spared(rows, self.solve(rows.T))

    def inserted(self, keys: Keys, lacking: Residuals, insert: Insert) -> dict[WriteSite, LowRank]:
        """Returns the deltas that add what is lacking; their rows that may not change are zero."""
        delta = insert(self.keys(keys), self.residuals(lacking))
        parts = delta.left.split([len(rows) for rows in self.rows.values()])
        deltas = {}
        for (site, rows), left in zip(self.rows.items(), parts, strict=True):
            full = left.new_zeros(keys[site].shape[1], left.shape[1])
            deltas[site] = LowRank(full.index_copy(0, rows, left), delta.right)
        return deltas
