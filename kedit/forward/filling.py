"""What a masked model fills in for a fact's object, and how likely it finds other objects.

An object of several tokens is filled in from left to right, as a decoder would say it: each token
at its mask, when the tokens before it stand in the place of their masks. T5's decoder works in this
way by itself.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kedit.facts import Fact
from kedit.forward.metrics import last_logits, token_scores
from kedit.models.masked import Masked, final_resid
from kedit.models.masked_prompts import MaskedPrompt, decoder_ids, encode_masked, with_given

PROMPTS_PER_BATCH = 64


def by_shape(prompts: Sequence[MaskedPrompt]) -> list[list[int]]:
    """Groups prompts, by their numbers, that run together without padding."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.tokens), len(prompt.labels)), []).append(number)
    return list(groups.values())


def tokens_of(
    model: Masked, prompts: Sequence[MaskedPrompt]
) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, "prompt decoder_pos"]]:
    """Returns the tokens of prompts of one group, and those of T5's decoder (none for BERT)."""
    tokens = torch.stack([prompt.tokens for prompt in prompts])
    return tokens, tokens.new_tensor([decoder_ids(model, prompt) for prompt in prompts])


@torch.no_grad()
def read_answers(model: Masked, prompts: Sequence[MaskedPrompt]) -> Float[Tensor, "prompt d_model"]:
    """Returns the final residual of each prompt, where its next token is read."""
    found: dict[int, Tensor] = {}
    for alike in by_shape(prompts):
        for start in range(0, len(alike), PROMPTS_PER_BATCH):
            part = alike[start : start + PROMPTS_PER_BATCH]
            tokens, decoder = tokens_of(model, [prompts[number] for number in part])
            resid = final_resid(model, tokens, decoder, torch.ones_like(tokens))
            for row, number in zip(resid, part, strict=True):
                found[number] = row[-1 if decoder.shape[1] else prompts[number].read_at]
    return torch.stack([found[number] for number in range(len(prompts))])


@torch.no_grad()
def filled_in(model: Masked, fact: Fact, n_more: int = 0) -> tuple[int, ...]:
    """Returns the likeliest tokens for the object, one after the other.

    Args:
        n_more: how many tokens T5 says after as many as the object has. BERT has no masks for them.
    """
    prompt = with_given(model, encode_masked(model, fact), 0)
    said: tuple[int, ...] = ()
    n_tokens = len(prompt.object_ids) + (n_more if decoder_ids(model, prompt) else 0)
    for _ in range(n_tokens):
        left = prompt.object_ids[len(said) :] or (0,)
        asked = with_given(model, replace(prompt, given=said, answer_ids=left), len(said))
        logits = last_logits(model, read_answers(model, [asked]))[0]
        said += (int(logits.argmax()),)
    return said


@torch.no_grad()
def object_logprobs(model: Masked, fact: Fact, objects: Sequence[str]) -> list[float]:
    """Returns the log-probability of each of `objects` in place of the fact's object, in nats.

    It is the sum over the object's tokens. In BERT the sentence has as many masks as the object has
    tokens.
    """
    prompts: list[MaskedPrompt] = []
    owner: list[int] = []
    for number, name in enumerate(objects):
        plain = encode_masked(model, replace(fact, object=name, rival=""))
        steps = [with_given(model, plain, n) for n in range(len(plain.object_ids))]
        prompts += steps
        owner += [number] * len(steps)
    resid = read_answers(model, prompts)
    rows = torch.arange(len(prompts), device=resid.device)
    tokens = torch.tensor([prompt.answer_ids[0] for prompt in prompts], device=resid.device)
    scores, _ = token_scores(model, resid, rows, tokens)
    sums = torch.zeros(len(objects), dtype=torch.float64)
    sums.index_add_(0, torch.tensor(owner), scores.double().cpu())
    return sums.tolist()
