"""C = E[k kᵀ], the second moment of the keys of running text (ROME), and x -> C⁻¹x.

C is not centred. `kedit.editing.moments` measures it.
"""

import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kedit.editing.write_sites import WriteSite, listed
from kedit.errors import InputError

log = logging.getLogger("kedit")

RIDGES = (0.0, 1e-10, 1e-8, 1e-6, 1e-4)  # tried in this order, times C's mean diagonal


@dataclass(frozen=True, eq=False)
class Moment:
    """E[k kᵀ] over the tokens of a text, where k is the keys of `sites`, concatenated.

    Args:
        sites: read at the same tokens, so a moment of several sites has cross blocks too.
        d_keys: length of each site's key.
        matrix: exactly symmetric; positive semidefinite up to rounding. `kedit.editing.moments`
            leaves it on the model's device, where `solve` then computes.
        n_tokens: number of tokens in the mean.
        corpus: name of the text.

    A moment from elsewhere can be passed to an editor as its setting `moments` (see
    `kedit.editing.spared`).
    """

    sites: tuple[WriteSite, ...]
    d_keys: tuple[int, ...]
    matrix: Float[Tensor, "d_keys d_keys"]
    n_tokens: int
    corpus: str

    def block(self, site: WriteSite, other: WriteSite) -> Float[Tensor, "d_key d_other"]:
        """Returns E[k k'ᵀ] of the keys k of one site and k' of another; read-only.

        Raises:
            InputError: the moment is not of both sites.
        """
        return self.matrix[self._rows(site), self._rows(other)]

    def at(self, rows: Mapping[WriteSite, Int[Tensor, " row"]]) -> "Moment":
        """Returns the moment of some numbers of each site's key, such as those of chosen heads."""
        starts = [self._rows(site).start for site in self.sites]
        selected = [start + rows[site] for start, site in zip(starts, self.sites, strict=True)]
        index = torch.cat(selected)
        widths = tuple(map(len, selected))
        return replace(self, d_keys=widths, matrix=self.matrix[index][:, index])

    def shrunk(self, share: float) -> "Moment":
        """Returns the moment with `share` times each site's mean diagonal added to its diagonal.

        In directions in which a sample of text has almost no energy, a change seems to cost
        nothing. But other text does have energy there. The effect grows with fewer tokens and with
        a larger condition number of C. This addition gives every direction a cost.
        """
        if not share:
            return self
        matrix = self.matrix.clone()
        matrix.diagonal().add_(self._addition(share))
        return replace(self, matrix=matrix)

    def of(self, site: WriteSite) -> "Moment":
        """Returns the moment of one of the sites, a view of this one; the same at every call."""
        if (site,) == self.sites:
            return self
        if site not in self._parts:
            block = self.block(site, site)
            self._parts[site] = Moment((site,), (len(block),), block, self.n_tokens, self.corpus)
        return self._parts[site]

    @functools.cached_property
    def condition(self) -> float:
        """Largest eigenvalue over smallest; infinite if the smallest is zero up to rounding.

        In Gemma 3 270M at layer 5, with the defaults: 2e4 for W_out, 6e5 for W_O. The time grows
        with the cube of the keys' length: half a second for 2,048 numbers, minutes for 16,384.
        """
        values = torch.linalg.eigvalsh(self.matrix)
        smallest, largest = float(values[0]), float(values[-1])
        return largest / smallest if smallest > largest * self._rounding else math.inf

    def solve(self, columns: Float[Tensor, "d_keys n"]) -> Float[Tensor, "d_keys n"]:
        """Returns C⁻¹x of each column x, in float64.

        C is singular if there are fewer tokens than numbers in a key, or if some neurons never
        fire. Then the result is (C + r·I)⁻¹x, where r is the smallest of RIDGES, times the mean of
        C's diagonal, that makes the matrix invertible. A warning says so.
        """
        return self.inverse()(columns)

    def inverse(self, shrink: float = 0.0) -> "Inverse":
        """Returns x -> C⁻¹x for the moment as `shrunk` returns it; the same at every call.

        It holds a factor as large as C, and not C itself, which an editor can then let go.
        """
        if shrink not in self._inverses:
            self._inverses[shrink] = Inverse(self._factor(shrink))
        return self._inverses[shrink]

    @functools.cached_property
    def _parts(self) -> dict[WriteSite, "Moment"]:
        return {}

    @functools.cached_property
    def _inverses(self) -> dict[float, "Inverse"]:
        return {}

    def _factor(self, shrink: float) -> Tensor:
        """Returns the lower Cholesky factor of the shrunk C, or of that with a ridge."""
        diagonal = self.matrix.diagonal()
        if shrink:
            diagonal = diagonal + self._addition(shrink)
        for ridge in RIDGES:
            # transposed, so that columns are adjacent, as LAPACK needs them: then the factor takes
            # the place of the copy
            factor, failed = self.matrix.clone().T, diagonal.new_zeros((), dtype=torch.int32)
            factor.diagonal().copy_(diagonal + ridge * diagonal.mean())
            torch.linalg.cholesky_ex(factor, out=(factor, failed))
            # In a singular C, rounding can leave a tiny positive pivot. Cholesky accepts it, but
            # C⁻¹ is then as large as the inverse of this rounding error.
            if not failed and factor.diagonal().min() ** 2 > self._rounding * diagonal.max():
                if ridge:
                    log.warning(
                        "The moment of %s over %d tokens is singular: %.0e times its mean diagonal "
                        "is added to the diagonal (more text may make this unnecessary)",
                        listed(self.sites),
                        self.n_tokens,
                        ridge,
                    )
                return factor
        raise InputError(
            f"the moment of {listed(self.sites)} cannot be inverted: keys are zero or not finite, "
            "or the matrix has negative eigenvalues"
        )

    def _addition(self, share: float) -> Float[Tensor, " d_keys"]:
        """Returns `share` times the mean diagonal of its site for each number of the keys."""
        diagonal = self.matrix.diagonal()
        means = [diagonal[self._rows(site)].mean().expand(n) for site, n in self._widths]
        return share * torch.cat(means)

    @property
    def _widths(self) -> list[tuple[WriteSite, int]]:
        return list(zip(self.sites, self.d_keys, strict=True))

    @property
    def _rounding(self) -> float:
        return len(self.matrix) * torch.finfo(self.matrix.dtype).eps

    def _rows(self, site: WriteSite) -> slice:
        if site not in self.sites:
            raise InputError(
                f"this is the moment of {listed(self.sites)}, not of {listed((site,))}"
            )
        index = self.sites.index(site)
        start = sum(self.d_keys[:index])
        return slice(start, start + self.d_keys[index])


@dataclass(frozen=True, eq=False)
class Inverse:
    """x -> C⁻¹x for columns x, in float64, from the lower Cholesky factor of C."""

    factor: Float[Tensor, "d_keys d_keys"]

    def __call__(self, columns: Float[Tensor, "d_keys n"]) -> Float[Tensor, "d_keys n"]:
        # torch.cholesky_solve would copy the factor, which can be the largest matrix in memory
        half = torch.linalg.solve_triangular(self.factor, columns.to(self.factor), upper=False)
        return torch.linalg.solve_triangular(self.factor.T, half, upper=True)
