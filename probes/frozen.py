"""Norms with frozen scales, which makes them linear maps.

Between a head's output and the logits lies ln_final and, in Gemma and OLMo 2, a post-norm of
attention. A norm divides by a scale that depends on its whole input, so its output is not a sum of
what the heads contribute. If the scale is kept at the value it has in a run, the norm is linear and
the output splits into each head's part (Elhage et al. 2021; TransformerLens does the same for
direct logit attribution).
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
    """Computes the contribution of `part` to `norm(whole)`, in float32.

        norm(whole) = Σ frozen_norm(norm, whole, part) + norm_bias(norm)      where Σ part = whole

    Args:
        norm: one of HookedTransformer's norms, or nn.Identity in a model without norms.
        whole: the norm's whole input, which gives the scale.
        part: summands of the input.
    """
    whole, part = whole.float(), part.float()
    if isinstance(norm, nn.Identity):
        return part
    if isinstance(norm, LayerNorm | LayerNormPre):
        whole, part = (values - values.mean(-1, keepdim=True) for values in (whole, part))
    scale = (whole.pow(2).mean(-1, keepdim=True) + cast(float, norm.eps)).sqrt()
    return part / scale * getattr(norm, "w", 1.0)  # no w if it is folded into later weights


def norm_bias(norm: nn.Module, like: Float[Tensor, "*part d_model"]) -> Float[Tensor, " d_model"]:
    """The norm's bias, or zeros if it has none (only LayerNorm has one), in the type of `like`."""
    bias = getattr(norm, "b", None)
    return like.new_zeros(like.shape[-1]) if bias is None else bias.to(like)


def final_norm(model: HookedTransformer) -> nn.Module:
    """The model's ln_final, or the identity in a model without norms."""
    return getattr(model, "ln_final", nn.Identity())


def after_post_norm(
    block: TransformerBlock,
    z: Float[Tensor, "batch head d_head"],
    raw: Float[Tensor, "*part batch d_model"],
) -> Float[Tensor, "*part batch d_model"]:
    """Applies attention's post-norm, with its scale frozen, to a part of attention's raw output.

    All tensors are on the block's device.

    Args:
        z: all heads' outputs at this position; their sum after W_O gives the post-norm's scale.
        raw: the raw output of some heads, or b_O.
    """
    whole = F.linear(z.flatten(-2), w_o(block), block.attn.b_O)
    return frozen_norm(attn_post_norm(block), whole, raw)
