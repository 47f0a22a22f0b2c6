"""The gradient of a loss on a matrix, as rank-one factors, one pair per token.

For a linear map, written = read @ W, the gradient on W is the sum over tokens of read ⊗ slope,
where slope is the gradient of the loss with respect to what was written (Mitchell et al. 2022,
section 3.1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.edit import Delta, LowRank
from kedit.editing.teaching import Lesson, recited
from kedit.errors import InputError
from kedit.forward.metrics import losses_and_slope
from kedit.forward.packed import Part

MapName = Literal["W_in", "W_gate", "W_out", "W_V", "W_O"]
# hook names (or parts of `kedit.forward.packed`) where the input and the output of a matrix are
READ_AT = {"W_in": "mlp_in", "W_gate": "mlp_in", "W_out": "post", "W_V": "attn_in", "W_O": "z"}
WRITTEN_AT = {"W_in": "pre", "W_gate": "pre", "W_out": "mlp", "W_V": "v", "W_O": "attn"}


@dataclass(frozen=True, order=True)
class LinearMap:
    """A matrix of a block's MLP or attention; W_V and W_O of all heads count as one matrix."""

    layer: int
    name: MapName

    def parameter(self, model: HookedTransformer) -> str:
        """Returns the matrix's name among the model's parameters.

        Raises:
            InputError: the model has no such matrix.
        """
        half = "attn" if self.name in ("W_V", "W_O") else "mlp"
        names = [
            f"blocks.{self.layer}.{half}.{attribute}" for attribute in (self.name, f"_{self.name}")
        ]
        parameters = dict(model.named_parameters())
        for name in names:  # with grouped heads W_V is a view, and _W_V the parameter
            if name in parameters:
                return name
        raise InputError(f"{model.cfg.model_name} has no {names[0]}: MEND cannot edit it")

    def widths(self, model: HookedTransformer) -> tuple[int, int]:
        """Returns the lengths of what the matrix reads and of what it writes, per token."""
        weight = model.get_parameter(self.parameter(model))
        if self.name == "W_V":
            return weight.shape[1], weight.shape[0] * weight.shape[2]
        return weight.shape[:-1].numel(), weight.shape[-1]

    def delta(
        self,
        model: HookedTransformer,
        left: Float[Tensor, "d_read rank"],
        right: Float[Tensor, "rank d_written"],
    ) -> Delta:
        """Returns left @ right as a delta on the parameter."""
        if self.name != "W_V":
            return LowRank(left, right)
        n_heads = model.get_parameter(self.parameter(model)).shape[0]
        return rearrange(left @ right, "m (head d_head) -> head m d_head", head=n_heads)

    def written_at(self, model: HookedTransformer) -> str:
        """Returns where the output can be read: a part of `run_blocks`, or a hook point."""
        gated = self.name == "W_in" and model.cfg.gated_mlp
        return "pre_linear" if gated else WRITTEN_AT[self.name]


class Factors(NamedTuple):
    """What a matrix read, and the gradient of the loss on what it wrote, token by token.

    Args:
        read: the inputs.
        slope: the gradients with respect to the outputs.
        row: the row of the lesson that each token belongs to.
    """

    read: Float[Tensor, "token d_read"]
    slope: Float[Tensor, "token d_written"]
    row: Int[Tensor, " token"]


def inner_points(model: HookedTransformer, maps: Iterable[LinearMap]) -> list[tuple[int, str]]:
    """Returns layer and name of the hook points at which the matrices read or write.

    Points that `kedit.forward.packed.run_blocks` passes to its `write` are left out.
    """
    points = {
        (matrix.layer, part)
        for matrix in maps
        for part in (READ_AT[matrix.name], matrix.written_at(model))
    }
    return sorted(points - {(layer, part) for layer, part in points if part in get_args(Part)})


@torch.enable_grad()
def gradient_factors(
    model: HookedTransformer, taught: Lesson, maps: Sequence[LinearMap]
) -> tuple[dict[LinearMap, Factors], Float[Tensor, " target"]]:
    """Returns the gradient's factors at each matrix, and each target's loss, in nats.

    Tokens with a factor of zeros are left out, because they add nothing to the gradient.
    """
    seen: dict[tuple[int, str], Tensor] = {}

    def keep(layer: int, part: Part, act: Tensor) -> Tensor:
        seen[layer, part] = act
        return act

    def keeper(layer: int, part: str):
        def hook(act: Tensor, hook: object) -> None:
            seen[layer, part] = act

        return hook

    hooks: list[Any] = [
        (get_act_name(part, layer), keeper(layer, part))
        for layer, part in inner_points(model, maps)
    ]
    # the parameters need no gradient, so without this autograd would record nothing above
    start = taught.resid.detach().requires_grad_(True)
    with model.hooks(fwd_hooks=hooks):
        read = recited(model, replace(taught, resid=start), keep)
    nll, _, _, slope = losses_and_slope(model, read.detach(), taught.targets, taught.shares)
    written = [seen[matrix.layer, matrix.written_at(model)] for matrix in maps]
    slopes = torch.autograd.grad(read, written, slope)
    rows = taught.real.nonzero()[:, 0]
    found = {}
    for matrix, own in zip(maps, slopes, strict=True):
        d_read, d_written = matrix.widths(model)
        inputs = (
            seen[matrix.layer, READ_AT[matrix.name]].detach().reshape(-1, d_read).to(start.device)
        )
        own = own.reshape(-1, d_written).to(start.device)
        nonzero = inputs.any(1) & own.any(1)
        found[matrix] = Factors(inputs[nonzero], own[nonzero], rows[nonzero])
    return found, nll
