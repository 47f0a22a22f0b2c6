"""What weights are trained on: prompts with targets wanted behind them, and texts that are to stay.

Only the layers from the lowest trained one up are run more than once.
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
    """After `prompt`, `target`; token ids."""

    prompt: Tokens
    target: Tokens


class Staying(NamedTuple):
    """A text whose next-token distributions are to stay from position `first` on."""

    tokens: Tokens
    first: int


@dataclass(frozen=True)
class Lesson:
    """Texts before a layer, and where their final residuals are read.

    Args:
        layer: the first that is run.
        resid: before it, packed; `mask` and `real` as `kedit.forward.packed` has them.
        index, at: row and position of everything read: first one for each target token, then one
            for each place whose distribution is to stay.
        targets: token ids.
        shares: of each target token in the loss; they add up to one.
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
    """What the requests ask for; of relation edits the removal only where `removal` says so.

    Raises:
        InputError: a prompt and its target are longer than the model's context.
    """
    demands = [
        demand for one in requests for demand in (one.demands if removal else one.demands[:1])
    ]
    wanted = [
        TargetText(
            prompt_ids(model, demand.fact.prompt),
            answer_ids(model, demand.fact.prompt, demand.target),
        )
        for demand in demands
    ]
    for demand, (prompt, target) in zip(demands, wanted, strict=True):
        require_room(model, demand.fact.prompt, len(prompt) + len(target) - 1)
    return wanted


def lesson(
    model: HookedTransformer,
    layer: int,
    wanted: Sequence[TargetText],
    staying: Sequence[Staying] = (),
    at_once: bool = False,
) -> Lesson:
    """The texts up to `layer`; the loss is the mean over `wanted` of their targets' mean nll.

    Args:
        at_once: all tokens of a target are wanted right behind its prompt, instead of each behind
            those before it.
    """
    rows = [one.prompt if at_once else (*one.prompt, *one.target[:-1]) for one in wanted]
    resid, mask, real = run_first_layers(model, [*rows, *(one.tokens for one in staying)], layer)
    places = [
        (row, len(one.prompt) - 1 + (0 if at_once else step))
        for row, one in enumerate(wanted)
        for step in range(len(one.target))
    ] + [
        (row, pos)
        for row, one in enumerate(staying, len(wanted))
        for pos in range(one.first, len(one.tokens))
    ]
    index, at = torch.tensor(places, device=resid.device).T
    shares = [1 / len(one.target) / len(wanted) for one in wanted for _ in one.target]
    return Lesson(
        layer,
        resid,
        mask,
        real,
        index,
        at,
        torch.tensor([token for one in wanted for token in one.target], dtype=torch.long).to(at),
        torch.tensor(shares, device=resid.device),
    )


def recited(
    model: HookedTransformer,
    taught: Lesson,
    write: Write = lambda layer, part, there: there,
) -> Float[Tensor, "read d_model"]:
    """What the unembedding reads at all places of the lesson, of the model as it now is."""
    above = range(taught.layer, model.cfg.n_layers)
    past = empty_cache(model, len(taught.real), above)
    resid, _, _ = run_blocks(
        model, above, taught.resid, past, past, taught.mask, taught.real, write
    )
    return norm(model.ln_final, unpacked(resid, taught.real)[taught.index, taught.at])


@contextmanager
def trainable(model: HookedTransformer, names: Sequence[str]) -> Iterator[dict[str, nn.Parameter]]:
    """These parameters open to training; then as they were, to the bit."""
    parameters = dict(model.named_parameters())
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
