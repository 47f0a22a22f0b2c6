"""What writes to the residual stream: the two halves of a block, and the heads inside one of them.

Alone in knowing post-norms (Gemma, OLMo 2), parallel blocks (GPT-J, NeoX) and how a block's parts
hang together. Everything is computed by HookedTransformer's own modules and weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from kedit.errors import InputError

Half = Literal["mlp", "attn"]
# what HookedTransformer can be told to compute in another way, for more hook points
SWITCHES = ("use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result")
TANH_GELUS = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}  # three names for one function
tanh_gelu = partial(F.gelu, approximate="tanh")  # in one pass instead of eight
BUFFERED = 1024  # tokens whose neurons share one buffer on a CPU
NO_NORM = nn.Identity()
OLMO_QK_NORM = {"OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"}


def live_hooks(model: HookedTransformer) -> list[str]:
    """Names of the hook points that have a hook."""
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks]


def require_unhooked(model: HookedTransformer) -> None:
    """Raises InputError, with the mend, where more than the weights decides what the blocks do.

    Tracing and editing compute what blocks do by other ways than HookedTransformer's forward, and
    would run a user's hooks at other places, or not at all.
    """
    _refuse(live_hooks(model))
    if on := [name for name in SWITCHES if getattr(model.cfg, name)]:
        raise InputError(f"tracing and editing needs these off: model.cfg.{', '.join(on)}")


def require_no_hooks_left(model: HookedTransformer) -> None:
    """Raises InputError, with the mend, for hooks that no `with model.hooks(...)` will take off.

    Scores may be of a model that hooks change on purpose, within such a block.
    """
    points = model.hook_dict.items()
    _refuse([name for name, at in points if any(not one.context_level for one in at.fwd_hooks)])


def _refuse(hooks: Sequence[str]) -> None:
    if hooks:
        named = ", ".join(hooks[:3]) + (f" and {len(hooks) - 3} more" if len(hooks) > 3 else "")
        raise InputError(
            f"the model has live hooks ({named}), which would change the result: take them off "
            "with model.reset_hooks(including_permanent=True)"
        )


def require_gradients(model: HookedTransformer) -> None:
    """Raises InputError under torch.inference_mode(), and for a model that was loaded under it."""
    if torch.is_inference_mode_enabled() or model.embed.W_E.is_inference():
        raise InputError(
            "gradients are needed, which torch.inference_mode() rules out: load the model and call "
            "kedit outside of it (torch.no_grad() does no harm)"
        )


def is_unhooked(model: HookedTransformer) -> bool:
    """Whether nothing but the weights decides what the blocks do."""
    return not live_hooks(model) and not any(getattr(model.cfg, name) for name in SWITCHES)


def is_parallel(block: TransformerBlock) -> bool:
    """Whether attention and MLP both read the block's input (so that there is no resid_mid)."""
    return block.cfg.parallel_attn_mlp


def attn_read(block: TransformerBlock, resid_pre: Tensor) -> Tensor:
    """What the block's attention reads of the residual stream."""
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return resid_pre
    return norm(block.ln1, resid_pre)


def attn_post_norm(block: TransformerBlock) -> nn.Module:
    """What stands between the raw output of W_O and the residual stream; NO_NORM if nothing."""
    if block.cfg.use_normalization_before_and_after:
        return block.ln1_post
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return block.ln1
    return NO_NORM


def attn_written(block: TransformerBlock, raw: Tensor) -> Tensor:
    """The raw output of W_O as it reaches the residual stream: through a post-norm, if any."""
    return norm(attn_post_norm(block), raw)


def mlp_written(block: TransformerBlock, raw: Tensor) -> Tensor:
    """The raw output of W_out as it reaches the residual stream: through a post-norm, if any."""
    if block.cfg.attn_only:
        return raw
    if block.cfg.use_normalization_before_and_after:
        return norm(block.ln2_post, raw)
    if block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return norm(block.ln2, raw)
    return raw


def has_post_norms(model: HookedTransformer) -> bool:
    """Whether what a half writes is normed on its way to the residual stream."""
    cfg = model.cfg
    return bool(
        cfg.use_normalization_before_and_after
        or cfg.original_architecture in POST_NORM_ARCHITECTURES
    )


def mlp_read(block: TransformerBlock, resid_mid: Tensor) -> Tensor:
    """What the block's MLP reads of `resid_mid` (in a parallel block: resid_pre)."""
    if block.cfg.attn_only or block.cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return resid_mid
    return norm(block.ln2, resid_mid)


