"""Scores given answers after prompts, and ranks an answer among competitors.

Each prompt is read once, whatever the number of its answers.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.forward.kept import KeptStates
from kedit.forward.metrics import token_bounds, token_scores
from kedit.forward.reading import Reading, Tokens, batches, nearness, read, read_some


class Likelihood(NamedTuple):
    """The score of an answer under teacher forcing.

    Args:
        logprob: mean log-probability of the answer's tokens, in nats (RaKE's score, negated).
        exact: whether every token of the answer is the likeliest one, given those before it.
    """

    logprob: float
    exact: bool


@dataclass(frozen=True)
class Query:
    """A prompt and the answers to score, as token ids.

    Args:
        prompt: the prompt, with BOS if the model needs it.
        answers: the answers to score, of at least one token each.
        field: competitors of the ranked answer. Only those that could be likelier are scored.
        ranked: index of the answer that is ranked among the field.
    """

    prompt: Tokens
    answers: tuple[Tokens, ...]
    field: tuple[Tokens, ...] = ()
    ranked: int = 0


@dataclass(frozen=True)
class QueryAnswers:
    """The result of a query.

    Args:
        answers: the scores of the query's answers, in their order.
        rank: rank of the ranked answer among the field (1: no competitor is likelier); None if
            there is no field.
    """

    answers: tuple[Likelihood, ...]
    rank: int | None


Answer = tuple[int, Tokens]  # the row of its prompt in the reading, and its tokens
Pair = tuple[int, int]  # a row of residuals, and a token after it


def likelihoods(
    model: HookedTransformer, queries: Sequence[Query], kept: KeptStates | None = None
) -> list[QueryAnswers]:
    """Scores all answers of all queries.

    Equal prompts are read once, and their answers continue from the same keys and values.

    Most competitors need not be scored. The log-probability of a token is at most 0, so the sum
    over a competitor's n tokens is at most that of its first token, and the mean is at most the
    first token's log-probability divided by n. If this bound is not above the score of the ranked
    answer, the competitor cannot be likelier and does not change the rank. The first tokens of all
    competitors are scored from the prompt's last residual, without another forward. A second bound
    excludes more of them before the whole vocabulary is computed for their other tokens: a part of
    the vocabulary has at most the sum of exp(logits) of all of it, so that normalising a token's
    logit by this part gives at least its log-probability.

    Args:
        kept: states of the layers below the lowest edited one. The scores of answers are those
            without it, to the bit; competitors are compared by scores that are equal up to
            rounding.
    """
    by_prompt: dict[Tokens, list[int]] = {}
    for number, query in enumerate(queries):
        by_prompt.setdefault(query.prompt, []).append(number)
    prompts = sorted(by_prompt, key=nearness)
    found: dict[int, QueryAnswers] = {}
    for batch in batches(model, [len(prompt) for prompt in prompts]):
        reading = read(model, [prompts[index] for index in batch], kept)
        row_of = {
            number: row for row, index in enumerate(batch) for number in by_prompt[prompts[index]]
        }
        found |= _query_answers(model, reading, row_of, queries, kept)
    return [found[number] for number in range(len(queries))]


def _query_answers(
    model: HookedTransformer,
    reading: Reading,
    row_of: Mapping[int, int],
    queries: Sequence[Query],
    kept: KeptStates | None,
) -> dict[int, QueryAnswers]:
    """The results of the queries whose prompts were read, by their numbers.

    Args:
        row_of: for each of these queries' numbers the row of its prompt in `reading`.
    """
    firsts = _first_tokens(
        model,
        reading,
        [
            (row, answer)
            for n, row in row_of.items()
            for answer in queries[n].answers + queries[n].field
        ],
    )
    asked = [(row, answer) for n, row in row_of.items() for answer in queries[n].answers]
    known = _whole_answers(model, reading, firsts, asked, asked, kept)
    # competitors whose bound (see `likelihoods`) is above the score of the ranked answer
    others: list[Answer] = []
    may_win: dict[Answer, float] = {}  # the score that they have to exceed
    for n, row in row_of.items():
        ranked = known[row, queries[n].answers[queries[n].ranked]].logprob
        for rival in (rival for rival in queries[n].field if (row, rival) not in known):
            others.append((row, rival))
            if firsts[row, rival[0]].logprob / len(rival) > ranked:
                may_win[row, rival] = min(ranked, may_win.get((row, rival), ranked))
    known |= _whole_answers(model, reading, firsts, [*may_win], others, kept, may_win)
    found = {}
    for n, row in row_of.items():
        answers = tuple(known[row, answer] for answer in queries[n].answers)
        better = [
            rival
            for rival in queries[n].field
            if (row, rival) in known
            and known[row, rival].logprob > answers[queries[n].ranked].logprob
        ]
        found[n] = QueryAnswers(answers, 1 + len(better) if queries[n].field else None)
    return found


def _first_tokens(
    model: HookedTransformer, reading: Reading, answers: Sequence[Answer]
) -> dict[tuple[int, int], Likelihood]:
    """The scores of the first tokens of `answers`, by row and token."""
    pairs = list(dict.fromkeys((row, tokens[0]) for row, tokens in answers))
    return dict(zip(pairs, _scored(model, reading.last, pairs), strict=True))


def _whole_answers(
    model: HookedTransformer,
    reading: Reading,
    firsts: Mapping[tuple[int, int], Likelihood],
    answers: Sequence[Answer],
    possible: Sequence[Answer],
    kept: KeptStates | None,
    limits: Mapping[Answer, float] | None = None,
) -> dict[Answer, Likelihood]:
    """The scores of whole answers: the tokens after the first one run after the prompt's reading.

    Args:
        firsts: the scores of their first tokens.
        possible: the answers that may be asked for under any edit, among them `answers`.
        limits: the score that each answer has to exceed. An answer of several tokens that surely
            does not exceed it is left out.
    """
    done: dict[Answer, Likelihood] = {
        (row, tokens): firsts[row, tokens[0]] for row, tokens in answers if len(tokens) == 1
    }
    longer = [(row, tokens) for row, tokens in dict.fromkeys(answers) if len(tokens) > 1]
    texts = _longest(longer if kept is None else possible)
    by_text: dict[int, list[Answer]] = {}
    for row, tokens in longer:
        # the first text that is not before this one is this one, or begins with it
        by_text.setdefault(bisect_left(texts, (row, tokens[:-1])), []).append((row, tokens))
    lengths = [len(tokens) for _, tokens in texts]
    for batch in batches(model, lengths, n_past=reading.mask.shape[1]):
        chosen = [place for place, index in enumerate(batch) if index in by_text]
        if not chosen:
            continue
        resid = read_some(model, reading, [texts[index] for index in batch], chosen, kept)
        width = resid.shape[1]
        pairs = {
            (row, tokens): [(n * width + step, token) for step, token in enumerate(tokens[1:])]
            for n, place in enumerate(chosen)
            for row, tokens in by_text[batch[place]]
        }
        resid = resid.flatten(0, 1)
        if limits:
            pairs = _within_bounds(model, resid, firsts, pairs, limits)
        scores = iter(_scored(model, resid, _joined(pairs)))
        for row, tokens in pairs:
            each = [firsts[row, tokens[0]], *(next(scores) for _ in tokens[1:])]
            done[row, tokens] = Likelihood(
                sum(score.logprob for score in each) / len(each),
                all(score.exact for score in each),
            )
    return done


def _within_bounds(
    model: HookedTransformer,
    resid: Float[Tensor, "row d_model"],
    firsts: Mapping[tuple[int, int], Likelihood],
    pairs: Mapping[Answer, list[Pair]],
    limits: Mapping[Answer, float],
) -> dict[Answer, list[Pair]]:
    """The answers that may exceed their limits, by an upper bound from a part of the vocabulary."""
    bounds = iter(token_bounds(model, *_used(resid, _joined(pairs))).tolist())
    return {
        (row, tokens): of_answer
        for (row, tokens), of_answer in pairs.items()
        if (firsts[row, tokens[0]].logprob + sum(next(bounds) for _ in of_answer)) / len(tokens)
        > limits[row, tokens]
    }


def _joined(pairs: Mapping[Answer, list[Pair]]) -> list[Pair]:
    return [pair for of_answer in pairs.values() for pair in of_answer]


def _longest(answers: Sequence[Answer]) -> list[Answer]:
    """The answers without their last tokens, sorted, and without those that others begin with."""
    texts = sorted({(row, tokens[:-1]) for row, tokens in answers if len(tokens) > 1})
    return [
        (row, tokens)
        for (row, tokens), (next_row, after) in zip_longest(texts, texts[1:], fillvalue=(-1, ()))
        if row != next_row or after[: len(tokens)] != tokens
    ]


def _scored(
    model: HookedTransformer, resid: Float[Tensor, "row d_model"], pairs: Sequence[Pair]
) -> list[Likelihood]:
    """The score of each pair."""
    if not pairs:
        return []
    logprobs, exact = token_scores(model, *_used(resid, pairs))
    return [
        Likelihood(logprob, best)
        for logprob, best in zip(logprobs.tolist(), exact.tolist(), strict=True)
    ]


def _used(
    resid: Float[Tensor, "row d_model"], pairs: Sequence[Pair]
) -> tuple[Float[Tensor, "used d_model"], Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The rows of `resid` that occur in a pair, each once; and each pair's row of them and token.

    Only these rows are unembedded.
    """
    rows = sorted({row for row, _ in pairs})
    index_of = {row: index for index, row in enumerate(rows)}
    return (
        resid[torch.tensor(rows, device=resid.device)],
        torch.tensor([index_of[row] for row, _ in pairs], device=resid.device),
        torch.tensor([token for _, token in pairs], device=resid.device),
    )
