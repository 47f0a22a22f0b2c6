"""Describes patched cells and how their residuals go up the layers together.

Each cell needs one restored run. All cells of one position form a `Column`, and a `CellPath` is the
column on its way up: a batch of rows that grows when cells enter at their layers. The cells share
this walk because, from their position on, they all need the same blocks over the same earlier keys
and values: a block is computed once for all rows, and not once per cell.

Cells whose runs are equal up to some layer even share one row, a `Trunk`. This happens with windows
that begin at the same layer, as those do that are cut off at layer 0. They restore the same outputs
until the shortest of them ends. Then its cell leaves the shared row for a row of its own:

    layer           0     1     2     3        h  the output is held at its clean value: shared row
    cell 0          h     h     .     .        .  nothing is held: the cell's own row
    cell 1          h     h     h     .
    cell 2          h     h     h     h
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.forward.runs import Held, States


@dataclass(frozen=True)
class Trunk:
    """Patched cells that share one row of the batch for a while.

    Args:
        layer: the cells' state enters as resid_post of this layer.
        state: this residual, at the first positions of the column (without positions: the corrupted
            residual enters unchanged).
        cells: pairs of the cell's number and the last layer at which it is held. While a cell is
            held, the output of attention or MLP at the column's first position is overwritten. A
            cell that is released before others of its trunk continues in a row of its own.
    """

    layer: int
    state: Float[Tensor, "sample patched_pos d_model"]
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Hold:
    """Which half's output is overwritten at the column's first position while cells are held.

    Args:
        values: for each layer the values that overwrite it.
    """

    half: Held
    values: tuple[Float[Tensor, "batch d_model"], ...]


@dataclass(frozen=True)
class Column:
    """The cells of one position.

    Args:
        first: the first position that is computed again; the trunks' states begin here.
        trunks: the cells, in groups that share a row.
        hold: what is overwritten while cells are held; None if no cell is held.
        before: the run whose keys and values are used at positions before `first`; None: the
            corrupted run.
    """

    first: int
    trunks: tuple[Trunk, ...]
    hold: Hold | None = None
    before: States | None = None


@dataclass
class CellPath:
    """A column on its way up the layers: the residual of each row, and the cells of each row.

    Args:
        resid: the residual at the column's positions. Rows in which nothing is held come first.
        rows: for each row its cells, as in `Trunk.cells`.
    """

    column: Column
    resid: Float[Tensor, "row sample pos d_model"]
    rows: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def n_free(self, layer: int) -> int:
        """Returns the number of rows in which nothing is held at `layer`."""
        if self.column.hold is None:
            return len(self.rows)
        return sum(all(end < layer for _, end in cells) for cells in self.rows)

    def enter(self, layer: int, tail: Float[Tensor, "sample pos d_model"]) -> None:
        """Adds a row for each trunk that enters after `layer`.

        Args:
            tail: the corrupted resid_post of this layer at the column's positions. The trunk's
                state overwrites its first positions.
        """
        entering = [trunk for trunk in self.column.trunks if trunk.layer == layer]
        if entering:
            new = tail.expand(len(entering), *tail.shape).clone()
            for row, trunk in zip(new, entering, strict=True):
                row[:, : trunk.state.shape[1]] = trunk.state
            self.resid = torch.cat([self.resid, new[:, :, -self.resid.shape[2] :]])
            self.rows += [trunk.cells for trunk in entering]

    def release(self, layer: int) -> None:
        """Moves the cells whose hold ends with `layer` to rows of their own, before held rows."""
        if self.column.hold is None:
            return
        free, held = [], []
        for index, cells in enumerate(self.rows):
            ended = tuple(cell for cell in cells if cell[1] <= layer)
            continuing = tuple(cell for cell in cells if cell[1] > layer)
            free += [(index, ended)] if ended else []
            held += [(index, continuing)] if continuing else []
        order = [index for index, _ in free + held]
        self.rows = [cells for _, cells in free + held]
        if order != list(range(len(self.resid))):
            index = torch.tensor(order).to(self.resid.device, non_blocking=True)
            self.resid = self.resid[index]
