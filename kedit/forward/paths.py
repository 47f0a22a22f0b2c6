"""Patched cells on their way up the layers: what enters where, what is held, what splits off."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.forward.runs import Held, States


@dataclass(frozen=True)
class Trunk:
    """Patched cells that share a path through the layers for a while.

    Args:
        layer: their state enters as resid_post of this layer.
        state: that residual, at the first positions that are run anew (none: nothing is put in).
        cells: (cell, layer): the cell's own number, and the last layer at which it is held. While
            a cell is held, attention's or MLP's output at the first position is overwritten; a cell
            that is released earlier than others of its trunk goes on from there by itself.
    """

    layer: int
    state: Float[Tensor, "sample patched_pos d_model"]
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Hold:
    """Which half of the held cells' blocks is overwritten at the first position, and with what."""

    half: Held
    values: tuple[Float[Tensor, "batch d_model"], ...]  # by layer


@dataclass(frozen=True)
class Column:
    """The cells of one position.

    Args:
        first: the first position that is run anew; the trunks' states begin here.
        trunks: the cells, by path.
        hold: what is held, if anything is.
        before: the run whose keys and values stand before `first`; the corrupted run if None.
    """

    first: int
    trunks: tuple[Trunk, ...]
    hold: Hold | None = None
    before: States | None = None


@dataclass
class CellPath:
    """A column on its way up: its rows' residuals, and the cells that still follow each row."""

    column: Column
    resid: Float[Tensor, "row sample pos d_model"]  # free rows first, then those still held
    rows: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def n_free(self, layer: int) -> int:
        """Rows that nothing holds at `layer`."""
        if self.column.hold is None:
            return len(self.rows)
        return sum(all(end < layer for _, end in cells) for cells in self.rows)

    def enter(self, layer: int, tail: Float[Tensor, "sample pos d_model"]) -> None:
        """Adds the trunks that enter behind `layer`: a copy each of the corrupted residual."""
        entering = [trunk for trunk in self.column.trunks if trunk.layer == layer]
        if entering:
            new = tail.expand(len(entering), *tail.shape).clone()
            for row, trunk in zip(new, entering, strict=True):
                row[:, : trunk.state.shape[1]] = trunk.state
            self.resid = torch.cat([self.resid, new[:, :, -self.resid.shape[2] :]])
            self.rows += [trunk.cells for trunk in entering]

    def release(self, layer: int) -> None:
        """Splits off the cells whose hold ends with `layer`."""
        if self.column.hold is None:
            return
        free, held = [], []
        for index, cells in enumerate(self.rows):
            ended = tuple(cell for cell in cells if cell[1] <= layer)
            going_on = tuple(cell for cell in cells if cell[1] > layer)
            free += [(index, ended)] if ended else []
            held += [(index, going_on)] if going_on else []
        order = [index for index, _ in free + held]
        self.rows = [cells for _, cells in free + held]
        if order != list(range(len(self.resid))):
            self.resid = self.resid[torch.tensor(order, device=self.resid.device)]
