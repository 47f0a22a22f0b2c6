"""The result of comparing kinds of relations: attention's share of the indirect effect."""

from dataclasses import dataclass
from typing import Any, ClassVar

from kedit.results.base import Result
from kedit.results.heads import AttentionShare, KindTest
from kedit.tables import Table, two_digits


@dataclass(frozen=True)
class KindsCompared(Result):
    """Attention's share of the indirect effect by kind of relation, and whether kinds differ.

    Args:
        model: name of the model.
        corruption: what was done to the corrupted words, as a phrase.
        metric: metric of the effects.
        seed: seed of the bootstrap and of the permutations.
        n_facts: number of facts, over all parts.
        shares: the shares by part, measure and kind.
        tests: whether the kinds differ, by part and measure.
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
        return [vars(share) | share.share.named("share") for share in self.shares]

    def table(self) -> Table:
        """The shares, and below them the tests whether the kinds differ."""
        rows = [
            (share.part, share.measure, share.kind, str(share.n_relations), str(share.n_facts),
             two_digits(share.share))
            for share in self.shares
        ]  # fmt: skip
        rows += [
            (test.part, test.measure, "differ by", "", "", f"{test.spread:.2f}, p = {test.p:.3g}")
            for test in self.tests
        ]
        return Table(
            "Attention's share of the indirect effect, by kind of relation",
            ("corrupted", "measure", "kind", "relations", "facts", "share"),
            tuple(rows),
            "95 % bootstrap intervals over relations. p: kinds permuted among relations.",
        )
