"""Tests a relation's neurons on facts that they were not found on, against controls.

If neurons carry a relation, scaling them should change the answers of all its facts, more than
scaling other relations' neurons, the neurons that write most, or random ones (Dai et al. 2022,
section 4, for the test; the split into halves is kedit's). A fact must not be tested with neurons
that its own search contributed, because these fit it by construction. Each relation's facts are
therefore split into two halves, and each half is tested with the neurons found on the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key
from kedit.editing.neurons import Neuron, refined
from kedit.facts import Fact
from kedit.journal import Journal
from probes.corrupt import prompt_seed
from probes.scaling import LOUDEST, Effect, effects, random_like
from probes.studies.neuron_search import Searched

OWN, OTHER, RANDOM = "own relation’s", "other relations’", "random"
NEURONS_OF = (OWN, OTHER, LOUDEST, RANDOM)  # in the order in which they are shown

Item = TypeVar("Item")
Neurons = frozenset[Neuron]


class Trial(NamedTuple):
    """A fact, and the neurons that are scaled for it; none of them were found on this fact.

    Args:
        relation: the fact's relation, by id.
        worded: the fact in the wordings to score.
        own: neurons of its relation.
        others: for each other relation, its neurons.
    """

    relation: str
    worded: Sequence[Fact]
    own: Neurons
    others: Sequence[Neurons]


def crossed(items: Sequence[Item]) -> list[list[Item]]:
    """Returns, for each item, the half of all items that does not contain it.

    The halves are the items at even and at odd indices: items [a, b, c, d, e] give [b, d] for a, c
    and e, and [a, c, e] for b and d. Halves differ in size by one item at most, and each holds
    items from the beginning and from the end of the order in which facts were drawn.
    """
    return [list(items[1 - index % 2 :: 2]) for index in range(len(items))]


def trials(searched: Mapping[str, Sequence[Searched]], agree_facts: float) -> Sequence[Trial]:
    """Pairs each fact with the neurons found on the other half of its relation's facts.

    Neurons of other relations also come from one half of their facts, so that both have been found
    on about the same number of facts.

    Args:
        agree_facts: a relation's neurons are those found in more than this share of the facts.
    """
    # by relation: the neurons for facts at even indices, then those for facts at odd indices
    found = {
        relation: [
            refined([fact.found.neurons for fact in half], agree_facts)
            for half in crossed(facts)[:2]
        ]
        for relation, facts in searched.items()
    }
    return [
        Trial(
            relation,
            fact.worded,
            own=found[relation][index % 2],
            others=[halves[index % 2] for other, halves in found.items() if other != relation],
        )
        for relation, facts in searched.items()
        for index, fact in enumerate(facts)
    ]


def scale_relations(
    model: HookedTransformer,
    all_trials: Sequence[Trial],
    journal: Journal,
    *,
    controls: int,
    seed: int,
) -> Mapping[str, list[list[Effect]]]:
    """For each fact, scales the neurons of its relation and three kinds of controls.

    The controls are other relations' neurons, the loudest neurons, and random ones.

    Args:
        controls: number of random sets of neurons, which are drawn anew for each fact and averaged.
        seed: seed of the random sets.

    Returns:
        For each relation, the effects on each of its facts.
    """

    def work(trial: Trial) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(prompt_seed(seed, trial.worded[0]))
        random = [random_like(model, trial.own, generator) for _ in range(controls)]
        sets = {OWN: [trial.own], OTHER: trial.others, RANDOM: random}
        found = effects(model, trial.worded, sets, loudest=trial.own)
        return {"relation": trial.relation, "scaled": [list(effect) for effect in found]}

    entries = journal.each(
        all_trials,
        key=lambda trial: f"{fact_key(trial.worded[0])}-scaled",
        work=work,
        unit="facts",
        doing="scaling neurons",
    )
    tested: dict[str, list[list[Effect]]] = {trial.relation: [] for trial in all_trials}
    for entry in entries:
        if not entry.skipped:
            rows = entry.record["scaled"]
            tested[entry.item.relation].append([Effect(*row) for row in rows])
    return tested
