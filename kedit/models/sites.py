"""Computes what attention and MLP of a block read and write, in every family of models.

This is the only module that knows about post-norms (Gemma, OLMo 2), parallel blocks (GPT-J, NeoX)
and the order of a block's parts. Everything is computed with HookedTransformer's modules and
weights. Activations are computed on the block's device and returned where they came from (see
`kedit.models.split`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedEncoder, HookedEncoderDecoder, HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from kedit.errors import InputError
from kedit.models.masked import AnyModel, token_embedding
from kedit.models.split import block_device

Half = Literal["mlp", "attn"]
# switches of HookedTransformer that change how it computes a block, to offer more hook points
SWITCHES = ("use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result")
TANH_GELUS = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}  # three names for one function
tanh_gelu = partial(F.gelu, approximate="tanh")  # one pass over memory, TransformerLens' has eight
# the functions of IN_PLACE compute the same as their keys and overwrite their input
IN_PLACE: dict[Callable, Callable] = {
    tanh_gelu: partial(torch.ops.aten.gelu_, approximate="tanh"),
    F.silu: partial(F.silu, inplace=True),
}
BUFFERED = 2**21  # numbers in a buffer of neurons on a CPU: 8 MiB in float32
NO_NORM = nn.Identity()
OLMO_QK_NORM = {"OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"}


def live_hooks(model: AnyModel) -> list[str]:
    """Returns the names of the hook points that have a hook."""
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks]


def require_unhooked(model: AnyModel) -> None:
    """Checks that the model has no live hooks and no switches on that change its blocks.

    Tracing and editing compute blocks in other ways than HookedTransformer's forward, and would run
    a user's hooks on other tensors, or not at all.

    Raises:
        InputError: a hook is live or a switch is on; the message says how to remove it.
    """
    _refuse(live_hooks(model))
    if on := [name for name in SWITCHES if getattr(model.cfg, name)]:
        raise InputError(f"tracing and editing need these switched off: model.cfg.{', '.join(on)}")


def require_no_hooks_left(model: HookedTransformer) -> None:
    """Checks that all live hooks belong to a `with model.hooks(...)` block, which removes them.

    Within such a block, a user may score a model that hooks change on purpose. Any other hook was
    probably left behind by mistake.

    Raises:
        InputError: another hook is live; the message says how to remove it.
    """
    points = model.hook_dict.items()
    _refuse([name for name, at in points if any(not hook.context_level for hook in at.fwd_hooks)])


def _refuse(hooks: Sequence[str]) -> None:
    if hooks:
        named = ", ".join(hooks[:3]) + (f" and {len(hooks) - 3} more" if len(hooks) > 3 else "")
        raise InputError(
            f"the model has live hooks ({named}), which would change the result: remove them with "
            "model.reset_hooks(including_permanent=True)"
        )


def require_gradients(model: AnyModel) -> None:
    """Checks that gradients can be computed.

    Raises:
        InputError: torch.inference_mode() is on, or was on when the model was loaded.
    """
    if torch.is_inference_mode_enabled() or token_embedding(model).W_E.is_inference():
        raise InputError(
            "gradients are needed, but torch.inference_mode() rules them out: load the model and "
            "call kedit outside of it (torch.no_grad() is fine)"
        )


def is_unhooked(model: HookedTransformer) -> bool:
    """Whether the weights alone decide what the blocks do: no live hook, no switch."""
    return not live_hooks(model) and not any(getattr(model.cfg, name) for name in SWITCHES)


def is_parallel(block: TransformerBlock) -> bool:
    """Whether attention and MLP both read the block's input (so that there is no resid_mid)."""
    return block.cfg.parallel_attn_mlp


def attn_read(block: TransformerBlock, resid_pre: Tensor) -> Tensor:
    """Computes the input of the block's attention from the residual stream."""
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return resid_pre
    return norm(block.ln1, resid_pre)


def attn_post_norm(block: TransformerBlock) -> nn.Module:
    """Returns the norm between the raw output of W_O and the residual stream, or NO_NORM."""
    if block.cfg.use_normalization_before_and_after:
        return block.ln1_post
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return block.ln1
    return NO_NORM


