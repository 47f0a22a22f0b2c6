"""The result of comparing relations by heads: effects, shared heads, attention patterns."""

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
    """Which heads carry which relation, whether relations share heads, and where heads attend.

    Args:
        model: name of the model.
        corruption: what was done to the corrupted words, as a phrase.
        metric: metric of the effects.
        seed: seed of the bootstrap and of the permutations.
        heads, sharing: one entry for each part whose relations could be compared, in the same
            order.
        not_compared: why a part's relations could not be compared, by part.
        looks: where the strongest heads attend; empty if no relations were compared.
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
        return tuple(heads.part for heads in self.heads)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, relation, bucket and head."""
        return [row for heads in self.heads for row in _effects(heads)]

    def look_rows(self) -> list[dict[str, Any]]:
        """Where each head attends: a row for each head and role of tokens."""
        return [
            {"head": str(look.head), "to": role, "facts": look.n_facts}
            | {
                f"{name}{bound}": float(values[column])
                for name, interval in (("attention", look.share), ("moved", look.moved))
                for bound, values in zip(("", " low", " high"), interval, strict=True)
            }
            for look in self.looks
            for column, role in enumerate(look.roles)
        ]

    def table(self) -> Table:
        """Whether relations share heads: a row for each part."""
        return Table(
            "Do relations share heads? Correlations between single facts' head effects",
            ("corrupted", "relations", "facts", "same relation", "different", "shared", "p"),
            tuple(
                (
                    part.part,
                    str(part.n_relations),
                    str(part.n_facts),
                    *(
                        estimate(*mean.floats())
                        for mean in (part.within, part.between, part.shared)
                    ),
                    f"{part.p:.2g}",
                )
                for part in self.sharing
            ),
            "same relation, different: mean Pearson's r between facts of one relation, or of two. "
            "shared: their ratio, different / same; 1 if all relations use the same heads. 95 % "
            "bootstrap intervals over relations. p: facts permuted among relations.",
        )

    def save(self, folder: "RunFolder") -> None:
        """Writes heads.json, heads.csv and looks.csv."""
        super().save(folder)
        folder.write("looks.csv", csv_text(self.look_rows()))


def _effects(heads: RelationHeads) -> list[dict[str, Any]]:
    """A row for each relation, bucket and head."""
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
