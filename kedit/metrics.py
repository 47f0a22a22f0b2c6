"""From the last residual to one number a prompt, never holding all prompts' logits at once."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.sites import norm

METRICS = ("prob", "logprob", "logit_diff")
CHUNK = 2**22  # logits in memory at once, 16 MiB in float32: what the allocator keeps and reuses


def answer_scores(
    model: HookedTransformer, resid: Float[Tensor, "row d_model"], answer: int, foil: int
) -> Float[Tensor, "metric row"]:
    """How strongly each final residual says `answer`, by every metric of METRICS, in float32.

    prob is softmax(logits)[answer], logprob its logarithm, logit_diff logits[answer - foil]. The
    normaliser runs over the vocabulary in chunks: 262,144 logits a row never lie in memory.
    """
    pair = torch.tensor([answer, foil], device=resid.device)
    columns = model.unembed.W_U[:, pair].T, model.unembed.b_U[pair]
    scores = []
    for rows in norm(model.ln_final, resid[None])[0].split(1024):
        chosen = _capped(model, F.linear(rows, *columns))
        logprob = chosen[:, 0] - _log_normaliser(model, rows)
        scores.append(torch.stack([logprob.exp(), logprob, chosen[:, 0] - chosen[:, 1]]))
    return torch.cat(scores, dim=1)


def last_logits(
    model: HookedTransformer, resid: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    """All logits of a few final residuals, in float32."""
    rows = norm(model.ln_final, resid[None])[0]
    return _capped(model, F.linear(rows, model.unembed.W_U.T, model.unembed.b_U))


def _log_normaliser(
    model: HookedTransformer, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, " row"]:
    weight, bias = model.unembed.W_U.T, model.unembed.b_U
    total = None
    width = max(1, CHUNK // len(rows))
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = _capped(model, F.linear(rows, weight[part], bias[part]))
        peak = logits.amax(-1, keepdim=True)
        lse = (
            logits.sub_(peak).exp_().sum(-1).log() + peak[:, 0]
        )  # in place: half of logsumexp's time
        total = lse if total is None else torch.logaddexp(total, lse)
    assert total is not None
    return total


def _capped(model: HookedTransformer, logits: Tensor) -> Tensor:
    """Gemma 2 bounds its logits: cap * tanh(logits / cap)."""
    cap = model.cfg.output_logits_soft_cap
    logits = logits.float()
    return cap * torch.tanh(logits / cap) if cap > 0 else logits
