"""Attention's share of recall, by kind of relation."""

from dataclasses import dataclass
from typing import Any, ClassVar

from kedit.results.base import Result
from kedit.results.heads import AttentionShare, KindTest
from kedit.tables import Table, two_digits


@dataclass(frozen=True)
class KindsCompared(Result):
    """Do kinds of relations differ in attention's share of the indirect effect?

    Args:
        model: its name.
        corruption: what was done to the corrupted words, in words.
        metric: of the effects.
        seed: of the bootstrap and the permutations.
        n_facts: over all parts.
        shares: by part, measure and kind; tests: by part and measure.
    """

    FILE: ClassVar[str] = "kinds.json"

    model: str
    corruption: str
    metric: str
    seed: int
    n_facts: int
    shares: tuple[AttentionShare, ...]
    tests: tuple[KindTest, ...]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, measure and kind."""
        return [vars(one) | one.share.named("share") for one in self.shares]

    def table(self) -> Table:
        """The shares, and below them whether the kinds differ."""
        rows = [
            (one.part, one.measure, one.kind, str(one.n_relations), str(one.n_facts),
             two_digits(one.share))
            for one in self.shares
        ]  # fmt: skip
        rows += [
            (one.part, one.measure, "differ by", "", "", f"{one.spread:.2f}, p = {one.p:.3g}")
            for one in self.tests
        ]
        return Table(
            "Attention's share of the indirect effect, by kind of relation",
            ("corrupted", "measure", "kind", "relations", "facts", "share"),
            tuple(rows),
            "95 % bootstrap intervals over relations; p: kinds permuted among relations.",
        )
