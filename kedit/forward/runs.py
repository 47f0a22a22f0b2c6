"""Runs a model once and keeps the activations that patching needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache
from transformer_lens.utilities.components_utils import get_act_name

Held = Literal["attn_out", "mlp_out"]


@dataclass(frozen=True)
class States:
    """The activations of one run at every layer.

    A clean run has one row. A corrupted run has one row per sample of the noise.

    Args:
        resid: resid_pre of each layer, then resid_post of the last layer: n_layers + 1 entries.
        attn_out, mlp_out: what attention and MLP of each layer added to the residual stream.
        z: the outputs of each layer's heads before W_O.
        keys, values: as TransformerLens caches them: before rotary embedding, and once per group
            of heads that share them.
    """

    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    attn_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    mlp_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    z: tuple[Float[Tensor, "batch pos head d_head"], ...]
    keys: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]
    values: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]

    @property
    def last(self) -> Float[Tensor, "batch d_model"]:
        """The residual that is unembedded: after the last layer, at the last position."""
        return self.resid[-1][:, -1]

    def written(self, held: Held) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
        """Returns the outputs of one half of every layer."""
        return self.attn_out if held == "attn_out" else self.mlp_out


@dataclass(frozen=True)
class Run:
    """Tokens, and the hooks with which they are run (such as the noise of a corruption)."""

    tokens: Int[Tensor, "batch pos"]
    hooks: tuple[tuple[str, Callable], ...] = ()

    @torch.no_grad()
    def states(self, model: HookedTransformer) -> States:
        """Runs the model once and keeps the activations that patching needs."""
        n_layers = model.cfg.n_layers
        kinds = ["resid_pre", "attn_out", "z"] + ([] if model.cfg.attn_only else ["mlp_out"])
        names = [[get_act_name(kind, layer) for layer in range(n_layers)] for kind in kinds]
        past = TransformerLensKeyValueCache.init_cache(
            model.cfg, self.tokens.device, batch_size=len(self.tokens)
        )
        with model.hooks(fwd_hooks=list(self.hooks)):
            last, cache = model.run_with_cache(
                self.tokens,
                return_cache_object=False,
                names_filter=[name for layers in names for name in layers],
                stop_at_layer=n_layers,
                past_kv_cache=past,
                # otherwise TransformerLens guesses a mask from tokens that equal the padding token
                attention_mask=torch.ones_like(self.tokens),
            )
        resid, attn, z, *mlp = ([cache[name] for name in layers] for layers in names)
        return States(
            resid=(*resid, cast(Tensor, last)),  # with stop_at_layer, the output is a residual
            attn_out=tuple(attn),
            mlp_out=tuple(mlp[0]) if mlp else tuple(torch.zeros_like(out) for out in attn),
            z=tuple(z),
            keys=tuple(entry.past_keys for entry in past.entries),
            values=tuple(entry.past_values for entry in past.entries),
        )
