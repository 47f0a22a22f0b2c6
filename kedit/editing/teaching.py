"""What weights are trained on: prompts with targets, and texts whose distributions should stay.

Layers below the lowest trained one run only once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from kedit.facts import EditRequest
from kedit.forward.packed import Write, empty_cache, run_blocks, run_first_layers, unpacked
from kedit.forward.reading import Tokens
from kedit.models.prompts import answer_ids, prompt_ids, require_room
from kedit.models.sites import norm


class TargetText(NamedTuple):
    """A prompt and the target that should follow it, as token ids."""

    prompt: Tokens
    target: Tokens


class Staying(NamedTuple):
    """A text whose next-token distributions should stay the same from position `first` on."""

    tokens: Tokens
    first: int


@dataclass(frozen=True)
class Lesson:
    """Texts, run up to a layer, and where their final residuals are read for the loss.

    Args:
        layer: the first layer that is not run yet.
        resid: the residual before it, packed; `mask` and `real` as in `kedit.forward.packed`.
        index, at: row and position of every residual that is read: first one per target token, then
            one per position whose distribution should stay.
        targets: token ids.
        shares: weight of each target token in the loss; they sum to one.
    """

    layer: int
    resid: Float[Tensor, "token d_model"]
    mask: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]
    index: Int[Tensor, " read"]
    at: Int[Tensor, " read"]
    targets: Int[Tensor, " target"]
    shares: Float[Tensor, " target"]


def demanded(
    model: HookedTransformer, requests: Sequence[EditRequest], removal: bool
) -> list[TargetText]:
    """Returns the prompts and targets of the requests, as token ids.

    Args:
        removal: whether the removals of relation edits are included.

    Raises:
        InputError: a prompt with its target is longer than the model's context.
    """
    demands = [
        demand
        for request in requests
        for demand in (request.demands if removal else request.demands[:1])
    ]
    texts = [
        TargetText(
            prompt_ids(model, demand.fact.prompt),
            answer_ids(model, demand.fact.prompt, demand.target),
        )
        for demand in demands
    ]
    for demand, (prompt, target) in zip(demands, texts, strict=True):
        require_room(model, demand.fact.prompt, len(prompt) + len(target) - 1)
    return texts


def lesson(
    model: HookedTransformer,
    layer: int,
    wanted: Sequence[TargetText],
    staying: Sequence[Staying] = (),
    at_once: bool = False,
) -> Lesson:
    """Runs the texts up to `layer`, and lists what the loss reads.

    The loss is the mean over `wanted` of each target's mean negative log-likelihood per token.

    Args:
        wanted: the prompts and their targets.
        staying: texts whose distributions should stay the same.
        at_once: False: each token of a target is predicted after the tokens before it. True: all
            are predicted directly after the prompt.
    """
    rows = [text.prompt if at_once else (*text.prompt, *text.target[:-1]) for text in wanted]
    resid, mask, real = run_first_layers(model, [*rows, *(text.tokens for text in staying)], layer)
    positions = [
        (row, len(text.prompt) - 1 + (0 if at_once else step))
        for row, text in enumerate(wanted)
        for step in range(len(text.target))
    ] + [
        (row, pos)
        for row, text in enumerate(staying, len(wanted))
        for pos in range(text.first, len(text.tokens))
    ]
    index, at = torch.tensor(positions, device=resid.device).T
    shares = [1 / len(text.target) / len(wanted) for text in wanted for _ in text.target]
    return Lesson(
        layer,
        resid,
        mask,
        real,
        index,
        at,
        torch.tensor([token for text in wanted for token in text.target], dtype=torch.long).to(at),
        torch.tensor(shares, device=resid.device),
    )


def recited(
    model: HookedTransformer,
    taught: Lesson,
    write: Write | None = None,
) -> Float[Tensor, "read d_model"]:
    """Returns what the unembedding reads at all positions of the lesson, with the present weights.

    Args:
        write: see `kedit.forward.packed.run_blocks`.
    """
    above = range(taught.layer, model.cfg.n_layers)
    past = empty_cache(model, len(taught.real), above)
    resid, _, _ = run_blocks(
        model, above, taught.resid, past, past, taught.mask, taught.real, write
    )
    return norm(model.ln_final, unpacked(resid, taught.real)[taught.index, taught.at])


@contextmanager
def trainable(model: HookedTransformer, names: Sequence[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Makes these parameters trainable within a `with` block, then restores them bit for bit."""
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in names}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        yield weights
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.requires_grad_(False)
                weight.grad = None
                weight.copy_(before[name])
