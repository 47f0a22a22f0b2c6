"""The result of `find_neurons`: relations' neurons, and the effect of scaling them."""

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
N_LISTED = 3  # layers and heads of a relation that the table lists


@dataclass(frozen=True)
class LeftOutCounts:
    """How many facts and which relations were left out of the search.

    Args:
        wrong: number of facts that the model does not know in enough wordings.
        unusable: number of facts whose prompts cannot be used.
        relations: ids of the relations with too few other facts.
    """

    wrong: int
    unusable: int
    relations: tuple[str, ...]


@dataclass(frozen=True)
class NeuronFindings(Result):
    """Which neurons contribute to relations' answers, and what scaling them does.

    Args:
        model: name of the model.
        seed: seed of the bootstrap and of all random draws.
        agree_facts: the neurons of a relation are those of more than this share of its facts.
        relations: the neurons of each relation.
        halves: numbers of neurons and attributions by layer, for each half that was searched.
        attention: attention's share of the attribution; None if only one half was searched.
        sharing: how many neurons facts share, for each half and for "both".
        changes: effects of scaling, sorted by half, by whose neurons were scaled, and by factor.
        n_prompts: number of prompts of all facts.
        left_out: what was left out of the search.
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
        """The number of facts of all relations together."""
        return sum(relation.n_facts for relation in self.relations)

    @property
    def clean(self) -> Interval | None:
        """The answers' mean probability when nothing is scaled; None if no scaling was measured.

        A relation without neurons in a half is left out of that half's changes. So this is the
        value of a change that covers the most facts.
        """
        if not self.changes:
            return None
        return max(self.changes, key=lambda change: change.n_facts).clean

    def table(self) -> Table:
        """A row for each relation, with its numbers of neurons and its main layers and heads."""
        halves = [HALF_NAMES[half] for half in self.halves]
        return Table(
            title=f"Neurons of {plural(len(self.relations), 'relation')}: {self.model}",
            columns=("relation", "facts", *halves, "layers", "heads"),
            rows=tuple(
                (
                    relation.name[:24],
                    str(relation.n_facts),
                    *(str(int(relation.counts[half].sum())) for half in self.halves),
                    _layers(relation),
                    _heads(relation) if "attn" in self.halves else "",
                )
                for relation in self.relations
            ),
            note=f"A neuron counts if more than {100 * self.agree_facts:.0f} % of the relation's "
            "facts have it. Layers: those with most neurons. Heads: those with the largest shares "
            "of the positive attribution at all sites (each site is integrated separately).",
        )

    def half_table(self) -> Table:
        """Neurons and attribution of both halves, side by side."""
        sharing, halves = self.sharing.values(), self.halves.values()
        columns = tuple(HALF_NAMES[half] for half in self.sharing)
        rows = [
            ("neurons per relation", *(two_digits(half.total) for half in halves)),
            ("neurons per fact", *(two_digits(shared.own) for shared in sharing)),
            ("  shared, same relation", *(two_digits(shared.within) for shared in sharing)),
            ("  shared, other relation", *(two_digits(shared.between) for shared in sharing)),
        ]
        if self.attention:
            shares = [estimate(*half.share.floats(100)) for half in halves if half.share]
            rows.append(("share of attribution (%)", *shares))
        return Table(
            title="MLP and attention",
            columns=("", *columns),
            # if both halves were searched there is a third column, "both", which not all rows have
            rows=tuple(row + ("",) * (len(columns) + 1 - len(row)) for row in rows),
            note=f"Means{self._spread}. shared: neurons that two facts have in common, mean over "
            "pairs of facts. Attribution: sum over sites; each site is integrated separately.",
        )

    def scaling_table(self) -> Table:
        """The effect of scaling on the answers: a row for each half and each group of neurons."""
        clean = percent(self.clean) or "-"
        rows = []
        groups = groupby(self.changes, key=lambda change: (change.half, change.neurons))
        for (half, whose), changes in groups:
            pair = list(changes)  # suppressed (factor 0), amplified (factor 2)
            cells = [
                text
                for change in pair
                for text in (percent(change.prob), two_digits(change.logprob))
            ]
            n = f"{pair[0].n_neurons:.0f}"
            rows.append((HALF_NAMES[half], whose, n, str(pair[0].n_facts), *cells))
        return Table(
            title="Scaling neurons at the last token: change of the answer's probability "
            f"(unscaled: {clean} %)",
            columns=(
                "half",
                "neurons",
                "scaled",
                "facts",
                "× 0: points",
                "nats",
                "× 2: points",
                "nats",
            ),
            rows=tuple(rows),
            note="points: change of the probability in percentage points; nats: change of its "
            f"logarithm. Means over facts{self._spread}. scaled: number of neurons. The neurons "
            "were found on other facts of their relation. loudest, random: the same number of "
            "other neurons at the same sites, those that write most there or random ones. "
            "effects.csv also has relative changes.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each neuron of each relation; neurons of z have a head."""
        return [
            {
                "relation": relation.id, "name": relation.name, "half": neuron.half,
                "layer": neuron.layer, "index": neuron.index,
                "head": "" if neuron.head is None else neuron.head,
            }
            for relation in self.relations
            for neuron in relation.neurons
        ]  # fmt: skip

    def effect_rows(self) -> list[dict[str, Any]]:
        """The effect of scaling: a row for each half, each group of neurons, and each factor."""
        return [
            {
                "neurons": change.neurons, "half": change.half, "factor": change.factor,
                "n_facts": change.n_facts, "n_neurons": change.n_neurons,
                **change.clean.named("clean"), **change.prob.named("prob"),
                **change.relative.named("relative"),
                **change.logprob.named("logprob"),
            }
            for change in self.changes
        ]  # fmt: skip

    @property
    def _spread(self) -> str:
        """How the tables' notes describe the intervals."""
        if len(self.relations) < 2:
            return " (one relation, so no intervals)"
        return f" with 95 % bootstrap intervals over relations (seed {self.seed})"


def _layers(relation: RelationNeurons) -> str:
    """The layers with most neurons, with their counts."""
    counts = np.sum([part.sum(1) for part in relation.counts.values()], axis=0)
    order = np.argsort(-counts, kind="stable")[:N_LISTED]
    return ", ".join(f"L{layer} ({counts[layer]})" for layer in order if counts[layer])


def _heads(relation: RelationNeurons) -> str:
    """The heads with the largest shares of the positive attribution."""
    shares = relation.head_shares
    return ", ".join(
        f"L{layer}H{head} {100 * shares[layer, head]:.1f} %"
        for layer, head in strongest(shares)[:N_LISTED]
    )
