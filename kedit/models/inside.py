"""Checks that a model has the given layers and heads, before its weights are read."""

from collections.abc import Iterable

from kedit.errors import InputError
from kedit.heads import Head
from kedit.models.outline import Outline


def require_layers(source: str, layers: Iterable[int], model: str, outline: Outline) -> None:
    """Checks that the model has all these layers.

    Args:
        source: the option or setting that gave the layers, for the message.
        model: the model's name, for the message.

    Raises:
        InputError: the model does not have one of them.
    """
    if any(not 0 <= layer < outline.n_layers for layer in layers):
        raise InputError(f"{source}: {model} has layers 0 to {outline.n_layers - 1}")


def require_heads(source: str, heads: Iterable[Head], model: str, outline: Outline) -> None:
    """Checks that the model has all these heads; see `require_layers`.

    Raises:
        InputError: the model does not have one of them.
    """
    if any(head.layer >= outline.n_layers or head.head >= outline.n_heads for head in heads):
        last = Head(outline.n_layers - 1, outline.n_heads - 1)
        raise InputError(
            f"{source}: {model} has {outline.n_layers} layers of {outline.n_heads} heads, L0H0 to "
            f"{last}"
        )
