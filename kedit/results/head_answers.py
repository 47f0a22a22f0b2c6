"""The result of `ask_heads`: what chosen heads do, as means over other facts with intervals."""

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

TOGETHER, RANDOM = "together", "random"  # all heads ablated at once; as many random heads


class Panel(NamedTuple):
    """Means over facts of one quantity, by head.

    Args:
        asked: the quantity, such as "direct effect".
        unit: its unit.
        means: by head; for ablations also of TOGETHER and RANDOM.
    """

    asked: str
    unit: str
    means: Mapping[str, Interval]

    @property
    def name(self) -> str:
        """The quantity with its unit."""
        return f"{self.asked} ({self.unit})"


@dataclass(frozen=True)
class HeadAnswers(Result):
    """What a relation's heads do, with 95 % bootstrap intervals over facts.

    Args:
        model: name of the model.
        metric: the metric that means, tables and figures show.
        corrupt: whose words were replaced by others in corrupted runs: "subject" or "relation".
        window: number of layers in which attention edges were cut together.
        seed: seed of the bootstrap and of all random draws.
        facts: the measurements on each fact; at least one fact. The heads were chosen on other
            facts.
        decoded: accuracies of linear probes, by what was held out: "subject" or "wording".
        n_decoded: number of facts that these probes were trained and tested on.
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
        """The heads, in the order of all lists of heads."""
        return tuple(answer.head for answer in self.facts[0].heads)

    def panels(self) -> tuple[Panel, ...]:
        """The quantities that are one number per head: direct effects and ablations."""
        direct = {
            str(head): self._mean([answer.direct for answer in answers])
            for head, answers in self._by_head()
        }
        return (
            Panel("direct effect", "logits", direct),
            *(self._ablated(stand_in) for stand_in in Ablated._fields),
        )

    def ov_rank(self, head: Head) -> Interval:
        """The median over facts of the answer's rank, with the quartiles as bounds."""
        ranks = [answer.ov_rank for answer in dict(self._by_head())[head]]
        low, median, high = map(np.asarray, np.quantile(ranks, [0.25, 0.5, 0.75]))
        return Interval(median, low, high)

    def curves(self) -> Mapping[str, Interval]:
        """Relative change of the answer's probability, by cut and then by layer."""
        return {name: self._mean(rows) for name in CUTS if (rows := self._knocked_out(name))}

    def n_cut(self, name: str) -> int:
        """Returns the number of facts whose prompt has the tokens of a cut (CUTS)."""
        return len(self._knocked_out(name))

    def paths(self) -> Mapping[Head, Mapping[str, Interval]]:
        """Indirect effect of each head through each receiver alone."""
        return {
            head: {
                receiver: self._mean(
                    [getattr(answer.paths[receiver], self.metric) for answer in answers]
                )
                for receiver in answers[0].paths
            }
            for head, answers in self._by_head()
        }

    def table(self) -> Table:
        panels, relations = self.panels(), len({fact.relation for fact in self.facts})
        clean = sum(getattr(fact.clean, self.metric) for fact in self.facts) / len(self.facts)
        ranks = {str(head): self.ov_rank(head) for head in self.heads}
        rows = []
        for name in (*ranks, TOGETHER, RANDOM):
            cells = [
                estimate(*panel.means[name].floats()) if name in panel.means else ""
                for panel in panels
            ]
            rank = "{:.0f} ({:.0f}, {:.0f})".format(*ranks[name].floats()) if name in ranks else ""
            rows.append((name, *cells, rank))
        return Table(
            title="Direct effects, ablations and OV circuits of the heads",
            columns=("head", *(panel.name for panel in panels), "OV rank"),
            rows=tuple(rows),
            note=f"{plural(len(self.facts), 'fact')} of {plural(relations, 'relation')}; the "
            f"heads were chosen on other facts. {self.metric} is {clean:.2f} in clean runs. Means "
            f"with 95 % bootstrap intervals over facts (seed {self.seed}). OV rank: rank of the "
            "answer if the head attended only to the subject's last token, median (quartiles). "
            "together: all these heads ablated at once; random: as many random heads.",
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
        """What each head would write if it attended only to the subject's last token, by fact."""
        return [
            {
                "head": str(answer.head),
                "prompt": fact.prompt,
                "relation": fact.relation,
                "rank of the answer": answer.ov_rank,
                "writes": " ".join(map(repr, answer.ov_writes)),
            }
            for fact in self.facts
            for answer in fact.heads
        ]

    def knockout_rows(self) -> list[dict[str, Any]]:
        """Relative change of the answer's probability with attention edges cut, by layer."""
        return [
            {"cut": name, "layer": layer, "facts": self.n_cut(name), **_bounds(change)}
            for name, curve in self.curves().items()
            for layer, change in enumerate(map(Interval._make, zip(*curve, strict=True)))
        ]

    def path_rows(self) -> list[dict[str, Any]]:
        """Indirect effect of each head through each receiver alone."""
        return [
            {"from": str(head), "to": receiver, **_bounds(mean)}
            for head, effects in self.paths().items()
            for receiver, mean in effects.items()
        ]

    def decoding_rows(self) -> list[dict[str, Any]]:
        """Accuracy of the relation's probe and of its control task at each site."""
        return [
            {
                "held out": split, "site": probe.site, "layer": probe.layer,
                "head": "" if probe.head is None else probe.head, "chance": probe.chance,
                **_bounds(probe.accuracy, "accuracy "), **_bounds(probe.control, "control "),
                **_bounds(probe.selectivity, "selectivity "),
            }
            for split, found in self.decoded.items()
            for probe in found
        ]  # fmt: skip

    def _by_head(self) -> Iterable[tuple[Head, tuple[HeadAnswer, ...]]]:
        """Each head with its answers on all facts."""
        per_head = zip(*(fact.heads for fact in self.facts), strict=True)
        return zip(self.heads, per_head, strict=True)

    def _ablated(self, stand_in: str) -> Panel:
        """Mean effect of ablating each head; `stand_in` is a field of `Ablated`."""
        found = {
            str(head): [answer.ablated for answer in answers] for head, answers in self._by_head()
        }
        found[TOGETHER] = [fact.together for fact in self.facts]
        found[RANDOM] = [fact.random for fact in self.facts]
        means = {
            name: self._mean(
                [getattr(getattr(ablated, stand_in), self.metric) for ablated in facts]
            )
            for name, facts in found.items()
        }
        return Panel(f"ablated, {stand_in}", EFFECT_UNITS[self.metric], means)

    def _knocked_out(self, cut: str) -> list[tuple[float, ...]]:
        """The curves of one cut, of the facts that have it."""
        return [fact.knockout[cut] for fact in self.facts if cut in fact.knockout]

    def _mean(self, rows: Sequence[float | Sequence[float]]) -> Interval:
        return bootstrap_ratio(np.array(rows, dtype=float), np.ones(len(rows)), seed=self.seed)


def _bounds(interval: Interval, prefix: str = "") -> dict[str, Any]:
    """The mean and the bounds as columns."""
    return {f"{prefix}{name}": value for name, value in to_record(interval).items()}
