"""What the results of sweeps share: how they are stored, listed, shown and drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from kedit.results.grids import EffectGrid, grid_records, grid_tensors
from kedit.stats import largest
from kedit.tables import Table, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("site", "layer", "position", "token", "head", "effect")  # of a table of cells


class Swept:
    """What the results of sweeps share: their grids in records and in files, as rows and figures.

    A dataclass of this kind has `labels`, the text under each of the prompt's tokens, `grids`, by
    EffectGrid.name, and what is scored: `answer`, `foil`, and the answer's tokens `given` before.
    """

    labels: tuple[str, ...]
    grids: Mapping[str, EffectGrid]
    answer: str
    foil: str
    given: str
    whole: bool = False

    @property
    def text(self) -> str:
        """The clean text."""
        raise NotImplementedError

    @property
    def corrupted_how(self) -> str:
        """How it was corrupted, in words."""
        raise NotImplementedError

    @property
    def metrics(self) -> tuple[str, ...]:
        """Which scores there are: METRICS, or the metric of one's own."""
        return next(iter(self.grids.values())).metrics

    def summary(self, metric: str = "") -> str:
        """What is scored, and how the two runs score it, in a sentence or two.

        Args:
            metric: one of `metrics`; "" for the first.
        """
        metric = metric or self.metrics[0]
        grid = next(iter(self.grids.values()))
        clean, corrupted = (float(run[grid.index(metric)]) for run in (grid.clean, grid.corrupted))
        told = f"{metric}: {clean:.2g} in the clean run, {corrupted:.2g} in the corrupted one."
        if not self.answer:
            return told
        given = f" behind {self.given!r}" if self.given else ""
        kind = "all tokens of" if self.whole else "the token"
        return f"Scored: {kind} {self.answer!r}{given}, against {self.foil!r}. {told}"

    def strongest(self, n: int = 5, metric: str = "") -> list[dict[str, Any]]:
        """The `n` largest effects of either sign of each grid, as `rows` has them.

        Args:
            metric: one of `metrics`; "" for the first.
        """
        metric = metric or self.metrics[0]
        found = []
        for name, grid in self.grids.items():
            effects = grid.indirect_effect(metric).numpy()
            rows = effect_rows({name: grid}, self.labels, (metric,))
            places = [np.ravel_multi_index(at, effects.shape) for at in largest(effects, n)]
            found += [rows[place] for place in places if rows[place]["effect"]]
        return found

    def top(self, n: int = 5, metric: str = "") -> Table:
        """`strongest` as a table, effects with two significant digits."""
        metric = metric or self.metrics[0]
        return Table(
            f"The strongest cells of each site ({metric})",
            COLUMNS,
            tuple(map(_shown, self.strongest(n, metric))),
            f"{self.text!r}, corrupted: {self.corrupted_how}.\n{self.summary(metric)}",
        )

    def table(self) -> Table:
        """What a reader should see first."""
        return self.top()

    def rows(self) -> list[dict[str, Any]]:
        """Every indirect effect with its place, a row each."""
        return effect_rows(self.grids, self.labels)

    def to_pandas(self) -> "DataFrame":
        """`rows` as a data frame."""
        return frame(self.rows())

    def plot(self, name: str = "", metric: str = "", model: str = "") -> "Figure":
        """The map of one grid, by default of the first one, by token and layer.

        Args:
            name: one of `grids`.
            metric: one of `metrics`; "" for the first.
            model: its name, for the title.
        """
        from kedit.show import plot

        return plot(self, name, metric, model)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def to_record(self) -> dict[str, Any]:
        """Everything but the tensors, for one line of JSON."""
        return vars(self) | {"grids": grid_records(self.grids)}

    def tensors(self) -> dict[str, Tensor]:
        """The grids' numbers, for one safetensors file."""
        return grid_tensors(self.grids)


def effect_rows(
    grids: Mapping[str, EffectGrid], labels: Sequence[str], metrics: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Every indirect effect with its place, a row each, as `pandas.DataFrame` takes them.

    Args:
        labels: the text under each of the prompt's tokens.
        metrics: of which there are rows; all if empty.
    """
    return [
        {
            "site": name,
            "layer": layer,
            "position": grid.positions[column],
            "token": labels[grid.positions[column]],
            "head": head[0] if head else None,
            "metric": metric,
            "effect": float(effect),
        }
        for name, grid in grids.items()
        for metric in metrics or grid.metrics
        for (layer, column, *head), effect in np.ndenumerate(grid.indirect_effect(metric).numpy())
    ]


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """COLUMNS of a row, as texts."""
    head = "" if row["head"] is None else str(row["head"])
    place = row["site"], str(row["layer"]), str(row["position"]), repr(row["token"])
    return (*place, head, f"{row['effect']:.2g}")
