"""Generates continuations of prompts, and measures how varied a text is.

Prompts of all lengths are continued in one batch. The other prompts of the batch do not change a
prompt's text.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.forward.kept import KeptStates
from kedit.forward.metrics import last_logits
from kedit.forward.reading import Tokens, batches, nearness, read, read_on
from kedit.models.prompts import decoded, end_ids

ROWS_UNEMBEDDED = 32  # prompts whose logits over the vocabulary are in memory at once
# (numbers of prompts, logits of each) -> a token for each
Choice = Callable[[Sequence[int], Float[Tensor, "prompt vocab"]], list[int]]


def greedy(
    model: HookedTransformer,
    prompts: Sequence[Tokens],
    n_tokens: int,
    kept: KeptStates | None = None,
) -> list[Tokens]:
    """Continues prompts by the likeliest tokens.

    A continuation ends at the end of the line or of the text, after `n_tokens` tokens, or at the
    end of the model's context.

    Args:
        kept: states of the prompts in the layers below the lowest edited one.
    """
    room = [min(n_tokens, model.cfg.n_ctx - len(prompt)) for prompt in prompts]
    return _continued(
        model, prompts, room, lambda _, logits: logits.argmax(-1).tolist(), line=True, kept=kept
    )


def sampled(
    model: HookedTransformer, prompts: Sequence[Tokens], length: int, top_k: int, seed: int
) -> list[Tokens]:
    """Continues prompts by tokens that are drawn from the `top_k` likeliest tokens.

    Each prompt has its own random generator, whose seed is made from `seed`, the prompt, and the
    number of equal prompts before it. So the other prompts do not change its text.

    Args:
        length: number of tokens of prompt and continuation together, at most.
    """
    generators = []
    times: Counter[Tokens] = Counter()
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed} {prompt} {times[prompt]}".encode()).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        times[prompt] += 1

    def choice(numbers: Sequence[int], logits: Float[Tensor, "prompt vocab"]) -> list[int]:
        drawing = [generators[number] for number in numbers]
        # without a restriction, because sorting a whole vocabulary takes longer than the forward
        if top_k >= logits.shape[1]:
            shares = logits.softmax(-1).cumsum(-1)
            drawn = [torch.rand(1, generator=one, dtype=torch.float64) for one in drawing]
            at = torch.stack(drawn).to(shares) * shares[:, -1:]
            return torch.searchsorted(shares, at)[:, 0].clamp(max=logits.shape[1] - 1).tolist()
        values, tokens = logits.topk(top_k)
        shares, tokens = values.softmax(-1).cpu(), tokens.tolist()
        return [
            of_prompt[int(torch.multinomial(own, 1, generator=one))]
            for of_prompt, own, one in zip(tokens, shares, drawing, strict=True)
        ]

    length = min(length, model.cfg.n_ctx)
    room = [max(0, length - len(prompt)) for prompt in prompts]
    return _continued(model, prompts, room, choice, False, None)


def ngram_entropy(text: str) -> float:
    """Computes the fluency of a text: the entropy of its bigrams and trigrams, in bits.

    It is (2/3 H2 + 4/3 H3) / 2 (Meng et al. 2022). A word is a run of word characters or a
    punctuation mark. The published code uses NLTK's words, which split contractions differently.
    """
    return _entropy(re.findall(r"\w+|[^\w\s]", text))


def variety(tokens: Tokens) -> float:
    """Computes how varied tokens are: their n-gram entropy, divided by the largest possible one.

    The entropy is weighted as in `ngram_entropy`, but counts tokens, so that it includes blanks and
    fits scripts without blanks. The largest possible entropy is that of the same number of distinct
    tokens, so that texts of different lengths can be compared. The result is 1 if no pair of tokens
    occurs twice, and 0 if all tokens are equal. It is 1 for fewer than four tokens, which are too
    few to judge.
    """
    if len(tokens) < 4:
        return 1.0
    return _entropy(tokens) / _entropy(range(len(tokens)))


@torch.no_grad()
def _continued(
    model: HookedTransformer,
    prompts: Sequence[Tokens],
    room: Sequence[int],
    choice: Choice,
    line: bool,
    kept: KeptStates | None,
) -> list[Tokens]:
    """Continues prompts[i] by at most room[i] tokens; with `line`, only to the end of the line."""
    ends = set(end_ids(model))
    said: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: nearness(prompts[n]))
    lengths = [len(prompts[number]) for number in order]
    for batch in batches(model, lengths, n_past=max(room, default=0)):
        active = [order[index] for index in batch if room[order[index]]]
        if not active:
            continue
        reading = read(model, [prompts[number] for number in active], kept)
        while True:
            chosen: list[int] = []
            for start in range(0, len(active), ROWS_UNEMBEDDED):
                part = slice(start, start + ROWS_UNEMBEDDED)
                chosen += choice(active[part], last_logits(model, reading.last[part]))
            continuing = []
            for row, (number, token) in enumerate(zip(active, chosen, strict=True)):
                if token in ends or (line and "\n" in decoded(model, token)):
                    continue
                said[number].append(token)
                if len(said[number]) < room[number]:
                    continuing.append(row)
            if not continuing:
                break
            active = [active[row] for row in continuing]
            if len(continuing) < len(chosen):
                reading = reading.rows(torch.tensor(continuing, device=reading.last.device))
            _, reading = read_on(model, reading, [(said[n][-1],) for n in active])
    return [tuple(tokens) for tokens in said]


def _entropy(sequence: Sequence[object]) -> float:
    """(2/3 H2 + 4/3 H3) / 2 of a sequence's bigrams and trigrams, in bits."""
    entropy = []
    for n in (2, 3):
        counts = Counter(zip(*(sequence[start:] for start in range(n)), strict=False))
        total = counts.total()
        entropy.append(-sum(c / total * math.log2(c / total) for c in counts.values()))
    return (2 / 3 * entropy[0] + 4 / 3 * entropy[1]) / 2
