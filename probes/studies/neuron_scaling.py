"""Neurons tested on facts that were not searched for them: they are scaled, beside controls."""

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
    """A fact, and the neurons that are scaled under it; none of them was found on it.

    Args:
        own: its relation's.
        others: those of each other relation.
    """

    relation: str
    worded: Sequence[Fact]
    own: Neurons
    others: Sequence[Neurons]


def crossed(items: Sequence[Item]) -> list[list[Item]]:
    """For each item the half of all that it is not in; neighbours are in different halves."""
    return [list(items[1 - place % 2 :: 2]) for place in range(len(items))]


def trials(searched: Mapping[str, Sequence[Searched]], agree_facts: float) -> Sequence[Trial]:
    """Each fact with what was found on the other half of its relation's facts, and of others'.

    Args:
        agree_facts: neurons of a relation are those of more than this share of the facts.
    """
    found = {
        relation: [
            refined([one.found.neurons for one in rest], agree_facts) for rest in crossed(each)[:2]
        ]
        for relation, each in searched.items()
    }
    return [
        Trial(
            relation,
            one.worded,
            own=found[relation][place % 2],
            others=[sets[place % 2] for name, sets in found.items() if name != relation],
        )
        for relation, each in searched.items()
        for place, one in enumerate(each)
    ]


def scale_relations(
    model: HookedTransformer,
    every: Sequence[Trial],
    journal: Journal,
    *,
    controls: int,
    seed: int,
) -> Mapping[str, list[list[Effect]]]:
    """What scaling does to each fact: its relation's neurons, the others' and the controls.

    Args:
        controls: draws of as many random neurons; each fact has its own.
    """

    def work(trial: Trial) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(prompt_seed(seed, trial.worded[0]))
        random = [random_like(model, trial.own, draw) for _ in range(controls)]
        sets = {OWN: [trial.own], OTHER: trial.others, RANDOM: random}
        found = effects(model, trial.worded, sets, loudest=trial.own)
        return {"relation": trial.relation, "scaled": [list(one) for one in found]}

    entries = journal.each(
        every,
        key=lambda trial: f"{fact_key(trial.worded[0])}-scaled",
        work=work,
        unit="facts",
        doing="testing",
    )
    tested: dict[str, list[list[Effect]]] = {trial.relation: [] for trial in every}
    for entry in entries:
        if not entry.skipped:
            rows = entry.record["scaled"]
            tested[entry.item.relation].append([Effect(*row) for row in rows])
    return tested
