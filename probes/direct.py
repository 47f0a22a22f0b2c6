"""Direct logit attribution: how much does each head and MLP itself write for the answer?

The last residual is the sum of what all heads and MLPs wrote to it. With the scale of ln_final
frozen, each summand maps linearly to logits, so the answer's logit splits into their shares. This
finds the heads and MLPs that write the answer, in one run (Elhage et al. 2021; Wang et al. 2022).
It leaves out what they do through later layers. `probes.patch` measures direct and later effects
together; the two can differ a lot, for example where later layers compensate for a missing head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.runs import States
from kedit.models.sites import attn_post_norm
from kedit.models.split import block_device
from probes.frozen import after_post_norm, final_norm, frozen_norm, norm_bias
from probes.patch import AnswerMetric

# largest share of the parts' sum that may be missing; rounding loses less, even in bfloat16
LOST = 0.05


@dataclass(frozen=True)
class DirectEffects:
    """Parts of logit(answer) - logit(foil) at the prompt's last token, averaged over a run's rows.

        heads.sum() + mlps.sum() + rest = total                                     up to rounding

    Args:
        heads: each head's part, with its b_V but without b_O, which belongs to no single head.
        mlps: each MLP's part, with its b_out; zeros in a model without MLPs.
        rest: the part of token and position embeddings, b_O, ln_final's bias and b_U.
        total: the logit difference before the final soft cap, if there is one (Gemma 2): a capped
            logit is not a sum of parts.
    """

    heads: Float[Tensor, "layer head"]
    mlps: Float[Tensor, " layer"]
    rest: float
    total: float


@torch.no_grad()
def direct_effects(
    model: HookedTransformer, states: States, question: AnswerMetric
) -> DirectEffects:
    """Computes the direct effects in a run; norms keep the scales that they have in each row.

    Args:
        states: states of the run, of any number of rows.
        question: the answer and the foil.

    Raises:
        InputError: a token is not in the vocabulary, or the parts do not add up to the logit
            difference. The states then belong to other weights, or hooks replaced outputs of
            attention or of MLPs during the run.
    """
    n_vocab = model.cfg.d_vocab_out
    if not (0 <= question.answer < n_vocab and 0 <= question.foil < n_vocab):
        raise InputError(
            f"answer {question.answer}, foil {question.foil}: token ids must be between 0 and "
            f"{n_vocab - 1}, the vocabulary's last"
        )
    last, final = states.last, final_norm(model)
    pair = [question.answer, question.foil]
    answer, foil = model.unembed.W_U.T[pair].float()
    answer_bias, foil_bias = model.unembed.b_U[pair].float()
    direction = answer - foil

    def logit_diff(part: Float[Tensor, "*part batch d_model"]) -> Float[Tensor, " *part"]:
        return (frozen_norm(final, last, part.to(last.device)) @ direction).mean(-1)

    constant = norm_bias(final, direction) @ direction + answer_bias - foil_bias
    rest = logit_diff(states.resid[0][:, -1]) + constant
    heads = []
    for block, z_everywhere in zip(model.blocks, states.z, strict=True):
        z = z_everywhere[:, -1].to(block_device(block))
        raw = torch.einsum("bhd,hdm->hbm", z, block.attn.W_O)
        heads.append(logit_diff(after_post_norm(block, z, raw)))
        bias = after_post_norm(block, z, block.attn.b_O.expand(len(z), -1))
        rest += logit_diff(bias + norm_bias(attn_post_norm(block), bias))
    mlps = logit_diff(torch.stack([out[:, -1] for out in states.mlp_out]))
    total = logit_diff(last) + constant

    parts = torch.cat([*heads, mlps, rest[None]])
    if not (parts.sum() - total).abs() <= LOST * parts.abs().sum():
        raise InputError(
            f"heads, MLPs and the rest sum to {float(parts.sum()):.3g}, but the logit difference "
            f"is {float(total):.3g}: the states must be of this model, from a run whose hooks "
            "change no output of attention or MLPs"
        )
    return DirectEffects(
        heads=torch.stack(heads).cpu(),
        mlps=mlps.cpu(),
        rest=float(rest),
        total=float(total),
    )
