"""What a model makes of questions: likeliest tokens, both answers' probabilities, what it says."""

import math
import re
from collections.abc import Iterable, Sequence

from transformer_lens import HookedTransformer

from kedit.forward.generation import greedy, variety
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import Tokens, read
from kedit.forward.saying import ARTICLES
from kedit.models.prompts import (
    answers_ids,
    decoded,
    markup_ids,
    plain_ids,
    prompt_ids,
    require_room,
)
from kedit.results.before_after import SAID
from kedit.results.exchanges import Question, Reply

LIKELIEST = 5  # next tokens that are kept
NAME = 4  # words of a name at most


def replies(model: HookedTransformer, asked: Sequence[Question]) -> list[Reply]:
    """What the model makes of each question.

    Raises:
        InputError: a prompt and its answers are longer than the model's context.
    """
    weighed = [weighable(model, one) for one in asked]
    prompts = [one.prompt for one in asked]
    texts = said(model, prompts)
    found = []
    for one, answered, text, answer in zip(
        weighed, likelihoods(model, weighed), texts, answers(model, prompts, texts), strict=True
    ):
        new, old = (math.exp(each.logprob) for each in answered.answers)
        varied = _variety(model, text)
        found.append(Reply(_likeliest(model, one.prompt), new, old, text, answer, varied))
    return found


def weighable(model: HookedTransformer, question: Question) -> Query:
    """The question as token ids.

    Raises:
        InputError: prompt and answers are longer than the model's context.
    """
    prompt = prompt_ids(model, question.prompt)
    both = tuple(answers_ids(model, question.prompt, (question.new, question.old)))
    require_room(model, question.prompt, len(prompt) + max(map(len, both)))
    return Query(prompt, both)


def answered(model: HookedTransformer, prompts: Iterable[str]) -> dict[str, str]:
    """Prompts, each with the answer that the model gives by itself; "" where it gives none."""
    prompts = list(prompts)
    return dict(zip(prompts, answers(model, prompts, said(model, prompts)), strict=True))


def said(model: HookedTransformer, prompts: Sequence[str]) -> list[str]:
    """What the model goes on with after each prompt, greedily.

    Raises:
        InputError: a prompt fills the model's context.
    """
    ids = [prompt_ids(model, text) for text in prompts]
    for text, own in zip(prompts, ids, strict=True):
        require_room(model, text, len(own) + 1)
    return [decoded(model, *tokens).strip() for tokens in greedy(model, ids, SAID)]


def answers(model: HookedTransformer, prompts: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The answer that each text opens with behind its prompt; "" where there is none.

    Of a word (with its article) and what may follow of a name, the part of which the model is
    surest, token by token: "New York" of "New York, and it", "Rome" of "Rome Italy Rome".
    """
    found = [""] * len(texts)
    options = {number: own for number, text in enumerate(texts) if (own := _openings(text))}
    asked = [
        Query(prompt_ids(model, prompts[number]), tuple(answers_ids(model, prompts[number], own)))
        for number, own in options.items()
    ]
    for (number, own), weighed in zip(options.items(), likelihoods(model, asked), strict=True):
        sureness = [answer.logprob for answer in weighed.answers]
        found[number] = own[sureness.index(max(sureness))]
    return found


def _openings(text: str) -> list[str]:
    """A word with its article, then with one more word each, as long as they are capitalised."""
    found: list[str] = []
    for word in re.findall(r"\w[\w'’-]*|[^\w\s]", text):
        is_word = word[0].isalnum()
        if not found or found[-1].casefold() in ARTICLES:
            if is_word:
                found.append(word)
        elif is_word and word[0].isupper() and found[-1][0].isupper():
            found.append(word)
        else:
            break
    parts = [found[: end + 1] for end in range(len(found))][:NAME]
    # an article alone answers nothing
    return [" ".join(part) for part in parts if part[-1].casefold() not in ARTICLES]


def _variety(model: HookedTransformer, text: str) -> float:
    markup = markup_ids(model)
    return variety(tuple(token for token in plain_ids(model, text) if token not in markup))


def _likeliest(model: HookedTransformer, prompt: Tokens) -> tuple[tuple[str, float], ...]:
    values, tokens = last_logits(model, read(model, [prompt]).last)[0].softmax(-1).topk(LIKELIEST)
    return tuple(
        (decoded(model, token), value)
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
    )
