"""The base class of results of sweeps: records, rows, tables and plots of `EffectGrid`s."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from kedit.results.grids import EffectGrid, grid_records, grid_tensors
from kedit.stats import largest
from kedit.tables import Table, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLUMNS = ("site", "layer", "position", "token", "head", "effect")  # of `Swept.top`


class Swept:
    """Base class of dataclasses that hold the sweeps of one clean prompt.

    Args:
        labels: the text of each of the prompt's tokens.
        grids: the scores of each sweep, by `EffectGrid.name`.
        answer, foil: the tokens that are scored.
        given: the answer's tokens before the scored token; they end the prompt.
        whole: whether all tokens of the answer are scored.

    RUNS are the names of the run whose activations are put in, and of the run that gets them.
    """

    RUNS: ClassVar[tuple[str, str]] = ("clean", "corrupted")

    labels: tuple[str, ...]
    grids: Mapping[str, EffectGrid]
    answer: str
    foil: str
    given: str
    whole: bool = False

    @property
    def text(self) -> str:
        """The clean prompt."""
        raise NotImplementedError

    @property
    def corrupted_how(self) -> str:
        """How the prompt was corrupted, as a phrase."""
        raise NotImplementedError

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that were measured: METRICS, or a user's own metric."""
        return next(iter(self.grids.values())).metrics

    def summary(self, metric: str = "") -> str:
        """What is scored, with its score in the clean and in the corrupted run, in sentences.

        Args:
            metric: one of `metrics`; "" for the first.
        """
        metric = metric or self.metrics[0]
        grid = next(iter(self.grids.values()))
        clean, corrupted = (float(run[grid.index(metric)]) for run in (grid.clean, grid.corrupted))
        source, target = self.RUNS
        scores = f"{metric}: {clean:.2g} in the {source} run, {corrupted:.2g} in the {target} run."
        if not self.answer:
            return scores
        given = f" after {self.given!r}" if self.given else ""
        kind = "all tokens of" if self.whole else "the token"
        return f"Scored: {kind} {self.answer!r}{given}, against {self.foil!r}. {scores}"

    def strongest(self, n: int = 5, metric: str = "") -> list[dict[str, Any]]:
        """The rows (see `rows`) of the `n` largest effects of either sign in each grid.

        Args:
            metric: one of `metrics`; "" for the first.
        """
        metric = metric or self.metrics[0]
        found = []
        for name, grid in self.grids.items():
            effects = grid.indirect_effect(metric).numpy()
            rows = effect_rows({name: grid}, self.labels, (metric,))
            indices = [np.ravel_multi_index(cell, effects.shape) for cell in largest(effects, n)]
            found += [rows[index] for index in indices if rows[index]["effect"]]
        return found

    def top(self, n: int = 5, metric: str = "") -> Table:
        """`strongest` as a table."""
        metric = metric or self.metrics[0]
        return Table(
            f"The strongest cells of each site ({metric})",
            COLUMNS,
            tuple(map(_shown, self.strongest(n, metric))),
            f"{self.text!r}, {self.RUNS[1]}: {self.corrupted_how}.\n{self.summary(metric)}",
        )

    def table(self) -> Table:
        """The main table: `top`."""
        return self.top()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each indirect effect, with its site, layer, position, head and metric."""
        return effect_rows(self.grids, self.labels)

    def to_pandas(self) -> "DataFrame":
        """`rows` as a data frame."""
        return frame(self.rows())

    def plot(self, name: str = "", metric: str = "", model: str = "") -> "Figure":
        """Draws the effects of one grid by token and layer.

        Args:
            name: one of `grids`; "" for the first.
            metric: one of `metrics`; "" for the first.
            model: name of the model, for the title.
        """
        from kedit.show import plot

        return plot(self, name, metric, model)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def to_record(self) -> dict[str, Any]:
        """All fields except the tensors, for one line of JSON."""
        return vars(self) | {"grids": grid_records(self.grids)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the grids, for one safetensors file."""
        return grid_tensors(self.grids)


def effect_rows(
    grids: Mapping[str, EffectGrid], labels: Sequence[str], metrics: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row for each indirect effect, for `pandas.DataFrame`.

    Args:
        grids: the grids, by `EffectGrid.name`.
        labels: the text of each of the prompt's tokens.
        metrics: the metrics that have rows; empty: all metrics.
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
    """The cells of a row in the table, by COLUMNS."""
    head = "" if row["head"] is None else str(row["head"])
    cell = row["site"], str(row["layer"]), str(row["position"]), repr(row["token"])
    return (*cell, head, f"{row['effect']:.2g}")
