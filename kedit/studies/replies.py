"""Asks a model questions: likeliest tokens, probabilities of both answers, and what it says."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from transformer_lens import HookedTransformer

from kedit.forward.generation import greedy, variety
from kedit.forward.likelihood import Query, likelihoods
from kedit.forward.metrics import last_logits
from kedit.forward.reading import Tokens, batches, read
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

LIKELIEST = 5  # number of likeliest next tokens that a reply has
NAME_WORDS = 4  # largest number of words of a name
ANSWER_TOKENS = 12  # enough for a name of so many words


def replies(
    model: HookedTransformer, asked: Sequence[Question], n_tokens: int = SAID
) -> list[Reply]:
    """Returns the model's reply to each question.

    Args:
        n_tokens: number of tokens that are generated after each prompt.

    Raises:
        InputError: a prompt and its answers are longer than the model's context.
    """
    queries = [weighable(model, question) for question in asked]
    prompts = [question.prompt for question in asked]
    texts = said(model, prompts, n_tokens)
    found = []
    for likeliest, weighed, text, answer in zip(
        _likeliest(model, [query.prompt for query in queries]), likelihoods(model, queries),
        texts, answers(model, prompts, texts), strict=True,
    ):  # fmt: skip
        new, old = (math.exp(likelihood.logprob) for likelihood in weighed.answers)
        found.append(Reply(likeliest, new, old, text, answer, _variety(model, text)))
    return found


def weighable(model: HookedTransformer, question: Question) -> Query:
    """Returns the question as token ids.

    Raises:
        InputError: prompt and answers are longer than the model's context.
    """
    prompt = prompt_ids(model, question.prompt)
    both = tuple(answers_ids(model, question.prompt, (question.new, question.old)))
    require_room(model, question.prompt, len(prompt) + max(map(len, both)))
    return Query(prompt, both)


def answered(model: HookedTransformer, prompts: Iterable[str]) -> dict[str, str]:
    """Returns, by prompt, the answer that the model gives now; "" if it gives none."""
    prompts = list(prompts)
    texts = said(model, prompts, ANSWER_TOKENS)
    return dict(zip(prompts, answers(model, prompts, texts), strict=True))


def said(model: HookedTransformer, prompts: Sequence[str], n_tokens: int = SAID) -> list[str]:
    """Returns the greedy continuation of each prompt by `n_tokens`, without the prompt.

    Raises:
        InputError: a prompt fills the model's context.
    """
    ids = [prompt_ids(model, text) for text in prompts]
    for text, prompt in zip(prompts, ids, strict=True):
        require_room(model, text, len(prompt) + 1)
    return [decoded(model, *tokens).strip() for tokens in greedy(model, ids, n_tokens)]


def answers(model: HookedTransformer, prompts: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Returns the answer with which each text begins; "" if there is none.

    The candidates are the first word (with its article), and this word with the following words of
    a name. The answer is the candidate with the largest mean log-probability per token: "New York"
    for the text "New York, and it", "Rome" for "Rome Italy Rome".

    Args:
        prompts: the prompts.
        texts: what the model says after each prompt.
    """
    found = [""] * len(texts)
    candidates = {index: names for index, text in enumerate(texts) if (names := _openings(text))}
    queries = [
        Query(prompt_ids(model, prompts[index]), tuple(answers_ids(model, prompts[index], names)))
        for index, names in candidates.items()
    ]
    for (index, names), weighed in zip(
        candidates.items(), likelihoods(model, queries), strict=True
    ):
        logprobs = [answer.logprob for answer in weighed.answers]
        found[index] = names[logprobs.index(max(logprobs))]
    return found


def answer_of(model: HookedTransformer, prompt: str) -> str:
    """Returns the answer that the model gives to a prompt; "" if it gives none."""
    return answered(model, [prompt])[prompt]


def _openings(text: str) -> list[str]:
    """Returns the first word with its article, then the same with one, two ... more words.

    Only capitalised words continue a name.
    """
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
    parts = [found[: end + 1] for end in range(len(found))][:NAME_WORDS]
    # an article alone is no answer
    return [" ".join(part) for part in parts if part[-1].casefold() not in ARTICLES]


def _variety(model: HookedTransformer, text: str) -> float:
    """Returns how little a text repeats itself, markup not counted."""
    markup = markup_ids(model)
    return variety(tuple(token for token in plain_ids(model, text) if token not in markup))


def _likeliest(
    model: HookedTransformer, prompts: Sequence[Tokens]
) -> Iterator[tuple[tuple[str, float], ...]]:
    """Yields the likeliest next tokens after each prompt with their probabilities."""
    for batch in batches(model, [*map(len, prompts)]):
        logits = last_logits(model, read(model, [prompts[index] for index in batch]).last)
        for values, tokens in zip(*logits.softmax(-1).topk(LIKELIEST), strict=True):
            yield tuple(
                (decoded(model, token), value)
                for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
            )
