"""FT and FT+L: fine-tuning of one MLP's output matrix, with or without bounds."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from kedit.edit import Delta, Edit, Edits
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.metrics import losses_and_slope
from kedit.packed import nothing, opened, require_plain, through, unpacked
from kedit.prompts import answer_ids, prompt_ids
from kedit.provenance import made_by
from kedit.reading import Tokens
from kedit.sites import norm
from kedit.writes import WriteSite

Wanted = tuple[Tokens, Tokens]  # a prompt, and the target behind it


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

    def on(self, model: HookedTransformer) -> Edits:
        """Nothing has to be prepared."""
        return lambda requests: self(model, requests)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests together.

        Raises:
            InputError: there is no request, or the family cannot be edited.
        """
        require_plain(model)
        demands = [
            demand
            for one in requests
            for demand in (one.demands if self.removal else one.demands[:1])
        ]
        wanted = [
            (prompt_ids(model, demand.fact.prompt), answer_ids(model, demand.target))
            for demand in demands
        ]
        if not wanted:
            raise InputError("there is no request to edit for")
        site = WriteSite(self.layer)
        site.weight(model)  # raises where there is none
        with _trainable(model, site) as weights:
            deltas = self._trained(model, wanted, weights)
        return Edit(deltas, made_by("ft", dataclasses.asdict(self), requests, model))

    @torch.enable_grad()
    def _trained(
        self,
        model: HookedTransformer,
        wanted: Sequence[Wanted],
        weights: dict[str, nn.Parameter],
    ) -> dict[str, Delta]:
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=self.lr)
        parts = [wanted[first : first + self.batch] for first in range(0, len(wanted), self.batch)]
        below = [self._below(model, part) for part in parts]
        for _ in range(self.steps):
            total = 0.0
            for part, before in zip(parts, below, strict=True):
                loss, read, slope = self._loss(model, part, before)
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

    def _below(self, model: HookedTransformer, wanted: Sequence[Wanted]) -> tuple[Tensor, ...]:
        """The residual before the layer, which training leaves as it is, with its places."""
        rows = [prompt for prompt, _ in wanted]
        if self.loss == "autoregressive":
            rows = [(*prompt, *target[:-1]) for prompt, target in wanted]
        return opened(model, rows, self.layer)

    def _loss(
        self, model: HookedTransformer, wanted: Sequence[Wanted], before: tuple[Tensor, ...]
    ) -> tuple[float, Float[Tensor, "target d_model"], Float[Tensor, "target d_model"]]:
        """Mean over the prompts of their targets' mean negative log-likelihood, in nats; and what
        the unembedding reads, with the loss's gradient there.
        """
        resid, mask, real = before
        above = range(self.layer, model.cfg.n_layers)
        past = nothing(model, len(wanted), above)
        final = unpacked(through(model, above, resid, past, past, mask, real)[0], real)
        places = [
            (row, len(prompt) - 1 + (0 if self.loss == "upstream" else step))
            for row, (prompt, target) in enumerate(wanted)
            for step in range(len(target))
        ]
        index, at = torch.tensor(places, device=final.device).T
        targets = torch.tensor([token for _, target in wanted for token in target]).to(at)
        shares = [1 / len(target) / len(wanted) for _, target in wanted for _ in target]
        read = norm(model.ln_final, final[index, at])
        nll, _, _, slope = losses_and_slope(
            model, read.detach(), targets, torch.tensor(shares).to(read.device), 0.0, None
        )
        return float(nll), read, slope


@contextmanager
def _trainable(model: HookedTransformer, site: WriteSite) -> Iterator[dict[str, nn.Parameter]]:
    """W_out, and its bias where the family has one, open to training; then as they were."""
    parameters = dict(model.named_parameters())
    bias = site.parameter.replace(".W_", ".b_")
    # where a family has no bias TransformerLens keeps zeros, which no checkpoint could hold
    names = [site.parameter, *([bias] if parameters[bias].any() else [])]
    weights = {name: parameters[name] for name in names}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        yield weights
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.requires_grad_(False)
                weight.grad = None
                weight.copy_(kept[name])
