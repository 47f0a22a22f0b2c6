"""The same prompt templates filled with unrelated subject-object pairs.

An edit spares the keys of these prompts. They are read once per set of templates. Since all
relation requests share one template, the keys read for the first request serve all others.
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
    """Keys at the key position of each reference prompt, with the pair that the prompt is about.

    Args:
        pairs: subject and object of each prompt; "" for an object that the prompt doesn't name.
        keys: by site, one row per pair.
    """

    pairs: tuple[tuple[str, str], ...]
    keys: Keys

    def mentioning(self, request: EditRequest) -> Bool[Tensor, " n"]:
        """Returns which pairs share a subject or an object with the request."""
        names = {request.fact.subject, request.target, request.fact.object}
        names |= {demand.mentioned for demand in request.demands}
        return torch.tensor([bool({*pair} & (names - {""})) for pair in self.pairs])


def skeletons(demands: Sequence[Demand]) -> tuple[str, ...]:
    """Returns the demands' distinct templates, without subject and object.

    Demands with equal skeletons have equal families.
    """
    return tuple(dict.fromkeys(about(demand, "{}", "{o}").fact.template for demand in demands))


def family(
    model: HookedTransformer,
    demands: Sequence[Demand],
    sites: Sequence[WriteSite],
    where: KeyPosition,
    n: int,
    seed: int = 0,
) -> Family:
    """Fills each template with `n` pairs from kedit's facts, and reads the keys of these prompts.

    Half of the pairs are facts; the other half combine the subject of a fact with the object of
    another one.

    Args:
        demands: their templates are used.
        sites: where keys are read.
        where: the token whose keys are read.
        n: number of pairs per template.

    Raises:
        InputError: no prompt can be read.
    """
    texts: dict[Tokens, tuple[str, str]] = {}
    by_skeleton = {skeletons([demand]): demand for demand in demands}
    for (skeleton,), demand in by_skeleton.items():
        draw = random.Random(f"{seed} {skeleton}")
        facts = draw.sample(known_facts(), min(n, len(known_facts())))
        for number, fact in enumerate(facts):
            # even numbers: the fact itself; odd numbers: its subject with the next fact's object
            object = facts[(number + number % 2) % len(facts)].object
            filled = about(demand, fact.subject, object)
            try:
                tokens, pos = located(model, filled.fact, where, filled.mentioned)
            except InputError:  # longer than the model's context
                continue
            texts.setdefault(tokens[: pos + 1], (fact.subject, object if demand.mentioned else ""))
    if not texts:
        raise InputError(
            f"family: the template {demands[0].fact.template!r} cannot be read with any other pair"
        )
    return Family(tuple(texts.values()), last_keys(model, sites, list(texts)))
