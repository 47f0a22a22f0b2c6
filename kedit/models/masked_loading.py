"""Converts BERT and T5 (v1.0) from Hugging Face to TransformerLens' hooked classes.

As for decoders, the weights stay unprocessed, and the logits are compared with the source's.
"""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformer_lens import HookedEncoder, HookedEncoderDecoder
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForPreTraining,
    PreTrainedModel,
    T5ForConditionalGeneration,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kedit.errors import ModelUnavailable
from kedit.models.hugging_face import (
    PROBED,
    assign_weights,
    lens_config_and_weights,
    require_finite,
)
from kedit.models.masked import Masked

# the module that is read for each model type of config.json, and what TransformerLens calls it
CLASSES = {
    "bert": (BertForPreTraining, "BertForMaskedLM", HookedEncoder),
    "t5": (T5ForConditionalGeneration, "T5ForConditionalGeneration", HookedEncoderDecoder),
}

warnings.filterwarnings("ignore", "HookedEncoder is deprecated", DeprecationWarning, r"kedit\.")


def is_masked_config(config: Any) -> bool:
    """Whether a Hugging Face configuration is of a family that fills in masks."""
    return config.model_type in CLASSES


def read_masked(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a module in float32 and its tokenizer, from a local folder or by a hub name."""
    kind = AutoConfig.from_pretrained(str(folder)).model_type
    # BERT's heads that a folder lacks (next sentence, pooler) are drawn at random
    with torch.random.fork_rng(devices=[]):
        hf = CLASSES[kind][0].from_pretrained(str(folder), dtype=torch.float32)
    return hf.eval(), AutoTokenizer.from_pretrained(str(folder))


@torch.no_grad()
def hooked_masked(hf: PreTrainedModel, dtype: torch.dtype) -> Masked:
    """Converts `hf` to a hooked model on the CPU, without a tokenizer.

    Raises:
        ModelUnavailable: TransformerLens cannot convert it, or not correctly (T5 v1.1 and Flan-T5
            have gated MLPs, which it does not know), or a weight is not finite.
    """
    require_finite(hf)
    _, architecture, hooked_class = CLASSES[hf.config.model_type]
    if getattr(hf.config, "is_gated_act", False):
        raise ModelUnavailable(
            "TransformerLens converts T5 v1.0 only: this T5 has gated MLPs (v1.1, Flan-T5)"
        )
    try:
        cfg, weights = lens_config_and_weights(hf, architecture, dtype)
    except (NotImplementedError, AttributeError, RuntimeError, KeyError) as error:
        raise ModelUnavailable(
            f"TransformerLens cannot convert this {type(hf).__name__}: {error}"
        ) from error
    model = cast(Masked, hooked_class(cfg, move_to_device=False))
    assign_weights(model, weights, dtype)
    tokens = torch.arange(2, 2 + min(PROBED, cfg.n_ctx))[None] % hf.config.vocab_size
    expected, converted = _logits(hf, model, tokens)
    largest = float((converted.float() - expected).abs().max() / expected.std())
    if not largest < (1e-2 if dtype.itemsize >= 4 else 0.5):
        raise ModelUnavailable(
            f"TransformerLens converts this {type(hf).__name__} wrongly: its logits differ by "
            f"{largest:.2g} standard deviations from the Hugging Face module's"
        )
    return model


def _logits(hf: PreTrainedModel, model: Masked, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of both forms for some tokens; T5's decoder reads a few of them."""
    there = torch.ones_like(tokens)
    if isinstance(model, HookedEncoder):
        return hf(tokens).prediction_logits.float(), model(tokens)
    told = tokens[:, :4]
    return (
        hf(tokens, decoder_input_ids=told).logits.float(),
        model(tokens, told, one_zero_attention_mask=there),
    )
