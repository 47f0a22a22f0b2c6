"""Models of known shapes for benchmarks, as Hugging Face modules with random weights.

Random weights change no timing and need no download. Gemma's own weights are used if they are
there.
"""

import contextlib
import io

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kedit.errors import ModelUnavailable
from kedit.models.gguf_files import packaged_folder
from kedit.models.load import quiet
from kedit.models.outline import DEFAULT

SHAPES = ("gpt2", "gemma", "qwen")
STD = 0.02  # of random weights


def hugging_face(shape: str) -> tuple[PreTrainedModel, str]:
    """Returns a module of the shape, in float32 and eval mode, with a name for people.

    Args:
        shape: "gpt2" (GPT-2 small), "gemma" (Gemma 3 270M), or "qwen" (Qwen 2 with 1.5 billion
            parameters).
    """
    if shape == "gpt2":
        return random_weights(GPT2LMHeadModel, GPT2Config()), "GPT-2 small's shape"
    if shape == "qwen":
        config = Qwen2Config(
            hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, vocab_size=151_936,
            num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
            max_position_embeddings=2048,
        )  # fmt: skip
        return random_weights(Qwen2ForCausalLM, config), "Qwen2 1.5B's shape"
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # it shows a progress bar
            folder = packaged_folder(DEFAULT)
            hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return hf.eval(), "Gemma 3 270M"
    except ModelUnavailable:
        return random_gemma(), "Gemma 3 270M's shape"


def random_gemma() -> PreTrainedModel:
    """Returns a module of Gemma 3 270M's shape with random weights."""
    config = Gemma3TextConfig(
        hidden_size=640, intermediate_size=2048, num_hidden_layers=18, vocab_size=262_144,
        num_attention_heads=4, num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    return random_weights(Gemma3ForCausalLM, config)


def random_weights(family: type[PreTrainedModel], config) -> PreTrainedModel:
    """A module with random matrices; transformers' own way takes a minute for a billion numbers."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        hf = family(config).eval()
    hf.tie_weights()
    generator = torch.Generator().manual_seed(0)
    for name, weight in hf.named_parameters():
        if weight.ndim > 1:
            weight.data.uniform_(-STD * 3**0.5, STD * 3**0.5, generator=generator)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return hf.requires_grad_(False)
