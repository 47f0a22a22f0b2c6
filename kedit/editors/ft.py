"""FT and FT+L: fine-tuning of one MLP's output matrix, without or with a bound on the change."""

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
from kedit.facts import EditRequest
from kedit.forward.metrics import losses_and_slope

LARGEST_BOUND = 2e-3  # that of GPT-2 medium


def bound_for(d_model: int) -> float:
    """Returns FT+L's bound for a model of this width, from the published bounds.

    Those are 2e-3, 1e-3, 5e-4 and 5e-5 for widths of 1024, 1280, 1600 and 4096. The power of the
    width through the first and the last of them misses the other two by at most 25 %. For narrower
    models it would grow beyond what was published, so it ends at the largest published bound.
    """
    return min(LARGEST_BOUND, LARGEST_BOUND * (1024 / d_model) ** 2.66)


@dataclass(frozen=True)
class FT:
    """Trains W_out of one layer with Adam until the target is likely.

    In models with biases, b_out is trained too. FT and FT+L are as in Meng et al. 2022. Departure
    from the published code: by default, each token of the target is trained after the tokens before
    it (`loss`).

    Args:
        layer: the layer whose matrix is trained.
        steps: largest number of passes over all requests.
        lr: Adam's learning rate.
        bound: largest change of any number (L∞, the L of FT+L); 0: no bound; None: `bound_for` the
            model's width.
        loss: "autoregressive" scores each token of the target after those before it; "upstream"
            scores all of them at the prompt's last token, as the published code does.
        removal: whether a relation edit's removal is trained too; no published code does this.
        stop: the mean loss, in nats, below which training ends.
        batch: number of requests per step; a pass has one step per batch.
    """

    layer: int
    steps: int = 25
    lr: float = 5e-4
    bound: float | None = 0.0
    loss: Literal["autoregressive", "upstream"] = "autoregressive"
    removal: bool = False
    stop: float = 0.01
    batch: int = 128

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Returns the editor for one model, with the bound for its width if it has none.

        Raises:
            InputError: models of this family cannot be edited.
        """
        bound = bound_for(model.cfg.d_model) if self.bound is None else self.bound
        resolved = dataclasses.replace(self, bound=bound)
        return lambda requests: resolved._edit(model, requests)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests together."""
        return self.on(model)(requests)

    def _edit(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        texts = demanded(model, requests, self.removal)
        site = WriteSite(self.layer)
        site.weight(model)  # raises InputError if the layer doesn't exist
        with trainable(model, _trained_names(model, site)) as weights:
            deltas = self._trained(model, texts, weights)
        return Edit(deltas, made_by("ft", dataclasses.asdict(self), requests, model))

    @torch.enable_grad()
    def _trained(
        self,
        model: HookedTransformer,
        texts: Sequence[TargetText],
        weights: dict[str, nn.Parameter],
    ) -> dict[str, Delta]:
        """Trains the weights; returns the deltas."""
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=self.lr)
        batches = [texts[first : first + self.batch] for first in range(0, len(texts), self.batch)]
        at_once = self.loss == "upstream"
        lessons = [lesson(model, self.layer, batch, at_once=at_once) for batch in batches]
        for _ in range(self.steps):
            mean_loss = 0.0
            for batch, batch_lesson in zip(batches, lessons, strict=True):
                read = recited(model, batch_lesson)
                nll, _, _, slope = losses_and_slope(
                    model, read.detach(), batch_lesson.targets, batch_lesson.shares
                )
                loss = float((batch_lesson.shares * nll).sum())
                mean_loss += loss * len(batch) / len(texts)
                if loss < self.stop:
                    continue
                optimiser.zero_grad()
                read.backward(slope)
                optimiser.step()
                if self.bound:
                    with torch.no_grad():
                        for name, weight in weights.items():
                            weight.clamp_(before[name] - self.bound, before[name] + self.bound)
            if mean_loss < self.stop:
                break
        return {name: (weight.detach() - before[name]) for name, weight in weights.items()}


def _trained_names(model: HookedTransformer, site: WriteSite) -> list[str]:
    """Returns the names of W_out and, if the model has biases, b_out."""
    bias = site.parameter.replace(".W_", ".b_")
    # in models without biases, TransformerLens has zeros, which a checkpoint could not store
    return [site.parameter, *([bias] if model.get_parameter(bias).any() else [])]
