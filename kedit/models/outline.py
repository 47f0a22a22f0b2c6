"""Reads a model's depth, widths and context length from its configuration alone.

This needs neither the weights nor torch and TransformerLens, whose imports take seconds. So a
command can refuse a layer that the model does not have before anything slow happens.
"""

import contextlib
import difflib
import functools
import importlib.util
import json
import socket
import struct
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kedit.errors import ModelUnavailable
from kedit.models.packaged import PACKAGED, canonical

DEFAULT = "gemma-3-270m"
# the names of these numbers in config.json in different families, the usual name first
NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "n_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_head": ("head_dim",),
    "d_mlp": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
}
# their names in GGUF files, which follow the architecture's name, as in "gemma3.block_count"
GGUF_NAMES = {
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "d_model": "embedding_length",
    "d_head": "attention.key_length",
    "d_mlp": "feed_forward_length",
    "n_ctx": "context_length",
}
# format characters of GGUF's numeric types; type 8 is a text, type 9 an array
GGUF_TYPES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
              12: "d"}  # fmt: skip
TEXT, ARRAY = 8, 9
LONG = 1 << 20  # tokens: the context's length if the configuration does not give it


@dataclass(frozen=True)
class Outline:
    """A model's depth, widths and context length, with the names of TransformerLens' config."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_ctx: int


TOY = Outline(n_layers=4, n_heads=4, d_model=64, d_head=16, d_mlp=256, n_ctx=64)
MASKED_TOYS = {"toy-bert": TOY, "toy-t5": TOY}  # T5 has as many layers in either stack
TOYS = {"toy": TOY, **MASKED_TOYS}


def outline_of(name: str) -> Outline | None:
    """Reads the outline of the model that `kedit.models.load.load` would load.

    Returns:
        The outline; None if the configuration does not give it.

    Raises:
        ModelUnavailable: the name is unknown, or a package, the file or the network is missing.
    """
    if name in TOYS:
        return TOYS[name]
    if (packaged := PACKAGED.get(canonical(name))) is not None:
        return _of_settings(packaged.config)
    path = path_of(name)
    if path is None:
        return _of_config(_hub_config(official_name(name)))
    if path.suffix == ".gguf":
        return _of_gguf(path)
    return _of_config(path / "config.json")


def path_of(name: str) -> Path | None:
    """Returns the GGUF file or Hugging Face folder that `name` names; None for a name of the hub.

    Raises:
        ModelUnavailable: the name cannot be a path, or no model is there.
    """
    try:
        path = Path(name).expanduser()
        is_file, is_folder = path.is_file(), (path / "config.json").exists()
        is_there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, no such user
        raise ModelUnavailable(
            f"{name[:80]!r} cannot be a model's name or path: {error!s:.80}"
        ) from None
    if path.suffix == ".gguf":
        if not is_file:
            raise ModelUnavailable(f"there is no file {name}")
        return path
    if is_folder:
        return path
    if is_there or name.startswith((".", "/", "~")):
        raise ModelUnavailable(f"{name} is not a Hugging Face folder: it has no config.json")
    return None


def official_name(name: str) -> str:
    """Returns the Hugging Face hub's name of a model, from any name that TransformerLens knows.

    Raises:
        ModelUnavailable: TransformerLens does not know the name.
    """
    found = _aliases().get(name.lower())
    if found is None:
        known = [*TOYS, *PACKAGED, *dict.fromkeys(_aliases().values())]
        close = difflib.get_close_matches(name, known, 3, 0.4)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ModelUnavailable(
            f"unknown model {name!r}: not a name of TransformerLens, a folder or a .gguf file{hint}"
        )
    return found


def short_name(model: str) -> str:
    """Returns the name by which settings know a model: the last part of its name or path."""
    with contextlib.suppress(ModelUnavailable):  # not a model that TransformerLens knows
        model = official_name(model)
    return model.rstrip("/").rsplit("/")[-1].removesuffix(".gguf").lower()


@functools.cache
def _aliases() -> Mapping[str, str]:
    """TransformerLens' names of models in lower case, each with the hub's name."""
    package = importlib.util.find_spec("transformer_lens")
    assert package is not None and package.submodule_search_locations
    # the file alone is imported, because importing the package takes seconds
    file = Path(package.submodule_search_locations[0], "supported_models.py")
    spec = importlib.util.spec_from_file_location("_supported_models", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        alias.lower(): name
        for name in module.OFFICIAL_MODEL_NAMES
        for alias in (*module.MODEL_ALIASES.get(name, ()), name)
    }


def unavailable(name: str, error: Exception) -> ModelUnavailable:
    """Builds the error for a model that could not be read from the Hugging Face hub."""
    return ModelUnavailable(
        f"{name} could not be read from the Hugging Face hub (no network, or no access): "
        f"give a local folder instead, or use --model {DEFAULT}. The hub said: {str(error)[:150]}"
    )


def _hub_config(name: str) -> Path:
    """The path of the model's config.json, which is downloaded unless it is in the hub's cache."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    if isinstance(found, str):
        return Path(found)
    try:
        host = urllib.parse.urlsplit(constants.ENDPOINT).hostname
        if not urllib.request.getproxies() and not constants.HF_HUB_OFFLINE:
            # without a network this fails at once, but a download is tried for half a minute
            socket.getaddrinfo(host, None)
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise unavailable(name, error) from None


