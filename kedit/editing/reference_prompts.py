"""A request's family: its own words about many other pairs, whose keys are read once.

All relation requests have one wording, so that what was read for the first serves them all.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.keys import last_keys
from kedit.editing.neighbours import about, known_facts
from kedit.editing.stacked import Keys
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, located


@dataclass(frozen=True, eq=False)
class Family:
    """Keys at the key position of each text, and the pair that this is about.

    Args:
        pairs: subject and object; "" for an object that is not spelt out.
        keys: by site, a row for each pair.
    """

    pairs: tuple[tuple[str, str], ...]
    keys: Keys

    def mentioning(self, request: EditRequest) -> Bool[Tensor, " n"]:
        """Which pairs have a subject or an object of the request's: no strangers to it."""
        own = {request.fact.subject, request.target, request.fact.object}
        own |= {demand.mentioned for demand in request.demands}
        return torch.tensor([bool({*pair} & (own - {""})) for pair in self.pairs])


def skeletons(demands: Sequence[Demand]) -> tuple[str, ...]:
    """The demands' wordings without the pairs, each once: equal ones have equal families."""
    return tuple(dict.fromkeys(about(one, "{}", "{o}").fact.template for one in demands))


def family(
    model: HookedTransformer,
    demands: Sequence[Demand],
    sites: Sequence[WriteSite],
    where: KeyPosition,
    n: int,
    seed: int = 0,
) -> Family:
    """`n` pairs of kedit's facts in each wording: facts, and subjects with others' objects.

    Raises:
        InputError: none of them can be read.
    """
    texts: dict[Tokens, tuple[str, str]] = {}
    worded = {skeletons([demand]): demand for demand in demands}
    for (skeleton,), demand in worded.items():
        draw = random.Random(f"{seed} {skeleton}")
        facts = draw.sample(known_facts(), min(n, len(known_facts())))
        for place, fact in enumerate(facts):
            # by turns a fact, and its subject with the object of the next
            object = facts[(place + place % 2) % len(facts)].object
            one = about(demand, fact.subject, object)
            try:
                tokens, pos = located(model, one.fact, where, one.mentioned)
            except InputError:  # longer than the context
                continue
            texts.setdefault(tokens[: pos + 1], (fact.subject, object if demand.mentioned else ""))
    if not texts:
        raise InputError(f"family: no other pair can be read in {demands[0].fact.template!r}")
    return Family(tuple(texts.values()), last_keys(model, sites, list(texts)))
