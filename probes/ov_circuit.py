"""A head's OV circuit: what it would write for a token if it attended to that one alone.

Elhage et al. 2021, who multiply W_E W_V W_O W_U; here, as in Geva et al. 2023, the source is not an
embedding but the state that the prompt's subject has reached at the head's layer. Whether the head
does attend there is another question, which the pattern answers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.runs import States
from kedit.heads import Head
from kedit.models.prompts import Prompt, decoded
from probes.frozen import after_post_norm, final_norm, frozen_norm


class TokenLogit(NamedTuple):
    """A token's text, and what its logit gains over the vocabulary's mean."""

    token: str
    logit: float


@dataclass(frozen=True)
class OVWrites:
    """What a head writes to the last token's logits with all its attention on `source`.

    Args:
        source: a position of the prompt.
        top, bottom: the tokens that it promotes and suppresses most, the most extreme first.
        answer_logit: of the answer's first token, less the vocabulary's mean.
        answer_rank: of that token in the vocabulary; 1 is best.
        source_rank: of the token at `source`: 1 in a head that copies.
    """

    head: Head
    source: int
    top: tuple[TokenLogit, ...]
    bottom: tuple[TokenLogit, ...]
    answer_logit: float
    answer_rank: int
    source_rank: int


@torch.no_grad()
def ov_writes(
    model: HookedTransformer,
    prompt: Prompt,
    states: States,
    head: Head,
    k: int = 8,
    source: int | None = None,
) -> OVWrites:
    """Reads `head`'s OV circuit in the run of `prompt` that left `states`.

    The scales of a post-norm and of ln_final are those of the run, as if the head's part alone were
    exchanged; a final soft cap and all biases but b_V are left out. A local head is asked for a
    source outside its window too.

    Args:
        states: of several rows the mean is taken.
        k: how many tokens to name at either end.
        source: the subject's last token if None.

    Raises:
        InputError: a head, a position or a number of tokens that is not there, or states of a
            prompt of another length.
    """
    source = prompt.subject[1] - 1 if source is None else source
    _require(model, prompt, states, head, k, source)
    logits = _logits(model, states, head, source)
    answer, copied = prompt.answer_ids[0], int(prompt.tokens[source])
    top, bottom = logits.topk(k), logits.topk(k, largest=False)
    return OVWrites(
        head=head,
        source=source,
        top=_named(model, top.indices, top.values),
        bottom=_named(model, bottom.indices, bottom.values),
        answer_logit=float(logits[answer]),
        answer_rank=_rank(logits, answer),
        source_rank=_rank(logits, copied),
    )


def _logits(
    model: HookedTransformer, states: States, head: Head, source: int
) -> Float[Tensor, " vocab"]:
    """What attention 1 on `source` brings to each logit, centred over the vocabulary."""
    block, values = model.blocks[head.layer], states.values[head.layer]
    shared_by = model.cfg.n_heads // values.shape[2]
    value = values[:, source, head.head // shared_by]
    raw = value @ block.attn.W_O[head.head]
    written = after_post_norm(block, states.z[head.layer][:, -1], raw)
    # the mean of the rows before the vocabulary: linear as it is, one row of logits will do
    normed = frozen_norm(final_norm(model), states.last, written).mean(0)
    logits = F.linear(normed.to(model.unembed.W_U.dtype), model.unembed.W_U.T).float()
    return logits - logits.mean()


def _rank(logits: Float[Tensor, " vocab"], token: int) -> int:
    return 1 + int((logits > logits[token]).sum())


def _named(model: HookedTransformer, tokens: Tensor, logits: Tensor) -> tuple[TokenLogit, ...]:
    return tuple(
        TokenLogit(decoded(model, token), logit)
        for token, logit in zip(tokens.tolist(), logits.tolist(), strict=True)
    )


def _require(
    model: HookedTransformer, prompt: Prompt, states: States, head: Head, k: int, source: int
) -> None:
    n_pos, cfg = len(prompt.tokens), model.cfg
    if states.resid[0].shape[1] != n_pos:
        raise InputError(
            f"the prompt has {n_pos} tokens, the run that left the states "
            f"{states.resid[0].shape[1]}"
        )
    if not (0 <= head.layer < cfg.n_layers and 0 <= head.head < cfg.n_heads):
        raise InputError(f"{head}: the model has {cfg.n_layers} layers of {cfg.n_heads} heads")
    if not 0 <= source < n_pos:
        raise InputError(f"source {source}: a position below {n_pos} is wanted")
    if not 1 <= k <= cfg.d_vocab_out:
        raise InputError(f"k {k}: from 1 to {cfg.d_vocab_out}, the whole vocabulary, is wanted")
