"""Heads chosen by attribution on facts that they are not asked on; what a fact's runs are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.forward.runs import Run, States
from kedit.heads import Head
from kedit.journal import Journal, skip
from kedit.models.prompts import Prompt, encode
from kedit.results.tracing import WRONG
from probes.attribution import attributed
from probes.corrupt import KEPT_SHARE, Corruption, replaced
from probes.known import first_known, with_likeliest_rival
from probes.patch import AnswerMetric, Patch
from probes.trace import question_of


@dataclass(frozen=True, eq=False)
class FactRuns:
    """A fact's clean and corrupted run, and the question that both are asked."""

    prompt: Prompt
    clean: States
    corrupted: States
    corruption: Corruption
    question: AnswerMetric


@dataclass(frozen=True)
class Choice:
    """Heads, and what was used up to choose them.

    Args:
        prompts: of the facts that were used.
        n_tried: how many facts were tried, those that could not be used among them.
    """

    heads: tuple[Head, ...]
    prompts: tuple[Prompt, ...]
    n_tried: int


def fact_runs(
    model: HookedTransformer, fact: Fact, corrupt: str, pool: Sequence[Fact], seed: int
) -> FactRuns:
    """The runs of `fact` as it is and with other words for its subject or relation.

    Raises:
        NoReplacement: no other words can be put in, or they leave the answer most of what it had.
    """
    prompt, corruption = encode(model, fact), replaced(model, fact, corrupt, pool, seed)
    clean, corrupted = Run(prompt.tokens[None]).states(model), corruption.run.states(model)
    question = question_of(model, prompt.answer_ids[0], corrupted)
    before, after = (question.scores(model, one.last)[0].mean() for one in (clean, corrupted))
    if after > KEPT_SHARE * before:
        raise NoReplacement(
            f"{corruption.description} leaves the answer after {fact.prompt!r} a probability of "
            f"{after:.2g} of {before:.2g}"
        )
    return FactRuns(prompt, clean, corrupted, corruption, question)


def of_known(
    model: HookedTransformer,
    worded: Sequence[Fact],
    pool: Sequence[Fact],
    ask: Callable[[Fact], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """What `ask` finds on a fact in the first wording that the model answers right.

    It is told apart from the other objects of `pool`. One that the model does not know is left out.
    """
    fact, heard = first_known(model, worded)
    if fact is None:
        return skip(WRONG, f"it says {', '.join(map(repr, heard))}", prompt=worded[0].prompt)
    return ask(with_likeliest_rival(model, fact, pool))


# eight parameters: the model, its facts and their runs, the journal, and what is chosen
def choose_heads(
    model: HookedTransformer,
    order: Sequence[Sequence[Fact]],
    runs: Callable[[Fact], FactRuns],
    pool: Sequence[Fact],
    journal: Journal,
    *,
    choose: int,
    n_heads: int,
    metric: str,
) -> Choice:
    """The heads of the largest mean effects by attribution, all positions together.

    Args:
        order: facts that may be used, each in all its wordings; the first `choose` are that the
            model answers right and that can be corrupted.
        runs: of a fact.

    Raises:
        InputError: no fact could be used.
    """

    def effects(fact: Fact) -> dict[str, Any]:
        own = runs(fact)
        patches = [Patch("z")]
        found = attributed(model, own.clean, own.corrupted, patches, own.question, [metric])
        about = {"prompt": fact.prompt, "object": fact.object, "rival": fact.rival}
        about["relation"] = fact.relation.name
        return {**about, "effect": found["z"][0].sum(1).tolist()}

    tried = list(
        journal.each(
            order,
            key=lambda worded: f"chosen on {fact_key(worded[0])}",
            work=lambda worded: of_known(model, worded, pool, effects),
            unit="facts",
            doing="choosing heads",
            total=choose,
            about=lambda worded: {"prompt": worded[0].prompt},
        )
    )
    used = [entry for entry in tried if not entry.skipped]
    if not used:
        raise InputError("no fact that the model answers right could be used to choose heads on")
    mean = torch.tensor([entry.record["effect"] for entry in used]).mean(0)
    best = mean.abs().flatten().topk(min(n_heads, mean.numel())).indices.tolist()
    return Choice(
        heads=tuple(sorted(Head(*divmod(place, model.cfg.n_heads)) for place in best)),
        prompts=tuple(encode(model, _used(entry.item, entry.record)) for entry in used),
        n_tried=len(tried),
    )


def require_heads(model: HookedTransformer, heads: Sequence[Head]) -> None:
    """Raises InputError for a head that the model does not have."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for head in heads:
        if head.layer >= n_layers or head.head >= n_heads:
            raise InputError(f"no head {head}: {n_layers} layers of {n_heads} heads")


def _used(worded: Sequence[Fact], record: Mapping[str, Any]) -> Fact:
    """The wording that was used, told apart from the rival that it had."""
    fact = next(
        one for one in worded if (one.prompt, one.object) == (record["prompt"], record["object"])
    )
    return replace(fact, rival=record["rival"])
