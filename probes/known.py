"""Which facts does the model know, and which other object is likeliest in the answer's place?

Tracing and editing a fact make sense only if the model knows it, that is, completes its prompt by
the object. And effects are measured on one token, which has to be a token that distinguishes the
object from others: objects may begin alike, as "New York" and "New Zealand" do. The likeliest other
object of the relation, the rival, decides which token that is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from kedit.facts import Fact
from kedit.forward.filling import filled_in, object_logprobs
from kedit.forward.generation import greedy
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import read
from kedit.models.masked import AnyModel, is_masked
from kedit.models.masked_prompts import object_ids
from kedit.models.prompts import answer_ids, answers_ids, decoded, prompt_ids, require_room
from kedit.spacing import goes_on

# tokens that are generated after an object, to see whether they make it a longer word or number
TOKENS_AFTER = 2
OBJECTS_PER_BATCH = 16


@torch.no_grad()
def answers_right(model: AnyModel, fact: Fact) -> tuple[bool, str]:
    """Checks whether the model greedily completes the prompt by the whole object; returns its text.

    Every token of the object has to be the likeliest, and no letter or digit may follow directly:
    "1945" does not count as "19", nor "Newark" as "New". A masked model fills the object's masks
    from left to right.

    Raises:
        InputError: prompt and object together are longer than the model's context.
    """
    if is_masked(model):
        answer, said = object_ids(model, fact), filled_in(model, fact, TOKENS_AFTER)
    else:
        prompt, answer = prompt_ids(model, fact.prompt), answer_ids(model, fact.prompt, fact.object)
        require_room(model, fact.prompt, len(prompt) + len(answer))
        (said,) = greedy(model, [prompt], len(answer) + TOKENS_AFTER)
    text = decoded(model, *said)
    following = text[len(decoded(model, *said[: len(answer)])) :]
    return said[: len(answer)] == answer and not goes_on(fact.object, following), text


def first_known(model: AnyModel, worded: Sequence[Fact]) -> tuple[Fact | None, tuple[str, ...]]:
    """Finds a fact's first wording that the model answers right (None if there is none).

    The second result is the model's wrong answers to the wordings before it.

    Raises:
        InputError: see `answers_right`.
    """
    wrong_answers = []
    for fact in worded:
        right, said = answers_right(model, fact)
        if right:
            return fact, tuple(wrong_answers)
        wrong_answers.append(said)
    return None, tuple(wrong_answers)


@torch.no_grad()
def with_likeliest_rival(model: AnyModel, fact: Fact, pool: Sequence[Fact]) -> Fact:
    """Sets the fact's rival: the object in `pool` that the model finds likeliest in its place.

    Rivals are objects of the same relation that the subject does not have. If there are none, the
    rival is empty.
    """
    right = {fact.object.casefold()} | {
        other.object.casefold()
        for other in pool
        if (other.relation.id, other.subject) == (fact.relation.id, fact.subject)
    }
    others = {
        other.object: None
        for other in pool
        if other.relation.id == fact.relation.id and other.object.casefold() not in right
    }
    if not others:
        return replace(fact, rival="")
    objects = list(others)
    if is_masked(model):
        scores = object_logprobs(model, fact, objects)
        return replace(fact, rival=objects[scores.index(max(scores))])
    prompt = prompt_ids(model, fact.prompt)
    ids = answers_ids(model, fact.prompt, objects)
    first = last_logits(model, read(model, [prompt]).last)[0].log_softmax(-1)
    bounds = first[[tokens[0] for tokens in ids]].tolist()
    order = sorted(range(len(objects)), key=lambda number: -bounds[number])
    best, rival = -math.inf, ""
    for start in range(0, len(order), OBJECTS_PER_BATCH):
        batch = order[start : start + OBJECTS_PER_BATCH]
        # An object is at most as likely as its first token, and the rest have less likely first
        # tokens still: none of them can be likelier than the best so far.
        if bounds[batch[0]] <= best:
            break
        (scored,) = likelihoods(model, [Query(prompt, tuple(ids[number] for number in batch))])
        for number, answer in zip(batch, scored.answers, strict=True):
            total = answer.logprob * len(ids[number])
            if total > best:
                best, rival = total, objects[number]
    return replace(fact, rival=rival)