def _of_config(file: Path) -> Outline | None:
    """Reads the outline from a config.json.

    It is None if the file lacks numbers or is broken; loading the model then raises the error.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return _of_settings(config.get("text_config", config))
    except (OSError, ValueError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _of_settings(config: Mapping[str, Any]) -> Outline | None:
    found = {
        field: next((config[name] for name in names if config.get(name)), 0)
        for field, names in NAMES.items()
    }
    return _outline(found)


def _of_gguf(file: Path) -> Outline | None:
    """Reads the outline from a GGUF file's header.

    It is None if the header lacks numbers or is broken; loading the model then raises the error.
    """
    try:
        with file.open("rb") as opened:
            header = _gguf_fields(opened)
        family = header["general.architecture"]
        found = {field: header.get(f"{family}.{name}", 0) for field, name in GGUF_NAMES.items()}
        return _outline(found)
    except (OSError, ValueError, KeyError, TypeError, struct.error, ZeroDivisionError):
        return None


def _outline(found: Mapping[str, Any]) -> Outline | None:
    n_layers, n_heads, d_model = (found[name] for name in ("n_layers", "n_heads", "d_model"))
    if not all(isinstance(n, int) and n > 0 for n in (n_layers, n_heads, d_model)):
        return None
    d_head, d_mlp = found["d_head"] or d_model // n_heads, found["d_mlp"] or 4 * d_model
    return Outline(n_layers, n_heads, d_model, d_head, d_mlp, found["n_ctx"] or LONG)


def _gguf_fields(file: IO[bytes]) -> dict[str, Any]:
    """Reads the numbers and texts before the first array of a GGUF header.

    The arrays are the tokenizer's lists, which come last and take long to read.
    """
    magic, version, _, n_fields = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version < 2:
        raise ValueError("not a GGUF file of version 2 or later")
    found: dict[str, Any] = {}
    for _ in range(n_fields):
        name, kind = _gguf_text(file), struct.unpack("<I", file.read(4))[0]
        if kind == ARRAY:
            break
        found[name] = _gguf_text(file) if kind == TEXT else _gguf_number(file, kind)
    return found


def _gguf_text(file: IO[bytes]) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > 1 << 20:
        raise ValueError("the file is damaged: a text of more than a megabyte")
    return file.read(length).decode("utf-8", "replace")


def _gguf_number(file: IO[bytes], kind: int) -> Any:
    code = f"<{GGUF_TYPES[kind]}"
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]
