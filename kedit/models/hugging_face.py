"""Converts Hugging Face modules to HookedTransformer.

The weights stay unprocessed. Every converted model is compared with its source, because
TransformerLens ignores some settings of some families without an error.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedRootModule, HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as lens_loading
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kedit.errors import ModelUnavailable

PROBED = 16  # least number of tokens on which a converted model is compared with its source
CHEAP = 5e9  # parameters times tokens: a forward that takes a tenth of a second on one core
GEMMAS = {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"}

# Set once for the whole process, because several threads may load models at the same time.
warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning, r"kedit\.")
# TransformerLens' loader logs to the root logger, which would add a handler to it
_LENS_LOG = logging.getLogger("transformer_lens")
_LENS_LOG.setLevel(logging.ERROR)
setattr(lens_loading, "logging", _LENS_LOG)  # noqa: B010  (pyright does not know this field)


def read_folder(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a module in float32 and its tokenizer, from a local folder or by a hub name."""
    hf = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        # what it was built from, as lists and dicts of Python: 150 MB in Gemma, never read again
        for name in ("_vocab", "_merges"):
            vars(tokenizer).pop(name, None)
    return hf, tokenizer


@torch.no_grad()
def hooked(
    hf: PreTrainedModel, dtype: torch.dtype, official: str | None = None
) -> HookedTransformer:
    """Converts `hf` to a HookedTransformer on the CPU, without a tokenizer.

    No weight is folded, centred or factored.

    Args:
        hf: a module of a decoder-only family that TransformerLens converts.
        dtype: the type of the weights.
        official: TransformerLens' name of the model; None: the configuration is taken from `hf`.

    Raises:
        ModelUnavailable: TransformerLens has no converter for this architecture, it ignores one of
            its settings, so that the logits of the converted model differ from the module's, or a
            weight is not finite.
    """
    require_finite(hf)
    try:
        model = _converted(hf, dtype, official)
    except (NotImplementedError, AttributeError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(
            f"TransformerLens cannot convert this {type(hf).__name__}: {error}"
        ) from error
    if model.cfg.n_ctx > (longest := _longest(hf.config, model.cfg.n_ctx)):
        model.cfg.n_ctx = longest
    _require_same_windows(hf, model)
    # TransformerLens ignores some settings without an error (attention biases, scaled rotary
    # embeddings ...), so the logits are compared
    tokens = torch.arange(2, 2 + _n_probed(hf, model))[None] % hf.config.vocab_size
    expected, converted = hf(tokens).logits.float(), model(tokens).float()
    # in place, because the logits of a large vocabulary take many megabytes
    largest = float(converted.sub_(expected).abs_().max() / expected.std())
    if not largest < (1e-2 if dtype.itemsize >= 4 else 0.5):
        raise ModelUnavailable(
            f"TransformerLens converts this {type(hf).__name__} wrongly: its logits differ by "
            f"{largest:.2g} standard deviations from the Hugging Face module's, within "
            f"{tokens.shape[1]} tokens"
        )
    return model


def require_finite(hf: PreTrainedModel) -> None:
    """Checks that all weights are finite.

    Raises:
        ModelUnavailable: a weight has NaN or infinity in it; the message names the first one.
    """
    for name, weight in hf.named_parameters():
        # The sum is checked first, since it needs no memory. If it is finite, all numbers are.
        if not weight.sum().isfinite() and not weight.isfinite().all():
            n = int((~weight.isfinite()).sum())
            raise ModelUnavailable(
                f"the checkpoint of this {type(hf).__name__} is broken: {n} of the "
                f"{weight.numel()} numbers of {name} are NaN or infinite"
            )


def _longest(config: Any, n_ctx: int) -> int:
    """The length of the longest text, up to `n_ctx`, that TransformerLens reads correctly.

    "longrope" switches to other rotary frequencies for texts beyond the original context. The
    converted model has one set of frequencies, so its context ends there.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    settings = [rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    switching = [part for part in settings if part.get("rope_type") == "longrope"]
    return min([n_ctx, *(part["original_max_position_embeddings"] for part in switching)])


def _windows(config: Any) -> list[int | None]:
    """The attention window of each layer of the Hugging Face module, in tokens; None: no window."""
    n_layers = config.num_hidden_layers
    if hasattr(config, "attention_layers"):  # GPT-Neo's names
        return [config.window_size if kind == "local" else None for kind in config.attention_layers]
    # only if the family's class has this field: the module ignores other fields of config.json
    window = config.sliding_window if hasattr(type(config), "sliding_window") else None
    if not window or not getattr(config, "use_sliding_window", True):
        return [None] * n_layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * n_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _require_same_windows(hf: PreTrainedModel, model: HookedTransformer) -> None:
    """Checks that the attention of every layer has the same window as in `hf`.

    It compares configurations, because a text that is longer than a window of thousands of tokens
    would take too long to read at every load.

    Raises:
        ModelUnavailable: a layer has another window.
    """
    n_ctx = model.cfg.n_ctx
    for layer, (block, window) in enumerate(zip(model.blocks, _windows(hf.config), strict=True)):
        converted = model.cfg.window_size if block.attn.attn_type == "local" else None
        if min(converted or n_ctx, n_ctx) != min(window or n_ctx, n_ctx):
            theirs, ours = (
                f"a window of {size} tokens" if size else "no window"
                for size in (window, converted)
            )
            raise ModelUnavailable(
                f"TransformerLens converts this {type(hf).__name__} wrongly: layer {layer} has "
                f"{theirs} in the Hugging Face module's attention (sliding_window), and {ours} here"
            )


def _n_probed(hf: PreTrainedModel, model: HookedTransformer) -> int:
    """The number of tokens on which the converted model is compared with its source.

    It is large enough to reach beyond windows, scaled rotary embeddings and late positions if this
    costs no noticeable time, and PROBED otherwise.
    """
    cfg, config = model.cfg, hf.config
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = cfg.positional_embedding_type == "standard" or "original_max_position" in str(rope)
    far = [cfg.n_ctx if scaled else 0, *(window or 0 for window in _windows(config))]
    n_tokens = min(cfg.n_ctx, PROBED + max(far))
    n_parameters = sum(weight.numel() for weight in hf.parameters())
    cheap = n_parameters * n_tokens <= CHEAP and cfg.dtype.itemsize >= 4
    return n_tokens if cheap else min(cfg.n_ctx, PROBED)


def _converted(hf: PreTrainedModel, dtype: torch.dtype, official: str | None) -> HookedTransformer:
    architecture = (hf.config.architectures or [type(hf).__name__])[0]
    if architecture in GEMMAS:
        cfg = HookedTransformerConfig.from_dict(
            _gemma_config(hf.config, architecture) | {"dtype": dtype, "init_weights": False}
        )
        cfg.tokenizer_name, cfg.device = None, "cpu"
        state = convert_gemma_weights(hf, cfg)
    else:
        cfg, state = lens_config_and_weights(hf, architecture, dtype, official)
    model = HookedTransformer(cfg, move_to_device=False)
    assign_weights(model, state, dtype)
    return model


def lens_config_and_weights(
    hf: PreTrainedModel, architecture: str, dtype: torch.dtype, official: str | None = None
) -> tuple[HookedTransformerConfig, dict[str, torch.Tensor]]:
    """Returns TransformerLens' configuration and weights of a module of a family that it knows.

    Args:
        architecture: TransformerLens' name of the family.
        official: TransformerLens' name of the model; None: the configuration is taken from `hf`.
    """
    # TransformerLens looks for words such as "llama" or "bert" in the path, so the path is made of
    # hexadecimal digits
    with tempfile.TemporaryDirectory() as scratch:
        source = official or str(Path(scratch, os.urandom(8).hex()))
        if official is None:
            hf.config.architectures = [architecture]
            if architecture == "GPT2LMHeadModel" and not hasattr(hf.config, "n_ctx"):
                hf.config.n_ctx = hf.config.n_positions  # TransformerLens reads the old name
            hf.config.save_pretrained(source)
        cfg = lens_loading.get_pretrained_model_config(
            source, hf_cfg=hf.config.to_dict(), device="cpu", dtype=dtype
        )
        state = lens_loading.get_pretrained_state_dict(source, cfg, hf, dtype=dtype)
    cfg.tokenizer_name, cfg.device = None, "cpu"
    return cfg, state


def assign_weights(
    model: HookedRootModule, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """Sets the model's weights; weights that the family does not have are zero.

    TransformerLens' own loading would copy the weights several times; folding, for which it does
    so, is not needed here.
    """
    given = {name: value.detach().to(dtype) for name, value in weights.items()}
    left_out, _ = model.load_state_dict(given, strict=False, assign=True)
    parameters = dict(model.named_parameters())
    for name in left_out:
        if name in parameters:  # a parameter that the family does not use (Bloom's positions)
            parameters[name].data.zero_()


def _gemma_config(config: Any, architecture: str) -> dict[str, Any]:
    """TransformerLens' configuration of a Gemma 1, 2 or 3 text model.

    It is built here because TransformerLens has configurations for named Gemma models only.
    """
    post_norms = architecture != "GemmaForCausalLM"
    gemma_3 = architecture == "Gemma3ForCausalLM"
    rope = getattr(config, "rope_parameters", None) or {}
    rope_global = rope.get("full_attention", rope)
    fields: dict[str, Any] = {
        "original_architecture": architecture,
        "model_name": "gemma",
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        # limited, because the mask of 32k tokens takes gigabytes
        "n_ctx": min(config.max_position_embeddings, 8192),
        "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": "gelu_pytorch_tanh",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_base": rope_global.get("rope_theta", 10_000.0),
        "rotary_dim": config.head_dim,
        "use_attn_scale": True,
        "gated_mlp": True,
        "final_rms": True,
        "use_normalization_before_and_after": post_norms,
        "use_qk_norm": gemma_3,
    }
    if post_norms:
        fields |= {
            "attn_scale": float(config.query_pre_attn_scalar) ** 0.5,
            "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
            "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": [
                "local" if kind == "sliding_attention" else "global" for kind in config.layer_types
            ],
        }
    if gemma_3:
        fields["rotary_base_local"] = rope.get("sliding_attention", {}).get("rope_theta", 10_000.0)
    return fields
