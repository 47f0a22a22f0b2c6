"""How likely a model finds given answers: each prompt read once, whatever is asked after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.forward.metrics import token_scores
from kedit.forward.packed import padded
from kedit.forward.reading import Reading, Tokens, batches, nearness, read, read_on


class Likelihood(NamedTuple):
    """What a model makes of an answer, teacher-forced.

    Args:
        logprob: mean log-probability of the answer's tokens, in nats (RaKE's score, negated).
        exact: every token of it is the likeliest one.
    """

    logprob: float
    exact: bool


@dataclass(frozen=True)
class Query:
    """A prompt and the answers to it, as token ids.

    Args:
        prompt: with BOS where the model wants one.
        answers: at least one token each.
        field: competitors; of these only those are worked out that may beat the ranked answer.
        ranked: which of the answers is ranked among the field.
    """

    prompt: Tokens
    answers: tuple[Tokens, ...]
    field: tuple[Tokens, ...] = ()
    ranked: int = 0


@dataclass(frozen=True)
class QueryAnswers:
    """What was asked, answered.

    Args:
        answers: in the order asked.
        rank: of the ranked answer among the field (1: none is likelier); None without a field.
    """

    answers: tuple[Likelihood, ...]
    rank: int | None


Answer = tuple[int, Tokens]  # the row of its prompt in the reading, its tokens


def likelihoods(model: HookedTransformer, asked: Sequence[Query]) -> list[QueryAnswers]:
    """All answers to all prompts. Equal prompts are read once, answers share their prompt's past.

    A competitor of n tokens is worked out only if it may win: its mean log-probability is at most
    that of its first token divided by n.
    """
    by_prompt: dict[Tokens, list[int]] = {}
    for number, one in enumerate(asked):
        by_prompt.setdefault(one.prompt, []).append(number)
    prompts = sorted(by_prompt, key=nearness)
    answered: dict[int, QueryAnswers] = {}
    for batch in batches(model, [len(prompt) for prompt in prompts]):
        reading = read(model, [prompts[index] for index in batch])
        row_of = {
            number: row for row, index in enumerate(batch) for number in by_prompt[prompts[index]]
        }
        answered |= _answered(model, reading, row_of, asked)
    return [answered[number] for number in range(len(asked))]


def _answered(
    model: HookedTransformer, reading: Reading, row_of: Mapping[int, int], asked: Sequence[Query]
) -> dict[int, QueryAnswers]:
    """The questions with these numbers, whose prompts are rows of `reading`."""
    firsts = _firsts(
        model,
        reading,
        [
            (row, answer)
            for n, row in row_of.items()
            for answer in asked[n].answers + asked[n].field
        ],
    )
    known = _worked_out(
        model, reading, firsts, [(row, a) for n, row in row_of.items() for a in asked[n].answers]
    )
    may_win = [
        (row, rival)
        for n, row in row_of.items()
        for rival in asked[n].field
        if firsts[row, rival[0]].logprob / len(rival)
        > known[row, asked[n].answers[asked[n].ranked]].logprob
    ]
    known |= _worked_out(model, reading, firsts, [key for key in may_win if key not in known])
    answered = {}
    for n, row in row_of.items():
        answers = tuple(known[row, answer] for answer in asked[n].answers)
        better = [
            rival
            for rival in asked[n].field
            if (row, rival) in known
            and known[row, rival].logprob > answers[asked[n].ranked].logprob
        ]
        answered[n] = QueryAnswers(answers, 1 + len(better) if asked[n].field else None)
    return answered


def _firsts(
    model: HookedTransformer, reading: Reading, answers: Sequence[Answer]
) -> dict[tuple[int, int], Likelihood]:
    """(row, token): the first tokens of `answers`."""
    asked = list(dict.fromkeys((row, tokens[0]) for row, tokens in answers))
    return dict(zip(asked, _scored(model, reading.last, asked), strict=True))


def _worked_out(
    model: HookedTransformer,
    reading: Reading,
    firsts: Mapping[tuple[int, int], Likelihood],
    answers: Sequence[Answer],
) -> dict[Answer, Likelihood]:
    """Whole answers: what follows a first token is run behind the prompt's keys and values."""
    done: dict[Answer, Likelihood] = {
        (row, tokens): firsts[row, tokens[0]] for row, tokens in answers if len(tokens) == 1
    }
    longer = list(dict.fromkeys((row, tokens) for row, tokens in answers if len(tokens) > 1))
    lengths = [len(tokens) - 1 for _, tokens in longer]
    for batch in batches(model, lengths, behind=reading.mask.shape[1]):
        rows = torch.tensor([longer[index][0] for index in batch], device=reading.last.device)
        inputs = padded([longer[index][1][:-1] for index in batch], reading.last.device)
        resid, _ = read_on(model, reading.rows(rows), inputs)
        width = inputs.shape[1]
        asked = [
            (place * width + step, token)
            for place, index in enumerate(batch)
            for step, token in enumerate(longer[index][1][1:])
        ]
        scores = iter(_scored(model, resid.flatten(0, 1), asked))
        for index in batch:
            row, tokens = longer[index]
            each = [firsts[row, tokens[0]], *(next(scores) for _ in tokens[1:])]
            done[longer[index]] = Likelihood(
                sum(one.logprob for one in each) / len(each), all(one.exact for one in each)
            )
    return done


def _scored(
    model: HookedTransformer, resid: Tensor, asked: Sequence[tuple[int, int]]
) -> list[Likelihood]:
    """Each (row of `resid`, token), the rows that are asked after unembedded once."""
    if not asked:
        return []
    rows = sorted({row for row, _ in asked})
    place = {row: index for index, row in enumerate(rows)}
    logprobs, exact = token_scores(
        model,
        resid[torch.tensor(rows, device=resid.device)],
        torch.tensor([place[row] for row, _ in asked], device=resid.device),
        torch.tensor([token for _, token in asked], device=resid.device),
    )
    return [
        Likelihood(logprob, best)
        for logprob, best in zip(logprobs.tolist(), exact.tolist(), strict=True)
    ]
