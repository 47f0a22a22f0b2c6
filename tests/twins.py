"""Slow twins: the readable loop, one hooked forward a cell, that the fast path has to equal."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.forward.metrics import OwnMetric
from kedit.forward.runs import Run
from probes.patch import AnswerMetric, Patch

Hooks = list[tuple[str | Callable, Callable]]


@torch.no_grad()
def sweep(
    model: HookedTransformer,
    clean: Run,
    corrupted: Run,
    patch: Patch,
    question: AnswerMetric | OwnMetric,
    cells: list[tuple[int, ...]] | None = None,
) -> Float[Tensor, "metric layer pos *head"]:
    """`probes.patch.sweep` cell by cell, all logits of whole prompts; NaN for cells left out."""
    _, clean_cache = model.run_with_cache(clean.tokens)
    with model.hooks(fwd_hooks=list(corrupted.hooks)):
        _, corrupted_cache = model.run_with_cache(corrupted.tokens)
    n_pos = clean.tokens.shape[1]
    heads = (model.cfg.n_heads,) if patch.site == "z" else ()
    scores = torch.full((len(question.metrics), model.cfg.n_layers, n_pos, *heads), torch.nan)
    for cell in cells or every_cell(scores.shape[1:]):
        hooks = [*corrupted.hooks, *cell_hooks(model, patch, cell, clean_cache, corrupted_cache)]
        logits = model.run_with_hooks(corrupted.tokens, fwd_hooks=hooks)[:, -1].float()
        scores[(slice(None), *cell)] = scored(logits, question).mean(1).cpu()
    return scores


def scored(
    logits: Float[Tensor, "row d_vocab"], question: AnswerMetric | OwnMetric
) -> Float[Tensor, "metric row"]:
    if isinstance(question, OwnMetric):
        return question.of(logits)[None]
    answer, foil = logits[:, question.answer], logits[:, question.foil]
    logprob = answer - logits.logsumexp(-1)
    return torch.stack([logprob.exp(), logprob, answer - foil])


def every_cell(shape: torch.Size) -> Iterator[tuple[int, ...]]:
    return (tuple(cell) for cell in torch.ones(shape).nonzero().tolist())


def cell_hooks(
    model: HookedTransformer,
    patch: Patch,
    cell: tuple[int, ...],
    clean: ActivationCache,
    corrupted: ActivationCache,
) -> Hooks:
    """The hooks that restore one cell, and that sever the others if the patch says so."""
    layer, pos, *head = cell
    where = (slice(None), pos, *head)
    hooks: Hooks = []
    if patch.severed:
        for every in range(model.cfg.n_layers):
            name = get_act_name(patch.severed, every)
            hooks.append((name, write(where, corrupted[name])))
    for restored in patch.layers(layer, model.cfg.n_layers):
        name = get_act_name(patch.site, restored)
        hooks.append((name, write(where, clean[name])))
    return hooks


def write(where: tuple, source: Tensor) -> Callable:
    def hook(act: Tensor, hook: object) -> Tensor:
        act = act.clone()
        act[where] = source[where]
        return act

    return hook


@torch.no_grad()
def likelihood(
    model: HookedTransformer, prompt: tuple[int, ...], answer: tuple[int, ...]
) -> tuple[float, bool]:
    """`kedit.forward.likelihood`: one prompt and answer in one forward, all its logits."""
    logits = model(torch.tensor([prompt + answer], device=model.embed.W_E.device))[0].double()
    said = logits[len(prompt) - 1 : -1]
    tokens = torch.tensor(answer, device=said.device)
    logprobs = said.log_softmax(-1).gather(1, tokens[:, None])
    return float(logprobs.mean()), bool((said.argmax(-1) == tokens).all())


@torch.no_grad()
def greedy(model: HookedTransformer, prompt: tuple[int, ...], n_tokens: int) -> tuple[int, ...]:
    """The likeliest token, again and again, the whole text anew for each."""
    text = list(prompt)
    for _ in range(n_tokens):
        text.append(int(model(torch.tensor([text], device=model.embed.W_E.device))[0, -1].argmax()))
    return tuple(text[len(prompt) :])
