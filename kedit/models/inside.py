"""Whether layers and heads are inside of a model: looked at before its weights are read."""

from collections.abc import Iterable

from kedit.errors import InputError
from kedit.heads import Head
from kedit.models.outline import Outline


def require_layers(told: str, layers: Iterable[int], model: str, outline: Outline) -> None:
    """Raises InputError for a layer that the model does not have.

    Args:
        told: what named the layers, for the message.
    """
    if any(not 0 <= layer < outline.n_layers for layer in layers):
        raise InputError(f"{told}: {model} has layers 0 to {outline.n_layers - 1}")


def require_heads(told: str, heads: Iterable[Head], model: str, outline: Outline) -> None:
    """Raises InputError for a head that the model does not have."""
    if any(one.layer >= outline.n_layers or one.head >= outline.n_heads for one in heads):
        last = Head(outline.n_layers - 1, outline.n_heads - 1)
        raise InputError(
            f"{told}: {model} has {outline.n_layers} layers of {outline.n_heads} heads, L0H0 to "
            f"{last}"
        )
