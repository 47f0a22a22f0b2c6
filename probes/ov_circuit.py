"""A head's OV circuit: which tokens would it promote if it attended to one position alone?

The OV circuit shows what a head does with what it reads, apart from where it attends. A head that
carries a fact should promote the object when it reads the subject. Elhage et al. 2021 multiply
W_E W_V W_O W_U, so that the head reads an embedding. Here, as in Geva et al. 2023, it reads the
residual that the subject's position has at the head's layer. Whether the head does attend there is
a separate question (see `probes.attention`).
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
from kedit.models.split import block_device
from probes.frozen import after_post_norm, final_norm, frozen_norm


class TokenLogit(NamedTuple):
    """A token's text, and its logit minus the mean over the vocabulary."""

    token: str
    logit: float


@dataclass(frozen=True)
class OVWrites:
    """What a head would write to the last token's logits if it attended only to `source`.

    Args:
        head: the head.
        source: position of the prompt that the head reads.
        top, bottom: the tokens that it promotes and suppresses most, the most extreme first.
        answer_logit: logit of the answer's first token, minus the mean over the vocabulary.
        answer_rank: rank of that token in the vocabulary; 1 is best.
        source_rank: rank of the token at `source`, which is 1 for a head that copies.
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
    """Computes what a head's OV circuit writes, given the states of a run of the prompt.

    A post-norm and ln_final keep the scales that they have in the run. A final soft cap and all
    biases except b_V are left out. The source may lie outside of a local head's window.

    Args:
        prompt: the prompt that was run.
        states: states of the run; the result is averaged over its rows.
        head: the head.
        k: number of tokens to name at either end.
        source: position that the head reads; the subject's last token if None.

    Raises:
        InputError: the model does not have the head, the prompt does not have the position, `k` is
            below 1 or above the vocabulary's size, or the states are of a run of another length.
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
    """What the head adds to each logit with all attention on `source`, minus the tokens' mean."""
    block, values = model.blocks[head.layer], states.values[head.layer]
    shared_by = model.cfg.n_heads // values.shape[2]
    value, z = (
        act.to(block_device(block))
        for act in (values[:, source, head.head // shared_by], states.z[head.layer][:, -1])
    )
    raw = value @ block.attn.W_O[head.head]
    written = after_post_norm(block, z, raw).to(states.last.device)
    # everything is linear from here on, so the mean over rows is taken before the large unembedding
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
            f"the prompt has {n_pos} tokens, the run of the states {states.resid[0].shape[1]}: "
            "they must have the same number"
        )
    if not (0 <= head.layer < cfg.n_layers and 0 <= head.head < cfg.n_heads):
        raise InputError(f"head {head}: the model has {cfg.n_layers} layers of {cfg.n_heads} heads")
    if not 0 <= source < n_pos:
        raise InputError(f"source {source}: must be a position from 0 to {n_pos - 1}")
    if not 1 <= k <= cfg.d_vocab_out:
        raise InputError(f"k {k}: must be from 1 to {cfg.d_vocab_out}, the vocabulary's size")