def mlp_raw(
    block: TransformerBlock, read: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The raw output of W_out, from what `mlp_read` gives."""
    return torch.zeros_like(read) if block.cfg.attn_only else _mlp(block.mlp, read)


def mlp_out(
    block: TransformerBlock, resid_mid: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """What the block's MLP adds, reading `resid_mid` (in a parallel block: resid_pre)."""
    return mlp_written(block, mlp_raw(block, mlp_read(block, resid_mid)))


def w_o(block: TransformerBlock) -> Float[Tensor, "d_model key"]:
    """W_O over all heads as F.linear takes it: `F.linear(z.flatten(-2), w_o(block), b_O)`."""
    return rearrange(block.attn.W_O, "head d_head d_model -> d_model (head d_head)")


def head_written(
    block: TransformerBlock,
    z: Float[Tensor, "batch head d_head"],
    clean_z: Float[Tensor, "#batch head d_head"],
) -> Float[Tensor, "head batch d_model"]:
    """attn_out at one position, for each head: with its z from `clean_z`, the others' from `z`."""
    raw = F.linear(z.flatten(-2), w_o(block), block.attn.b_O)
    change = torch.einsum("bhd,hdm->hbm", clean_z - z, block.attn.W_O)
    return attn_written(block, raw + change)


def has_plain_attention(block: TransformerBlock) -> bool:
    """Whether softmax(q kᵀ / scale) v under a causal mask, perhaps a window, is all they do."""
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
    """Whether no window hides anything from its heads in a text of `n_ctx` tokens."""
    return block.attn.attn_type == "global" or n_ctx <= (block.cfg.window_size or 0)


def attend(
    block: TransformerBlock,
    query: Float[Tensor, "row sample query_pos head d_head"],
    keys: Float[Tensor, "row sample pos kv_head d_head"],
    values: Float[Tensor, "row sample pos kv_head d_head"],
    past_keys: Float[Tensor, "#sample past_pos kv_head d_head"],
    past_values: Float[Tensor, "#sample past_pos kv_head d_head"],
) -> Float[Tensor, "row sample query_pos key"]:
    """The heads' outputs z, flattened, for the last positions, behind a past that all rows share.

    Only for blocks with `has_plain_attention` that see all; `block.attn` up to rounding.
    """
    n_past, n_new, n_query = past_keys.shape[1], keys.shape[2], query.shape[2]
    shape = query.shape
    query, keys, values = query.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    if block.cfg.positional_embedding_type == "rotary":
        query = block.attn.apply_rotary(query, n_past + n_new - n_query)
        keys = block.attn.apply_rotary(keys, n_past)
        past_keys = block.attn.apply_rotary(past_keys, 0) if n_past else past_keys
    mask = None
    if n_query > 1:
        seen = torch.ones(n_query, n_past + n_new, dtype=torch.bool, device=query.device)
        mask = seen.tril(n_past + n_new - n_query)
    z = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        after_past(past_keys, keys, shape[0]).transpose(1, 2),
        after_past(past_values, values, shape[0]).transpose(1, 2),
        attn_mask=mask,
        scale=1 / block.attn.attn_scale,
        enable_gqa=keys.shape[2] != query.shape[2],
    )
    return z.transpose(1, 2).flatten(2).unflatten(0, shape[:2])


def after_past(
    past: Tensor, new: Tensor, n_rows: int
) -> Float[Tensor, "row_sample pos kv_head d_head"]:
    """`new` after a past that has one entry a sample (or one for all), the same for every row."""
    new = new.unflatten(0, (n_rows, -1))
    shared = past.expand(n_rows, new.shape[1], *past.shape[1:])
    return torch.cat([shared, new], dim=2).flatten(0, 1)


def _mlp(mlp: nn.Module, read: Tensor) -> Tensor:
    """`mlp(read)`; the plain kind over one buffer of neurons, the widest tensor there is.

    On a CPU fresh memory for all neurons is handed out page by page, at a fiftieth of all the time.
    """
    if type(mlp) is not MLP or mlp.act_fn is not tanh_gelu or _is_watched(mlp, read):
        return mlp(read)
    tokens = read.flatten(0, -2)
    out = torch.empty_like(tokens)
    together = BUFFERED if tokens.device.type == "cpu" else max(len(tokens), 1)
    buffer = tokens.new_empty(min(together, len(tokens)), mlp.W_in.shape[1])
    for part, written in zip(tokens.split(together), out.split(together), strict=True):
        neurons = buffer[: len(part)]
        torch.addmm(mlp.b_in, part, mlp.W_in, out=neurons)
        torch.ops.aten.gelu_(neurons, approximate="tanh")
        torch.addmm(mlp.b_out, neurons, mlp.W_out, out=written)
    return out.view(read.shape)


def _is_watched(mlp: MLP, read: Tensor) -> bool:
    """Whether gradients, or hooks on the neurons, need the module itself."""
    if mlp.hook_pre.fwd_hooks or mlp.hook_post.fwd_hooks:
        return True
    trained = read.requires_grad or any(weight.requires_grad for weight in mlp.parameters())
    return torch.is_grad_enabled() and trained


def norm(module: nn.Module, resid: Tensor) -> Tensor:
    """`module(resid)`, in one pass over memory where that is the same function."""
    if resid.dtype == torch.float32 and getattr(module, "w", resid).dtype == torch.float32:
        if isinstance(module, LayerNorm):
            return F.layer_norm(resid, (module.length,), module.w, module.b, module.eps)
        if isinstance(module, RMSNorm):
            return F.rms_norm(resid, module.w.shape, module.w, module.eps)
    return module(resid)
