"""Splits a relation edit in two: first the old pair loses its relation, then the new pair gets it.

A removal asks the model to say "None" after the old pair, which it says of no pair by itself. Here
it is asked to say of the old pair what it says of unrelated pairs. This is kedit's, after the idea
of forgetting before editing in Relation Editing for Large Language Models (2025), whose formula
could not be had.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from transformer_lens import HookedTransformer

from kedit.editing.neighbours import neighbours
from kedit.facts import EditRequest
from kedit.forward.generation import greedy
from kedit.models.prompts import decoded, prompt_ids

SAID = 2  # tokens that count of what the model says after an unrelated pair
PROMPTS_PER_FACT = 4  # of `neighbours`, of which at least one is about an unrelated pair


def forget_then_add(
    model: HookedTransformer, requests: Sequence[EditRequest], n_pairs: int, seed: int = 0
) -> list[list[EditRequest]]:
    """Returns the requests as batches to be edited in turn: what is forgotten, then what is added.

    Requests without a removal are in the last batch, as they are.

    Args:
        n_pairs: number of unrelated pairs that the model is asked about.
        seed: seed of their choice.
    """
    removing = [request for request in requests if request.removal]
    forgotten = list(filter(None, (_forgotten(model, one, n_pairs, seed) for one in removing)))
    added = [
        replace(request, removal=None, mentioned_by_removal="") if request.removal else request
        for request in requests
    ]
    return [batch for batch in (forgotten, added) if batch]


def _forgotten(
    model: HookedTransformer, request: EditRequest, n_pairs: int, seed: int
) -> EditRequest | None:
    """Returns the request to say of the old pair what the model says of most unrelated pairs.

    It is None if the model says nothing of them but the relation's name.
    """
    assert request.removal
    subject, old = request.fact.subject, request.mentioned_by_removal
    drawn = neighbours(request, PROMPTS_PER_FACT * n_pairs, seed)
    prompts = [
        demand.fact.prompt
        for demand in drawn
        if demand.mentioned == old and demand.fact.subject != subject
    ][:n_pairs]
    said = greedy(model, [prompt_ids(model, prompt) for prompt in prompts], SAID)
    texts = Counter(decoded(model, *tokens).strip() for tokens in said)
    name = request.fact.relation.name
    texts = {text: n for text, n in texts.most_common() if text and not name.startswith(text)}
    if not texts:
        return None
    return EditRequest(request.removal, next(iter(texts)), "relation", mentioned=old)
