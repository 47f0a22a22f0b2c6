"""Which facts the model knows, and by which token its answer is told from other objects."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformer_lens import HookedTransformer

from kedit.facts import Fact
from kedit.forward.generation import greedy
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import read
from kedit.models.prompts import answer_ids, answers_ids, decoded, prompt_ids, require_room
from kedit.spacing import goes_on

TOKENS_AFTER = (
    2  # tokens read behind an object, to see whether they make it a longer word or number
)
TOGETHER = 16  # objects that are weighed at once


@torch.no_grad()
def answers_right(model: HookedTransformer, fact: Fact) -> tuple[bool, str]:
    """Whether the model says the fact's whole object after its prompt, greedily; and what it says.

    Every token of the object has to be the likeliest one, and no letter or digit may go on from it:
    a model that says "1945" does not say "19", nor "Newark" "New".

    Raises:
        InputError: prompt and object are longer than the model's context.
    """
    prompt, answer = prompt_ids(model, fact.prompt), answer_ids(model, fact.prompt, fact.object)
    require_room(model, fact.prompt, len(prompt) + len(answer))
    (said,) = greedy(model, [prompt], len(answer) + TOKENS_AFTER)
    text = decoded(model, *said)
    following = text[len(decoded(model, *said[: len(answer)])) :]
    return said[: len(answer)] == answer and not goes_on(fact.object, following), text


def first_known(
    model: HookedTransformer, worded: Sequence[Fact]
) -> tuple[Fact | None, tuple[str, ...]]:
    """The first wording of a fact that the model answers right; and what it says to those before.

    Raises:
        InputError: as `answers_right`.
    """
    heard = []
    for fact in worded:
        right, said = answers_right(model, fact)
        if right:
            return fact, tuple(heard)
        heard.append(said)
    return None, tuple(heard)


@torch.no_grad()
def with_likeliest_rival(model: HookedTransformer, fact: Fact, pool: Sequence[Fact]) -> Fact:
    """`fact` with the object of its relation in `pool` for a rival that the model finds likeliest.

    Objects that the subject has by this relation are no rivals. Without others there is none.
    """
    own = {fact.object.casefold()} | {
        other.object.casefold()
        for other in pool
        if (other.relation.id, other.subject) == (fact.relation.id, fact.subject)
    }
    others = {
        other.object: None
        for other in pool
        if other.relation.id == fact.relation.id and other.object.casefold() not in own
    }
    if not others:
        return replace(fact, rival="")
    prompt, objects = prompt_ids(model, fact.prompt), list(others)
    ids = answers_ids(model, fact.prompt, objects)
    first = last_logits(model, read(model, [prompt]).last)[0].log_softmax(-1)
    bounds = first[[tokens[0] for tokens in ids]].tolist()
    order = sorted(range(len(objects)), key=lambda number: -bounds[number])
    best, rival = -math.inf, ""
    for start in range(0, len(order), TOGETHER):
        some = order[start : start + TOGETHER]
        if bounds[some[0]] <= best:  # an object is no likelier than its first token
            break
        (weighed,) = likelihoods(model, [Query(prompt, tuple(ids[number] for number in some))])
        for number, answer in zip(some, weighed.answers, strict=True):
            total = answer.logprob * len(ids[number])
            if total > best:
                best, rival = total, objects[number]
    return replace(fact, rival=rival)
