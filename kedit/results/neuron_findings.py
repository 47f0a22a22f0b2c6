"""All that find_neurons finds: relation by relation, half by half, and what scaling does."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from kedit.models.sites import Half
from kedit.results.base import Result
from kedit.results.neurons import (
    AttributionShare,
    ByLayer,
    RelationNeurons,
    ScalingChange,
    SharedNeurons,
    strongest,
)
from kedit.stats import Interval
from kedit.tables import Table, estimate, percent, plural, two_digits

HALF_NAMES = {"mlp": "MLP", "attn": "attention", "both": "both"}
NAMED = 3  # layers and heads of a relation that a table names


@dataclass(frozen=True)
class LeftOutCounts:
    """What could not be searched.

    Args:
        wrong: facts that the model answers otherwise in too many wordings.
        unusable: facts that cannot be asked.
        relations: ids of those that had too few other facts.
    """

    wrong: int
    unusable: int
    relations: tuple[str, ...]


@dataclass(frozen=True)
class NeuronFindings(Result):
    """Which neurons bring relations' objects, and what scaling them does.

    Args:
        agree_facts: a relation's neurons are those of more than this share of its facts.
        halves: what each half that was searched holds.
        attention: None if one half was not searched.
        sharing: of each half, and of "both".
        changes: what scaling did, in the order of halves, whose neurons, and factors.
        n_prompts: of all facts.
    """

    FILE = "neurons.json"

    model: str
    seed: int
    agree_facts: float
    relations: tuple[RelationNeurons, ...]
    halves: Mapping[Half, ByLayer]
    attention: AttributionShare | None
    sharing: Mapping[str, SharedNeurons]
    changes: tuple[ScalingChange, ...]
    n_prompts: int
    left_out: LeftOutCounts

    @property
    def n_facts(self) -> int:
        """Of all relations together."""
        return sum(one.n_facts for one in self.relations)

    @property
    def clean(self) -> Interval | None:
        """The answers' probability with nothing scaled; None where nothing was.

        Of a change with most facts: where a relation has no neurons of a half, its facts are left
        out.
        """
        return max(self.changes, key=lambda one: one.n_facts).clean if self.changes else None

    def table(self) -> Table:
        """Relation by relation."""
        halves = [HALF_NAMES[half] for half in self.halves]
        return Table(
            title=f"Neurons of {plural(len(self.relations), 'relation')}: {self.model}",
            columns=("relation", "facts", *halves, "layers", "heads"),
            rows=tuple(
                (
                    one.name[:24],
                    str(one.n_facts),
                    *(str(int(one.counts[half].sum())) for half in self.halves),
                    _layers(one),
                    _heads(one) if "attn" in self.halves else "",
                )
                for one in self.relations
            ),
            note=f"Of a relation: the neurons of more than {100 * self.agree_facts:.0f} % of its "
            "facts. Layers: those with most of them. Heads: those with most of the positive "
            "attribution of all sites (each an integral along its own key alone).",
        )

    def half_table(self) -> Table:
        """Both halves side by side."""
        sharing, halves = self.sharing.values(), self.halves.values()
        columns = tuple(HALF_NAMES[half] for half in self.sharing)
        rows = [
            ("neurons of a relation", *(two_digits(one.total) for one in halves)),
            ("neurons of a fact", *(two_digits(one.own) for one in sharing)),
            ("  shared in its relation", *(two_digits(one.within) for one in sharing)),
            ("  shared outside of it", *(two_digits(one.between) for one in sharing)),
        ]
        if self.attention:
            shares = [estimate(*one.share.floats(100)) for one in halves if one.share]
            rows.append(("share of attribution (%)", *shares))
        return Table(
            title="MLP and attention",
            columns=("", *columns),
            # where both were searched, what is not of both together has no third cell
            rows=tuple(row + ("",) * (len(columns) + 1 - len(row)) for row in rows),
            note=f"Means{self._spread}; shared: with another fact, over pairs of facts. "
            "Attribution: the sites' sums, which need not add up across sites.",
        )

    def scaling_table(self) -> Table:
        """What scaling does to the answers: a row for each half and whose neurons."""
        clean = percent(self.clean) or "-"
        rows = []
        for (half, whose), own in groupby(self.changes, key=lambda one: (one.half, one.neurons)):
            pair = list(own)
            cells = [text for one in pair for text in (percent(one.prob), two_digits(one.logprob))]
            n = f"{pair[0].n_neurons:.0f}"
            rows.append((HALF_NAMES[half], whose, n, str(pair[0].n_facts), *cells))
        return Table(
            title="Scaling neurons at the last token: how the answer's probability changes from "
            f"{clean} %",
            columns=("half", "neurons", "n", "facts", "× 0: points", "nats", "× 2: points", "nats"),
            rows=tuple(rows),
            note="In percentage points, and its logarithm in nats: means over facts"
            f"{self._spread}. n: neurons scaled. They were found on other facts of their relation; "
            "loudest and random: as many others at the same sites, those that write most there, "
            "and any. effects.csv has it in percent, too.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """Every neuron of every relation; those of z with their head."""
        return [
            {
                "relation": one.id, "name": one.name, "half": neuron.half, "layer": neuron.layer,
                "index": neuron.index, "head": "" if neuron.head is None else neuron.head,
            }
            for one in self.relations
            for neuron in one.neurons
        ]  # fmt: skip

    def effect_rows(self) -> list[dict[str, Any]]:
        """What scaling does: a row for each half, whose neurons, and factor."""
        return [
            {
                "neurons": one.neurons, "half": one.half, "factor": one.factor,
                "n_facts": one.n_facts, "n_neurons": one.n_neurons, **one.clean.named("clean"),
                **one.prob.named("prob"), **one.relative.named("relative"),
                **one.logprob.named("logprob"),
            }
            for one in self.changes
        ]  # fmt: skip

    @property
    def _spread(self) -> str:
        if len(self.relations) < 2:
            return " (one relation, so no intervals)"
        return f" with 95 % bootstrap intervals over relations (seed {self.seed})"


def _layers(one: RelationNeurons) -> str:
    """Those with most neurons."""
    counts = np.sum([part.sum(1) for part in one.counts.values()], axis=0)
    order = np.argsort(-counts, kind="stable")[:NAMED]
    return ", ".join(f"L{layer} ({counts[layer]})" for layer in order if counts[layer])


def _heads(one: RelationNeurons) -> str:
    """Those of the largest shares."""
    shares = one.head_shares
    return ", ".join(
        f"L{layer}H{head} {100 * shares[layer, head]:.1f} %"
        for layer, head in strongest(shares)[:NAMED]
    )
