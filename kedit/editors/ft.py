"""FT and FT+L: fine-tuning of one MLP's output matrix, with or without bounds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.edit import Delta, Edit, PreparedEditor
from kedit.editing.provenance import made_by
from kedit.editing.teaching import TargetText, demanded, lesson, recited, trainable
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.forward.metrics import losses_and_slope


@dataclass(frozen=True)
class FT:
    """Adam on W_out (and b_out, where the family has one) until the target is likely.

    Args:
        layer: whose matrix is trained.
        steps, lr: of Adam; so many passes over all requests at most.
        bound: no number moves further than this from where it was (L∞, the L of FT+L); 0: no bound.
        loss: "autoregressive" scores each token of the target behind those before it; "upstream"
            scores all of them at the prompt's last token, as the published code does.
        removal: a relation edit's removal is trained too; no published code does that.
        stop: the mean loss, in nats, at which training ends.
        batch: requests a step, as many steps as that takes in every pass.
    """

    layer: int
    steps: int = 25
    lr: float = 5e-4
    bound: float = 0.0
    loss: Literal["autoregressive", "upstream"] = "autoregressive"
    removal: bool = False
    stop: float = 0.01
    batch: int = 128

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Nothing has to be prepared.

        Raises:
            InputError: the family cannot be edited; later: there is no request.
        """
        return lambda requests: self._edit(model, requests)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests together."""
        return self.on(model)(requests)

    def _edit(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        wanted = demanded(model, requests, self.removal)
        if not wanted:
            raise InputError("there is no request to edit for")
        site = WriteSite(self.layer)
        site.weight(model)  # raises where there is none
        with trainable(model, _trained_names(model, site)) as weights:
            deltas = self._trained(model, wanted, weights)
        return Edit(deltas, made_by("ft", dataclasses.asdict(self), requests, model))

    @torch.enable_grad()
    def _trained(
        self,
        model: HookedTransformer,
        wanted: Sequence[TargetText],
        weights: dict[str, nn.Parameter],
    ) -> dict[str, Delta]:
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=self.lr)
        parts = [wanted[first : first + self.batch] for first in range(0, len(wanted), self.batch)]
        at_once = self.loss == "upstream"
        taught = [lesson(model, self.layer, part, at_once=at_once) for part in parts]
        for _ in range(self.steps):
            total = 0.0
            for part, one in zip(parts, taught, strict=True):
                read = recited(model, one)
                nll, _, _, slope = losses_and_slope(model, read.detach(), one.targets, one.shares)
                loss = float((one.shares * nll).sum())
                total += loss * len(part) / len(wanted)
                if loss < self.stop:
                    continue
                optimiser.zero_grad()
                read.backward(slope)
                optimiser.step()
                if self.bound:
                    with torch.no_grad():
                        for name, weight in weights.items():
                            weight.clamp_(start[name] - self.bound, start[name] + self.bound)
            if total < self.stop:
                break
        return {name: (weight.detach() - start[name]) for name, weight in weights.items()}


def _trained_names(model: HookedTransformer, site: WriteSite) -> list[str]:
    """W_out, and its bias where the family has one."""
    bias = site.parameter.replace(".W_", ".b_")
    # where a family has no bias TransformerLens keeps zeros, which no checkpoint could hold
    return [site.parameter, *([bias] if model.get_parameter(bias).any() else [])]
