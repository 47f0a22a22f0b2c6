"""Reads the weights and tokenizers of the toys, which come with kedit."""

import hashlib
from pathlib import Path

from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from kedit.errors import ModelUnavailable


def read_shipped(file: Path, digest: str, name: str) -> tuple[dict[str, Tensor], Tokenizer]:
    """Reads the weights, by name, and the tokenizer of a toy.

    Args:
        digest: the SHA-256 that the file has to have.
        name: the toy's name, for the error.

    Raises:
        ModelUnavailable: the file is missing or damaged.
    """
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelUnavailable(
            f"the {name} cannot be read: {error}; install kedit again"
        ) from error
    if found != digest:
        raise ModelUnavailable(
            f"{file} is damaged: its SHA-256 is {found[:12]}..., but must be {digest[:12]}...; "
            "install kedit again"
        )
    with safe_open(file, "pt") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return weights, Tokenizer.from_str(opened.metadata()["tokenizer"])
