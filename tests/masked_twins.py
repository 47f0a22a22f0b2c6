"""Slow twins for masked models: one hooked forward of TransformerLens a cell, all logits."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedEncoder

from kedit.forward.masked import ATTENTION, Tower, resid_hook, towers
from kedit.forward.runs import Run
from kedit.models.masked import Masked
from kedit.models.masked_prompts import MaskedPrompt, decoder_ids
from probes.masked import CROSS, Sweep
from probes.patch import AnswerMetric
from tests.twins import every_cell, scored, write


@torch.no_grad()
def logits(
    model: Masked, prompt: MaskedPrompt, run: Run, hooks: list[tuple[str | Callable, Callable]]
) -> Float[Tensor, "row d_vocab"]:
    """The logits where the answer is read, of a whole forward with hooks."""
    there = torch.ones_like(run.tokens)
    if isinstance(model, HookedEncoder):
        out = model.run_with_hooks(run.tokens, one_zero_attention_mask=there, fwd_hooks=hooks)
        return out[:, prompt.read_at].float()
    decoder = run.tokens.new_tensor(decoder_ids(model, prompt)).expand(len(run.tokens), -1)
    out = model.run_with_hooks(run.tokens, decoder, one_zero_attention_mask=there, fwd_hooks=hooks)
    return out[:, -1].float()


@torch.no_grad()
def sweep(
    model: Masked,
    prompt: MaskedPrompt,
    corrupted: Run,
    one: Sweep,
    question: AnswerMetric,
    positions: list[int],
) -> Float[Tensor, "metric layer pos *head"]:
    """`probes.masked.masked_sweep` cell by cell."""
    tower = towers(model)[one.number]
    clean, low = (_cache(model, prompt, run) for run in (Run(prompt.tokens[None]), corrupted))
    heads = (model.cfg.n_heads,) if one.site.endswith("z") else ()
    shape = torch.Size((tower.n_layers, len(positions), *heads))
    scores = torch.full((len(question.metrics), *shape), torch.nan)
    for cell in every_cell(shape):
        layer, column, *head = cell
        where = (slice(None), positions[column], *head)
        hooks: list = [*corrupted.hooks]
        if one.severed:
            for every in range(tower.n_layers):
                name = f"{tower.path}.{every}.hook_{one.severed}"
                hooks.append((name, write(where, low[name])))
        for restored in one.patch.layers(layer, tower.n_layers):
            name = hook_of(tower, one.site, restored)
            hooks.append((name, write(where, clean[name])))
        found = logits(model, prompt, corrupted, hooks)
        scores[(slice(None), *cell)] = scored(found, question).mean(1)
    return scores


def hook_of(tower: Tower, site: str, layer: int) -> str:
    """The hook point of a site."""
    if site == "resid_post":
        return resid_hook(tower, layer)
    if site.endswith("z"):
        half = "cross_attn_out" if site == CROSS["z"] else "attn_out"
        return f"{tower.path}.{layer}.{ATTENTION[half]}.hook_z"
    return f"{tower.path}.{layer}.hook_{site}"


def _cache(model: Masked, prompt: MaskedPrompt, run: Run) -> dict[str, Tensor]:
    """All activations of a run, by hook point."""
    cache: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: object) -> None:
        cache[hook.name] = act.clone()  # pyright: ignore[reportAttributeAccessIssue]

    points: list = [(name, keep) for name in model.hook_dict if "scores" not in name]
    hooks: list = [*run.hooks, *points]
    logits(model, prompt, run, hooks)
    return cache
