"""What a model says when nothing is given but the prompt; how varied it is; what counts as saying.

Prompts of all lengths go on together; which others are in the batch changes no prompt's text.
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

from kedit.forward.metrics import last_logits
from kedit.forward.reading import Tokens, batches, nearness, read, read_on
from kedit.models.prompts import decoded, end_ids

ROWS = 32  # prompts whose logits over the vocabulary lie in memory at once
Choice = Callable[[int, Float[Tensor, " vocab"]], int]  # (prompt's number, its logits) -> token


def greedy(model: HookedTransformer, prompts: Sequence[Tokens], n_tokens: int) -> list[Tokens]:
    """The likeliest continuations, to the end of the line or of the text, or `n_tokens` long."""
    room = [min(n_tokens, model.cfg.n_ctx - len(prompt)) for prompt in prompts]
    return _continued(model, prompts, room, lambda _, logits: int(logits.argmax()), line=True)


def sampled(
    model: HookedTransformer, prompts: Sequence[Tokens], length: int, top_k: int, seed: int
) -> list[Tokens]:
    """Continuations up to a total of `length` tokens, each drawn from its `top_k` likeliest.

    Every prompt draws from a generator of its own, seeded by `seed`, the prompt, and how often the
    same prompt came before.
    """
    draws = []
    times: Counter[Tokens] = Counter()
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed} {prompt} {times[prompt]}".encode()).digest()
        draws.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        times[prompt] += 1

    def choice(number: int, logits: Float[Tensor, " vocab"]) -> int:
        if top_k >= len(logits):  # sorting a whole vocabulary takes longer than the model does
            shares = logits.softmax(-1).cumsum(-1)
            drawn = torch.rand(1, generator=draws[number], dtype=torch.float64).to(shares)
            return min(int(torch.searchsorted(shares, drawn * shares[-1])), len(logits) - 1)
        values, tokens = logits.topk(top_k)
        drawn = torch.multinomial(values.softmax(-1).cpu(), 1, generator=draws[number])
        return int(tokens[drawn])

    length = min(length, model.cfg.n_ctx)
    room = [max(0, length - len(prompt)) for prompt in prompts]
    return _continued(model, prompts, room, choice, line=False)


def ngram_entropy(text: str) -> float:
    """(2/3 H2 + 4/3 H3) / 2 of a text's bigrams and trigrams, in bits (Meng et al. 2022, fluency).

    Words are runs of word characters, and punctuation by itself; the published code takes NLTK's,
    which part contractions otherwise.
    """
    return _entropy(re.findall(r"\w+|[^\w\s]", text))


def variety(tokens: Tokens) -> float:
    """Entropy of bigrams and trigrams of tokens, over the most that it can be in so many of them.

    Weighed as `ngram_entropy` is, but of tokens, so that blanks and scripts without blanks count
    too, and whatever the length: 1 where no two tokens follow each other twice, 0 where one token
    is all that is said. Fewer than four tokens have nothing to repeat: 1.
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
) -> list[Tokens]:
    """Up to room[i] tokens behind prompts[i]; with `line`, to the end of the line at most."""
    ends = set(end_ids(model))
    said: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: nearness(prompts[n]))
    lengths = [len(prompts[number]) for number in order]
    for batch in batches(model, lengths, behind=max(room, default=0)):
        active = [order[index] for index in batch if room[order[index]]]
        if not active:
            continue
        reading = read(model, [prompts[number] for number in active])
        while True:
            chosen = []
            for rows in torch.arange(len(active)).split(ROWS):
                logits = last_logits(model, reading.last[rows])
                chosen += [choice(active[row], own) for row, own in zip(rows, logits, strict=True)]
            going = []
            for row, (number, token) in enumerate(zip(active, chosen, strict=True)):
                if token in ends or (line and "\n" in decoded(model, token)):
                    continue
                said[number].append(token)
                if len(said[number]) < room[number]:
                    going.append(row)
            if not going:
                break
            active = [active[row] for row in going]
            if len(going) < len(chosen):
                reading = reading.rows(torch.tensor(going, device=reading.last.device))
            tokens = torch.tensor([[said[n][-1]] for n in active], device=reading.last.device)
            _, reading = read_on(model, reading, tokens)
    return [tuple(tokens) for tokens in said]


def _entropy(sequence: Sequence[object]) -> float:
    """(2/3 H2 + 4/3 H3) / 2 of its bigrams and trigrams, in bits."""
    entropy = []
    for n in (2, 3):
        counts = Counter(zip(*(sequence[start:] for start in range(n)), strict=False))
        total = counts.total()
        entropy.append(-sum(c / total * math.log2(c / total) for c in counts.values()))
    return (2 / 3 * entropy[0] + 4 / 3 * entropy[1]) / 2