def attn_written(block: TransformerBlock, raw: Tensor) -> Tensor:
    """Applies the post-norm, if there is one, to the raw output of W_O.

    The result is what attention adds to the residual stream.
    """
    return norm(attn_post_norm(block), raw)


def mlp_written(block: TransformerBlock, raw: Tensor) -> Tensor:
    """Applies the post-norm, if there is one, to the raw output of W_out.

    The result is what the MLP adds to the residual stream.
    """
    if block.cfg.attn_only:
        return raw
    if block.cfg.use_normalization_before_and_after:
        return norm(block.ln2_post, raw)
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return norm(block.ln2, raw)
    return raw


def has_post_norms(model: HookedTransformer) -> bool:
    """Whether a norm lies between the output of each half and the residual stream."""
    cfg = model.cfg
    return bool(
        cfg.use_normalization_before_and_after
        or cfg.original_architecture in POST_NORM_ARCHITECTURES
    )


def mlp_read(block: TransformerBlock, resid_mid: Tensor) -> Tensor:
    """Computes the input of the block's MLP from `resid_mid` (in a parallel block: resid_pre)."""
    if block.cfg.attn_only or block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return resid_mid
    return norm(block.ln2, resid_mid)


def mlp_raw(
    block: TransformerBlock, read: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Computes the raw output of W_out from the MLP's input, which `mlp_read` gives."""
    if block.cfg.attn_only:
        return torch.zeros_like(read)
    return _mlp(block.mlp, read.to(block_device(block))).to(read.device)


def mlp_out(
    block: TransformerBlock, resid_mid: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Computes what the block's MLP adds for `resid_mid` (in a parallel block: resid_pre)."""
    here = resid_mid.to(block_device(block))
    return mlp_written(block, mlp_raw(block, mlp_read(block, here))).to(resid_mid.device)


def w_o(block: TransformerBlock) -> Float[Tensor, "d_model key"]:
    """Returns W_O of all heads in F.linear's layout: `F.linear(z.flatten(-2), w_o(block), b_O)`.

    It is on the block's device.
    """
    return rearrange(block.attn.W_O, "head d_head d_model -> d_model (head d_head)")


def head_written(
    block: TransformerBlock,
    z: Float[Tensor, "batch head d_head"],
    clean_z: Float[Tensor, "#batch head d_head"],
) -> Float[Tensor, "head batch d_model"]:
    """Computes attn_out at one position once per head, with only this head's z from `clean_z`.

    The z of all other heads come from `z`.
    """
    here, clean = (each.to(block_device(block)) for each in (z, clean_z))
    raw = F.linear(here.flatten(-2), w_o(block), block.attn.b_O)
    change = torch.einsum("bhd,hdm->hbm", clean - here, block.attn.W_O)
    return attn_written(block, raw + change).to(z.device)


def has_plain_attention(block: TransformerBlock) -> bool:
    """Whether the heads compute softmax(q kᵀ / scale) v and nothing else.

    A causal mask and a window are allowed.
    """
    attn, cfg = block.attn, block.cfg
    return (
        cfg.positional_embedding_type in ("standard", "rotary")
        and cfg.attention_dir == "causal"
        and cfg.original_architecture not in OLMO_QK_NORM
        and cfg.attn_scores_soft_cap <= 0
        and cfg.clip_qkv is None
        and not (cfg.use_attention_sinks or cfg.use_logn_attn or cfg.load_in_4bit)
        and not cfg.ungroup_grouped_query_attention
        and attn.attn_type in ("global", "local")
    )


def sees_all(block: TransformerBlock, n_ctx: int) -> bool:
    """Whether the block's heads see all earlier tokens in a text of `n_ctx` tokens."""
    return block.attn.attn_type == "global" or n_ctx <= (block.cfg.window_size or 0)


def rotated(
    block: TransformerBlock,
    queries_or_keys: Float[Tensor, "token head d_head"],
    positions: Int[Tensor, " token"],
    n_ctx: int,
) -> Float[Tensor, "token head d_head"]:
    """Applies the block's rotary embedding, if it has one, to tokens at any positions.

    It computes the same as `block.attn.apply_rotary`, which only takes rows of adjacent positions.
    All tensors are on the block's device.

    Args:
        n_ctx: number of tokens of the text; the positions are below it.
    """
    attn = block.attn
    if block.cfg.positional_embedding_type != "rotary":
        return queries_or_keys
    # for texts of this length TransformerLens may have to extend or to rescale its tables
    attn.apply_rotary(queries_or_keys.new_empty(1, n_ctx, 1, queries_or_keys.shape[-1]))
    cos, sin = (table[positions, None] for table in (attn.rotary_cos, attn.rotary_sin))
    turned, passed = queries_or_keys.tensor_split([cos.shape[-1]], -1)
    turned = (turned * cos).addcmul_(attn.rotate_every_two(turned), sin)
    return torch.cat([turned, passed], -1) if passed.shape[-1] else turned


def _mlp(mlp: nn.Module, read: Tensor) -> Tensor:
    """Computes `mlp(read)`, for plain and gated MLPs with reused buffers for the neurons.

    The neurons are the widest tensors of a forward. On a CPU, allocating new memory for all of them
    takes a fiftieth of the whole time.
    """
    if not isinstance(mlp, MLP | GatedMLP) or _is_watched(mlp, read):
        return mlp(read)
    in_place = IN_PLACE.get(mlp.act_fn)
    if in_place is None:
        return mlp(read)
    tokens = read.flatten(0, -2)
    out = torch.empty_like(tokens)
    d_mlp = mlp.W_in.shape[1]
    size = max(1, BUFFERED // d_mlp) if tokens.device.type == "cpu" else max(1, len(tokens))
    buffers = [
        tokens.new_empty(min(size, len(tokens)), d_mlp)
        for _ in range(1 + isinstance(mlp, GatedMLP))
    ]
    for part, written in zip(tokens.split(size), out.split(size), strict=True):
        neurons, *linear = (buffer[: len(part)] for buffer in buffers)
        if isinstance(mlp, GatedMLP):
            in_place(torch.mm(part, mlp.W_gate, out=neurons))
            torch.mm(part, mlp.W_in, out=linear[0])
            torch.addcmul(mlp.b_in, neurons, linear[0], out=neurons)
        else:
            in_place(torch.addmm(mlp.b_in, part, mlp.W_in, out=neurons))
        torch.addmm(mlp.b_out, neurons, mlp.W_out, out=written)
    return out.view(read.shape)


def _is_watched(mlp: MLP | GatedMLP, read: Tensor) -> bool:
    """Whether the MLP module itself has to run, because of gradients or hooks on the neurons."""
    points = (module for module in mlp.modules() if isinstance(module, HookPoint))
    if any(point.fwd_hooks or point.bwd_hooks for point in points):
        return True
    trained = read.requires_grad or any(weight.requires_grad for weight in mlp.parameters())
    return torch.is_grad_enabled() and trained


def norm(module: nn.Module, resid: Tensor) -> Tensor:
    """Computes `module(resid)`, by a fused kernel if there is one for this norm."""
    on = getattr(module, "w", resid).device
    return _normed(module, resid.to(on)).to(resid.device)


def _normed(module: nn.Module, resid: Tensor) -> Tensor:
    """Computes `norm` on the device of the norm's weights."""
    if resid.dtype == torch.float32 and getattr(module, "w", resid).dtype == torch.float32:
        if isinstance(module, LayerNorm):
            return F.layer_norm(resid, (module.length,), module.w, module.b, module.eps)
        if isinstance(module, RMSNorm):
            return F.rms_norm(resid, module.w.shape, module.w, module.eps)
    return module(resid)


def final_norm(
    model: AnyModel, resid: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """Returns what is multiplied by W_U: final residuals after ln_final.

    In BERT it is the output of the head for masked words, and in T5 the decoder's final norm, with
    the factor that tied embeddings need.
    """
    if isinstance(model, HookedEncoder):
        return model.mlm_head(resid)
    if isinstance(model, HookedEncoderDecoder):
        scale = model.cfg.d_model**-0.5 if model.cfg.tie_word_embeddings else 1.0
        return scale * norm(model.decoder_final_ln, resid)
    return norm(model.ln_final, resid[None])[0]
