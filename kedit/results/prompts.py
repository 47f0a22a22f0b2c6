"""What patching one's own prompts found: the effect of every cell, with the texts it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from kedit.markdown import escaped, table
from kedit.results.grids import EffectGrid, Swept, effect_rows, grids_of
from kedit.stats import largest

COLUMNS = ("site", "layer", "position", "token", "head", "effect")


@dataclass(frozen=True)
class PromptTrace(Swept):
    """All sweeps of a clean text and of the corrupted ones that it is held against.

    Args:
        clean, corrupted_texts: as they were given, without blanks at their ends.
        labels: the clean prompt's tokens, those that are given of the answer at the end.
        corrupted: the positions at which tokens differ.
        grids: by EffectGrid.name.
        answer, foil: the tokens that are scored; "" with a metric of one's own.
        given: the answer's tokens before the one that is scored, which end every prompt.
    """

    clean: str
    corrupted_texts: tuple[str, ...]
    labels: tuple[str, ...]
    corrupted: tuple[int, ...]
    grids: Mapping[str, EffectGrid]
    answer: str = ""
    foil: str = ""
    given: str = ""

    def __repr__(self) -> str:
        scored = repr(self.answer) if self.answer else self.metrics[0]
        return f"PromptTrace({self.clean!r} -> {scored}, {', '.join(self.grids)})"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Which scores there are: METRICS, or the metric of one's own."""
        return next(iter(self.grids.values())).metrics

    @property
    def corrupted_how(self) -> str:
        """What the clean text was exchanged for, in words."""
        first, *others = self.corrupted_texts
        return f"{len(others) + 1} other texts" if others else f"“{first}”"

    def summary(self, metric: str = "") -> str:
        """Which token is scored, and how the two runs score it, in a sentence or two.

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
        return f"Scored: the token {self.answer!r}{given}, against {self.foil!r}. {told}"

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

    def table(self, n: int = 5, metric: str = "") -> str:
        """`strongest` as a table in Markdown, effects with two significant digits."""
        rows = (map(escaped, shown(row)) for row in self.strongest(n, metric))
        return table(COLUMNS, map(tuple, rows))

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "PromptTrace":
        """The inverse of `to_record` and `tensors`."""
        fields: dict[str, Any] = {name: record[name] for name in cls.__dataclass_fields__}
        for name in ("corrupted_texts", "labels", "corrupted"):
            fields[name] = tuple(fields[name])
        fields["grids"] = grids_of(record["grids"], tensors)
        return cls(**fields)


def shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """COLUMNS of a row of `PromptTrace.strongest`, as texts."""
    head = "" if row["head"] is None else str(row["head"])
    place = row["site"], str(row["layer"]), str(row["position"]), repr(row["token"])
    return (*place, head, f"{row['effect']:.2g}")
