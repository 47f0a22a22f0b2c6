"""Norms as the linear maps that they are once their scale is kept at that of a run.

Between what a head computes and the logits stand ln_final and, in Gemma and OLMo 2, a post-norm of
the attention half. With their scales frozen what is written splits into the parts of its writers
(Elhage et al. 2021; TransformerLens does so for its direct logit attribution).
"""

from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.models.sites import attn_post_norm, w_o


def frozen_norm(
    norm: nn.Module,
    whole: Float[Tensor, "batch d_model"],
    part: Float[Tensor, "*part batch d_model"],
) -> Float[Tensor, "*part batch d_model"]:
    """What `part` brings to `norm(whole)`, in float32.

        norm(whole) = Σ frozen_norm(norm, whole, part) + norm_bias(norm)      where Σ part = whole

    Args:
        norm: any of HookedTransformer's own, or nn.Identity where a model has none.
        whole: whose scale each part is divided by.
    """
    whole, part = whole.float(), part.float()
    if isinstance(norm, nn.Identity):
        return part
    if isinstance(norm, LayerNorm | LayerNormPre):
        whole, part = (own - own.mean(-1, keepdim=True) for own in (whole, part))
    scale = (whole.pow(2).mean(-1, keepdim=True) + cast(float, norm.eps)).sqrt()
    return part / scale * getattr(norm, "w", 1.0)  # folded into later weights, it is gone


def norm_bias(norm: nn.Module, like: Float[Tensor, "*part d_model"]) -> Float[Tensor, " d_model"]:
    """What `norm` adds whatever it reads: zeros but for a LayerNorm; of the type of `like`."""
    bias = getattr(norm, "b", None)
    return like.new_zeros(like.shape[-1]) if bias is None else bias.to(like)


def final_norm(model: HookedTransformer) -> nn.Module:
    """ln_final, or the identity in a model without norms, which has no such module."""
    return getattr(model, "ln_final", nn.Identity())


def after_post_norm(
    block: TransformerBlock,
    z: Float[Tensor, "batch head d_head"],
    raw: Float[Tensor, "*part batch d_model"],
) -> Float[Tensor, "*part batch d_model"]:
    """Raw output `raw` of some heads or of b_O as it reaches the residual stream.

    Args:
        z: all heads' outputs at this position, whose sum behind W_O sets the post-norm's scale.
    """
    whole = F.linear(z.flatten(-2), w_o(block), block.attn.b_O)
    return frozen_norm(attn_post_norm(block), whole, raw)
