"""WriteSite: a matrix that writes to the residual stream, W_out or W_O, as a linear memory.

For both, raw output = key @ weight + bias. An editor that uses WriteSite works for MLPs and
attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.models.prompts import device
from kedit.models.sites import Half, attn_written, mlp_written


@dataclass(frozen=True, order=True)
class WriteSite:
    """W_out of a layer's MLP, or W_O of its attention with all heads.

    The key of W_out is the MLP's neurons after the nonlinearity (and the gate). The key of W_O is
    the z of all heads, concatenated.
    """

    layer: int
    half: Half = "mlp"

    @property
    def parameter(self) -> str:
        """The matrix's name among the model's parameters."""
        return f"blocks.{self.layer}.{'mlp.W_out' if self.half == 'mlp' else 'attn.W_O'}"

    @property
    def key_hook(self) -> str:
        """The hook point of the key: [batch, pos, d_mlp], or [batch, pos, head, d_head]."""
        return get_act_name("post" if self.half == "mlp" else "z", self.layer)

    @property
    def raw_hook(self) -> str:
        """The hook point of the output, after a post-norm if the model has one."""
        return get_act_name("mlp_out" if self.half == "mlp" else "attn_out", self.layer)

    def weight(self, model: HookedTransformer) -> Float[Tensor, "d_key d_model"]:
        """Returns the matrix, with the rows of all heads concatenated; do not write to it.

        It is on the model's first device: a view of the parameter, or a copy of one that another
        device holds.

        Raises:
            InputError: the model has no such matrix.
        """
        return self._matrix(model).to(device(model))

    def _matrix(self, model: HookedTransformer) -> Float[Tensor, "d_key d_model"]:
        """Returns a view of the matrix, on the device that holds it."""
        weight = dict(model.named_parameters()).get(self.parameter)
        if weight is None:
            raise InputError(
                f"{model.cfg.model_name} has no {self.parameter}: it has {model.cfg.n_layers} "
                f"layers{' without MLPs' if model.cfg.attn_only else ''}"
            )
        return flat(weight.detach())

    def bias(self, model: HookedTransformer) -> Float[Tensor, " d_model"]:
        """Returns what is added to key @ weight, on the model's first device."""
        return self._vector(model).to(device(model))

    def _vector(self, model: HookedTransformer) -> Float[Tensor, " d_model"]:
        """Returns the bias on the device that holds it."""
        # in models without biases, TransformerLens has parameters of zeros
        return dict(model.named_parameters())[self.parameter.replace(".W_", ".b_")].detach()

    def rows(self, model: HookedTransformer, heads: Sequence[int]) -> Int[Tensor, " row"]:
        """Returns W_O's rows that belong to `heads`; all rows for an MLP or without heads."""
        rows = torch.arange(self.d_key(model), device=device(model))
        if self.half == "mlp" or not heads:
            return rows
        return rows.view(model.cfg.n_heads, -1)[sorted(set(heads))].flatten()

    def raw(
        self, model: HookedTransformer, keys: Float[Tensor, "*n d_key"]
    ) -> Float[Tensor, "*n d_model"]:
        """Returns what is written for `keys`, before a post-norm."""
        weight, bias = self._matrix(model), self._vector(model)
        return (keys.to(weight.device) @ weight + bias).to(keys.device)

    def d_key(self, model: HookedTransformer) -> int:
        """Returns the length of the key."""
        return self._matrix(model).shape[0]

    def written(self, model: HookedTransformer, raw: Tensor) -> Tensor:
        """Returns the raw output as it is added to the residual stream, after a post-norm."""
        block = model.blocks[self.layer]
        return attn_written(block, raw) if self.half == "attn" else mlp_written(block, raw)


def listed(sites: Sequence[WriteSite]) -> str:
    """Returns the names of the matrices, for messages."""
    return " + ".join(site.parameter for site in sites)


def flat(weight: Float[Tensor, "*key d_model"]) -> Float[Tensor, "d_key d_model"]:
    """Returns a matrix with a head axis as one matrix; any other matrix unchanged."""
    return weight.flatten(0, -2)


def flat_keys(act: Float[Tensor, "batch pos *key"]) -> Float[Tensor, "batch pos d_key"]:
    """Returns the activation of a key hook with all heads concatenated."""
    return (
        act if act.ndim == 3 else rearrange(act, "batch pos head d_head -> batch pos (head d_head)")
    )


@torch.no_grad()
def read_keys(
    model: HookedTransformer, tokens: Tensor, sites: list[WriteSite], start: int | None = None
) -> dict[WriteSite, Float[Tensor, "batch pos d_key"]]:
    """Returns the keys at each site, for rows of equal length, from one partial forward.

    The keys are on the device of `tokens`.

    Args:
        tokens: token ids; or, with `start`, the residual stream before that layer.
        start: the layer to start at, if not the embedding; no site may lie below it.
    """
    found: dict[WriteSite, Tensor] = {}

    def keep(site: WriteSite):
        def hook(act: Tensor, hook: object) -> None:
            found[site] = flat_keys(act).detach().to(tokens.device, copy=True)

        return hook

    model.run_with_hooks(
        tokens,
        fwd_hooks=[(site.key_hook, keep(site)) for site in sites],
        start_at_layer=start,
        stop_at_layer=max(site.layer for site in sites) + 1,
        # without it, TransformerLens would guess the mask from padding tokens
        attention_mask=tokens.new_ones(tokens.shape[:2], dtype=torch.long),
    )
    return found
