"""Heads compared by relation: their effects, whether relations share them, where they look."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kedit.heads import Head
from kedit.results.base import Result
from kedit.results.heads import Looks, RelationHeads, Sharing
from kedit.tables import Table, csv_text, estimate

if TYPE_CHECKING:
    from kedit.run_folder import RunFolder


@dataclass(frozen=True)
class HeadsByRelation(Result):
    """Which heads carry which relation, whether relations share them, and where they look.

    Args:
        model: its name.
        corruption: what was done to the corrupted words, in words.
        metric: of the effects.
        seed: of the bootstrap and the permutations.
        heads, sharing: one for each part whose relations could be compared, in the same order.
        not_compared: why they could not be, by part.
        looks: of the strongest heads; empty where nothing was compared.
    """

    FILE: ClassVar[str] = "heads.json"

    model: str
    corruption: str
    metric: str
    seed: int
    heads: tuple[RelationHeads, ...]
    sharing: tuple[Sharing, ...]
    not_compared: Mapping[str, str]
    looks: tuple[Looks, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts whose relations were compared."""
        return tuple(one.part for one in self.heads)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, relation, bucket and head."""
        return [row for heads in self.heads for row in _effects(heads)]

    def look_rows(self) -> list[dict[str, Any]]:
        """Where each head looks: a row for each head and role."""
        return [
            {"head": str(one.head), "to": role, "facts": one.n_facts}
            | {
                f"{name}{bound}": float(values[column])
                for name, interval in (("attention", one.share), ("moved", one.moved))
                for bound, values in zip(("", " low", " high"), interval, strict=True)
            }
            for one in self.looks
            for column, role in enumerate(one.roles)
        ]

    def table(self) -> Table:
        """Do relations share heads?"""
        return Table(
            "Do relations share heads? Correlations of single facts' maps of head effects",
            ("corrupted", "relations", "facts", "within", "between", "shared", "p"),
            tuple(
                (
                    one.part,
                    str(one.n_relations),
                    str(one.n_facts),
                    *(estimate(*each.floats()) for each in (one.within, one.between, one.shared)),
                    f"{one.p:.2g}",
                )
                for one in self.sharing
            ),
            "shared: between / within; 1 if all relations have the same heads. 95 % bootstrap "
            "intervals over relations; p: facts permuted among relations.",
        )

    def save(self, folder: "RunFolder") -> None:
        """Writes heads.json, and heads.csv and looks.csv."""
        super().save(folder)
        folder.write("looks.csv", csv_text(self.look_rows()))


def _effects(heads: RelationHeads) -> list[dict[str, Any]]:
    return [
        {
            "corrupted": heads.part,
            "relation": heads.relations[relation],
            "facts": heads.n_facts[relation],
            "bucket": heads.buckets[bucket],
            "head": str(Head(layer, head)),
            "effect": float(heads.mean[relation, bucket, layer, head]),
            "low": float(heads.low[relation, bucket, layer, head]),
            "high": float(heads.high[relation, bucket, layer, head]),
        }
        for relation, bucket, layer, head in np.ndindex(heads.mean.shape)
    ]
