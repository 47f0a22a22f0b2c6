"""What heads do on facts that they were not chosen on: means over facts, with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kedit.heads import Head
from kedit.records import to_record
from kedit.results.base import Result
from kedit.results.decoding import Decoded
from kedit.results.fact_answers import CUTS, Ablated, FactAnswers, HeadAnswer
from kedit.stats import Interval, bootstrap_ratio
from kedit.tables import EFFECT_UNITS, Table, estimate, plural

TOGETHER, RANDOM = "together", "random"


class Panel(NamedTuple):
    """Means over facts of what was asked, by head, and their unit."""

    asked: str
    unit: str
    means: Mapping[str, Interval]

    @property
    def name(self) -> str:
        return f"{self.asked} ({self.unit})"


@dataclass(frozen=True)
class HeadAnswers(Result):
    """What a relation's heads do, with 95 % bootstrap intervals over facts.

    Args:
        metric: of the scores, the one that means, tables and figures show.
        corrupt: "subject" or "relation": whose words were replaced by others in corrupted runs.
        window: layers in which attention edges were cut together.
        facts: one at least; heads were chosen on others.
        decoded: where a probe decodes the relation, by what was held out: "subject", "wording".
        n_decoded: facts that the probe was trained and tested on.
    """

    FILE = "heads.json"

    model: str
    metric: str
    corrupt: str
    window: int
    seed: int
    facts: tuple[FactAnswers, ...]
    decoded: Mapping[str, tuple[Decoded, ...]]
    n_decoded: int

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(one.head for one in self.facts[0].heads)

    def panels(self) -> tuple[Panel, ...]:
        """The means that are of one number a head: direct effects and ablations."""
        direct = {
            str(head): self._mean([one.direct for one in own]) for head, own in self._by_head()
        }
        return (
            Panel("direct effect", "logits", direct),
            *(self._ablated(stand_in) for stand_in in Ablated._fields),
        )

    def ov_rank(self, head: Head) -> Interval:
        """The median of the answer's rank, with its quartiles."""
        ranks = [own.ov_rank for own in dict(self._by_head())[head]]
        low, median, high = map(np.asarray, np.quantile(ranks, [0.25, 0.5, 0.75]))
        return Interval(median, low, high)

    def curves(self) -> Mapping[str, Interval]:
        """The answer's relative change by layer and by cut, over the facts with such tokens."""
        return {name: self._mean(rows) for name in CUTS if (rows := self._knocked_out(name))}

    def paths(self) -> Mapping[Head, Mapping[str, Interval]]:
        """Indirect effects from each head straight to each receiver."""
        return {
            head: {
                receiver: self._mean([getattr(one.paths[receiver], self.metric) for one in own])
                for receiver in own[0].paths
            }
            for head, own in self._by_head()
        }

    def table(self) -> Table:
        panels, relations = self.panels(), len({one.relation for one in self.facts})
        clean = sum(getattr(one.clean, self.metric) for one in self.facts) / len(self.facts)
        ranks = {str(head): self.ov_rank(head) for head in self.heads}
        rows = []
        for name in (*ranks, TOGETHER, RANDOM):
            cells = [
                estimate(*one.means[name].floats()) if name in one.means else "" for one in panels
            ]
            rank = "{:.0f} ({:.0f}, {:.0f})".format(*ranks[name].floats()) if name in ranks else ""
            rows.append((name, *cells, rank))
        return Table(
            title="What the heads do",
            columns=("head", *(one.name for one in panels), "OV rank"),
            rows=tuple(rows),
            note=f"{plural(len(self.facts), 'fact')} of {plural(relations, 'relation')}, none of "
            f"which the heads were chosen on; {self.metric} {clean:.2f} clean. Means, 95 % "
            f"bootstrap intervals over facts (seed {self.seed}); OV rank: of the answer, median "
            "(quartiles), were the head to read the subject's last token alone.",
        )

    def rows(self) -> list[dict[str, Any]]:
        n = {"facts": len(self.facts)}
        return [
            *(
                {"head": head, "question": panel.name, **n, **_bounds(mean)}
                for panel in self.panels()
                for head, mean in panel.means.items()
            ),
            *(
                {
                    "head": str(head),
                    "question": "OV rank of the answer (median, quartiles)",
                    **n,
                    **_bounds(self.ov_rank(head)),
                }
                for head in self.heads
            ),
        ]

    def ov_rows(self) -> list[dict[str, Any]]:
        """What each head would write for each fact's subject."""
        return [
            {
                "head": str(own.head),
                "prompt": one.prompt,
                "relation": one.relation,
                "rank of the answer": own.ov_rank,
                "writes": " ".join(map(repr, own.ov_writes)),
            }
            for one in self.facts
            for own in one.heads
        ]

    def knockout_rows(self) -> list[dict[str, Any]]:
        """The answer's relative change with edges cut, by layer."""
        return [
            {"cut": name, "layer": layer, "facts": len(self._knocked_out(name)), **_bounds(change)}
            for name, curve in self.curves().items()
            for layer, change in enumerate(map(Interval._make, zip(*curve, strict=True)))
        ]

    def path_rows(self) -> list[dict[str, Any]]:
        """What goes from each head straight to each receiver."""
        return [
            {"from": str(head), "to": receiver, **_bounds(mean)}
            for head, own in self.paths().items()
            for receiver, mean in own.items()
        ]

    def decoding_rows(self) -> list[dict[str, Any]]:
        """How well each site tells relations apart, and how well the control task."""
        return [
            {
                "held out": split, "site": one.site, "layer": one.layer,
                "head": "" if one.head is None else one.head, "chance": one.chance,
                **_bounds(one.accuracy, "accuracy "), **_bounds(one.control, "control "),
                **_bounds(one.selectivity, "selectivity "),
            }
            for split, found in self.decoded.items()
            for one in found
        ]  # fmt: skip

    def _by_head(self) -> Iterable[tuple[Head, tuple[HeadAnswer, ...]]]:
        """Each head with what it does for each fact."""
        return zip(self.heads, zip(*(one.heads for one in self.facts), strict=True), strict=True)

    def _ablated(self, stand_in: str) -> Panel:
        """Means by head, with these replaced by "mean" or by "resample"."""
        found = {str(head): [one.ablated for one in own] for head, own in self._by_head()}
        found[TOGETHER] = [one.together for one in self.facts]
        found[RANDOM] = [one.random for one in self.facts]
        means = {
            name: self._mean([getattr(getattr(one, stand_in), self.metric) for one in each])
            for name, each in found.items()
        }
        return Panel(f"ablated, {stand_in}", EFFECT_UNITS[self.metric], means)

    def _knocked_out(self, cut: str) -> list[tuple[float, ...]]:
        return [one.knockout[cut] for one in self.facts if cut in one.knockout]

    def _mean(self, rows: Sequence[float | Sequence[float]]) -> Interval:
        return bootstrap_ratio(np.array(rows, dtype=float), np.ones(len(rows)), seed=self.seed)


def _bounds(interval: Interval, prefix: str = "") -> dict[str, Any]:
    """Mean, low and high as columns."""
    return {f"{prefix}{name}": value for name, value in to_record(interval).items()}
