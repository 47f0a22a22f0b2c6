"""Heads chosen by attribution, on facts that they will not be asked on; what a fact's runs are."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiments._facts import fact_key
from experiments._finite import require_finite
from experiments._run import RunFolder

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from experiments.ask_heads import Config
    from kedit.facts import Fact
    from kedit.forward.runs import States
    from kedit.heads import Head
    from kedit.models.prompts import Prompt
    from probes.patch import Question


def known(
    model: "HookedTransformer", order: "Sequence[Sequence[Fact]]", pool: "Sequence[Fact]"
) -> "Iterator[Fact]":
    """Facts in the first wording that the model answers right, told from others of `pool`."""
    from kedit.errors import InputError
    from probes.known import first_known, told_apart

    for worded in order:
        with contextlib.suppress(InputError):  # one that the model cannot read
            fact, _ = first_known(model, worded)
            if fact is not None:
                yield told_apart(model, fact, pool)


def choose_heads(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    facts: "Iterator[Fact]",
    pool: "Sequence[Fact]",
    advance: "Callable[[], object]",
) -> "tuple[list[Head], list[tuple[Fact, Prompt]]]":
    """Those that are named, or of the largest mean effect; and the facts that are used up so.

    Args:
        advance: called for each fact that is used.
    """
    import torch

    from kedit.errors import InputError
    from kedit.heads import Head
    from kedit.models.prompts import encode

    named = _named(config.heads, model)
    used, effects = [], []
    for fact in facts:
        key = f"chosen on {fact_key(fact)}"
        if key not in folder.records:
            folder.add(key, guarded(_attributed, config, model, fact, pool))
        if "skipped" not in folder.records[key]:
            effects.append(torch.tensor(folder.records[key]["effect"]))
            used.append((fact, encode(model, fact)))
            advance()
        if len(used) == config.choose:
            break
    if not used:
        raise InputError("no fact that the model answers right could be used to choose heads on")
    if named:
        return named, used
    mean = torch.stack(effects).mean(0)
    best = mean.abs().flatten().topk(min(config.n_heads, mean.numel())).indices.tolist()
    return sorted(Head(*divmod(place, model.cfg.n_heads)) for place in best), used


def _named(told: str, model: "HookedTransformer") -> "list[Head]":
    """The heads of a list of names.

    Raises:
        InputError: what is no name, or a head that the model does not have.
    """
    from kedit.errors import InputError
    from kedit.heads import Head

    heads = sorted(Head.named(name) for name in told.split(",")) if told else []
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for head in heads:
        if head.layer >= n_layers or head.head >= n_heads:
            raise InputError(f"no head {head}: {n_layers} layers of {n_heads} heads")
    return heads


def guarded(
    ask: "Callable[..., dict[str, Any]]",
    config: "Config",
    model: "HookedTransformer",
    fact: "Fact",
    *more: Any,
) -> dict[str, Any]:
    """What `ask` finds; or why this fact cannot be used, which is no reason to stop."""
    from kedit.errors import InputError

    try:
        found = ask(config, model, fact, *more)
        require_finite(repr(fact.prompt), found)
        return {"prompt": fact.prompt, "relation": fact.relation.name, **found}
    except InputError as error:
        return {"prompt": fact.prompt, "skipped": str(error)}


def _attributed(
    config: "Config", model: "HookedTransformer", fact: "Fact", pool: "Sequence[Fact]"
) -> dict[str, Any]:
    """Every head's indirect effect by attribution, all positions together."""
    from probes.attribution import attributed
    from probes.patch import Patch

    _, states, question, _ = runs(config, model, fact, pool)
    effect = attributed(model, *states, [Patch("z")], question, [config.metric])["z"][0]
    return {"effect": effect.sum(1).tolist()}


def runs(
    config: "Config", model: "HookedTransformer", fact: "Fact", pool: "Sequence[Fact]"
) -> "tuple[Prompt, tuple[States, States], Question, Any]":
    """Prompt, states of clean and corrupted run, the question, and the corruption.

    Raises:
        NoReplacement: no other words can be put in, or they leave the answer most of what it had.
    """
    from experiments._trace import KEPT_SHARE
    from kedit.errors import NoReplacement
    from kedit.forward.metrics import METRICS, answer_scores
    from kedit.forward.runs import Run
    from kedit.models.prompts import encode
    from probes.corrupt import replaced
    from probes.trace import question_of

    prompt = encode(model, fact)
    corruption = replaced(model, fact, config.corrupt, pool, config.seed)
    states = (Run(prompt.tokens[None]).states(model), corruption.run.states(model))
    question = question_of(model, prompt.answer_ids[0], states[1])
    clean, corrupted = (
        answer_scores(model, one.last, question.answer, question.foil)[METRICS.index("prob")].mean()
        for one in states
    )
    if corrupted > KEPT_SHARE * clean:
        raise NoReplacement(
            f"{corruption.description} leaves the answer after {fact.prompt!r} a probability of "
            f"{corrupted:.2g} of {clean:.2g}"
        )
    return prompt, states, question, corruption
