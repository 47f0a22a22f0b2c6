"""Direct logit attribution: what each head and each MLP itself writes for the answer.

Elhage et al. 2021; Wang et al. 2022. The last residual is the sum of all that was written to it,
and ln_final with its scale frozen maps each part by itself to logits. What a part does by way of
later layers is not in it: `probes.patch` measures both together, and where later layers repair what
is missing the two differ.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.runs import States
from kedit.models.sites import attn_post_norm
from probes.frozen import after_post_norm, final_norm, frozen_norm, norm_bias
from probes.patch import AnswerMetric

LOST = 0.05  # of all that the parts bring: more than rounding takes, in bfloat16 too


@dataclass(frozen=True)
class DirectEffects:
    """Shares of logit(answer) - logit(foil) at the prompt's last token, means over a run's rows.

        heads.sum() + mlps.sum() + rest = total                                     up to rounding

    Args:
        heads: each without b_O, which belongs to none of them, but with its b_V.
        mlps: each with its b_out; zeros in a model without MLPs.
        rest: the embedding's (and the positions'), and that of b_O, ln_final's bias and b_U.
        total: the logit difference, before a final soft cap (Gemma 2): a cap is no sum of parts.
    """

    heads: Float[Tensor, "layer head"]
    mlps: Float[Tensor, " layer"]
    rest: float
    total: float


@torch.no_grad()
def direct_effects(
    model: HookedTransformer, states: States, question: AnswerMetric
) -> DirectEffects:
    """The direct effects in the run that left `states`, each row in its own scales.

    Raises:
        InputError: a token that is not in the vocabulary, or parts that do not add up: other
            weights left the states, or the run's hooks replaced what a half had written.
    """
    n_vocab = model.cfg.d_vocab_out
    if not (0 <= question.answer < n_vocab and 0 <= question.foil < n_vocab):
        raise InputError(
            f"answer {question.answer}, foil {question.foil}: ids below {n_vocab}, the size of the "
            "vocabulary, are wanted"
        )
    last, final = states.last, final_norm(model)
    pair = [question.answer, question.foil]
    answer, foil = model.unembed.W_U.T[pair].float()
    answer_bias, foil_bias = model.unembed.b_U[pair].float()
    direction = answer - foil

    def logit_diff(part: Float[Tensor, "*part batch d_model"]) -> Float[Tensor, " *part"]:
        return (frozen_norm(final, last, part) @ direction).mean(-1)

    always = norm_bias(final, direction) @ direction + answer_bias - foil_bias
    rest = logit_diff(states.resid[0][:, -1]) + always
    heads = []
    for block, every in zip(model.blocks, states.z, strict=True):
        z = every[:, -1]
        raw = torch.einsum("bhd,hdm->hbm", z, block.attn.W_O)
        heads.append(logit_diff(after_post_norm(block, z, raw)))
        bias = after_post_norm(block, z, block.attn.b_O.expand(len(z), -1))
        rest += logit_diff(bias + norm_bias(attn_post_norm(block), bias))
    mlps = logit_diff(torch.stack([out[:, -1] for out in states.mlp_out]))
    total = logit_diff(last) + always

    parts = torch.cat([*heads, mlps, rest[None]])
    if not (parts.sum() - total).abs() <= LOST * parts.abs().sum():
        raise InputError(
            f"heads, MLPs and the rest bring {float(parts.sum()):.3g} to a logit difference of "
            f"{float(total):.3g}: states of this model are wanted, from a run whose hooks let "
            "stand what its halves write"
        )
    return DirectEffects(
        heads=torch.stack(heads).cpu(),
        mlps=mlps.cpu(),
        rest=float(rest),
        total=float(total),
    )
