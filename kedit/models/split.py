"""Divides the layers of one model among several devices, for models that do not fit into one.

The first device is *home*: embeddings, ln_final, the unembedding and every tensor outside of a
block are there. What goes into a block is moved to the block's device, and what comes out is moved
home. On a model that one device holds, such a move does nothing.

Within HookedTransformer's forward, torch's module hooks on the blocks do this. They also cover runs
that stop at a layer, and keys and values in a cache. TransformerLens' own mechanism (`n_devices`)
leaves all of these on the blocks' devices, and needs devices with consecutive numbers. Module hooks
are not TransformerLens' hooks: `reset_hooks` keeps them, and `require_unhooked` does not see them.
Code that uses a block's weights without calling the block moves tensors itself.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components.transformer_block import TransformerBlock

from kedit.errors import ModelUnavailable
from kedit.models.masked import AnyModel, is_masked, token_embedding


def divide(model: AnyModel, devices: Sequence[torch.device]) -> None:
    """Divides the model's layers among the devices, in consecutive groups of about equal size.

    A divided model cannot be moved any more: load it again.

    Args:
        devices: distinct devices; the first one is home.

    Raises:
        ModelUnavailable: the model has fewer layers than there are devices; or it is BERT, T5 or a
            model with ALiBi, which TransformerLens computes with tensors that are not the block's.
    """
    named = ", ".join(map(str, devices))
    if is_masked(model) or model.cfg.positional_embedding_type == "alibi":
        raise ModelUnavailable(
            f"--device {named}: BERT, T5 and models with ALiBi cannot be divided among several "
            "devices; name one device"
        )
    n_layers = model.cfg.n_layers
    if n_layers < len(devices):
        raise ModelUnavailable(
            f"--device {named}: the model has {n_layers} layers, which cannot be divided among "
            f"{len(devices)} devices; name at most {n_layers}"
        )
    home = devices[0]
    for layer, block in enumerate(model.blocks):
        block.to(devices[layer * len(devices) // n_layers])
        if block_device(block) != home:
            block.register_forward_pre_hook(_carry_in, with_kwargs=True)
            block.register_forward_hook(partial(_carry_home, home), with_kwargs=True)
    for name, module in model.named_children():
        if name != "blocks":  # never all of the model: home may be too small for it
            module.to(home)
    model.cfg.device = str(home)


def block_device(block: nn.Module) -> torch.device:
    """Returns the device that holds the block."""
    return block.attn.W_O.device  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def devices_of(model: AnyModel) -> list[torch.device]:
    """Returns the devices that hold the model; the first one is home."""
    blocks = model.blocks if isinstance(model, HookedTransformer) else ()
    return list(dict.fromkeys([token_embedding(model).W_E.device, *map(block_device, blocks)]))


def _carry_in(
    block: TransformerBlock, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Moves a block's inputs to its device."""
    on = block_device(block)
    _move_past(named, on)
    return tuple(_moved(one, on) for one in args), {
        name: _moved(one, on) for name, one in named.items()
    }


def _carry_home(
    home: torch.device, block: TransformerBlock, args: object, named: dict[str, Any], out: Tensor
) -> Tensor:
    """Moves a block's output home."""
    _move_past(named, home)
    return out.to(home)


def _moved(value: Any, to: torch.device) -> Any:
    return value.to(to) if isinstance(value, Tensor) else value


def _move_past(named: dict[str, Any], to: torch.device) -> None:
    """Moves the keys and values of the block's entry in a cache, if there is one."""
    entry = named.get("past_kv_cache_entry")
    if entry is not None:
        entry.past_keys, entry.past_values = entry.past_keys.to(to), entry.past_values.to(to)
