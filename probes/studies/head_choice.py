"""Chooses the heads that the study `probes.studies.heads` examines, and prepares facts' runs.

Heads are chosen by attribution (`probes.attribution`) on some facts and examined on others. If both
were done on the same facts, the chosen heads' effects would be overestimated, because heads whose
effects are large by chance are chosen more often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformer_lens import HookedTransformer

from kedit.data.choose import fact_key
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.forward.runs import Run, States, both_states
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
    """A fact's clean and corrupted run, and the metric that scores both.

    Args:
        prompt: the fact's prompt.
        clean, corrupted: states of the two runs.
        corruption: how the prompt was corrupted.
        question: the answer and the foil.
    """

    prompt: Prompt
    clean: States
    corrupted: States
    corruption: Corruption
    question: AnswerMetric


@dataclass(frozen=True)
class Choice:
    """The chosen heads, and the facts that were used to choose them.

    Args:
        heads: the chosen heads.
        prompts: prompts of the facts that were used.
        n_tried: number of facts that were tried, including those that could not be used.
    """

    heads: tuple[Head, ...]
    prompts: tuple[Prompt, ...]
    n_tried: int


def fact_runs(
    model: HookedTransformer, fact: Fact, corrupt: str, pool: Sequence[Fact], seed: int
) -> FactRuns:
    """Runs a fact's prompt clean, and with other words for its subject or relation.

    Args:
        corrupt: "subject" or "relation".
        pool: facts whose words may replace this fact's.
        seed: seed of the choice among equally good words.

    Raises:
        NoReplacement: no other words fit, or the answer keeps more than KEPT_SHARE of its
            probability with them.
    """
    prompt, corruption = encode(model, fact), replaced(model, fact, corrupt, pool, seed)
    clean, corrupted = both_states(model, Run(prompt.tokens[None]), corruption.run)
    question = question_of(model, prompt.answer_ids[0], corrupted)
    before, after = (question.scores(model, run.last)[0].mean() for run in (clean, corrupted))
    if after > KEPT_SHARE * before:
        raise NoReplacement(
            f"{fact.prompt!r}, {corruption.description}: the answer's probability only falls from "
            f"{before:.2g} to {after:.2g}; it must fall to {KEPT_SHARE:.0%} or less"
        )
    return FactRuns(prompt, clean, corrupted, corruption, question)


def of_known(
    model: HookedTransformer,
    worded: Sequence[Fact],
    pool: Sequence[Fact],
    measure: Callable[[Fact], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Applies `measure` to a fact in its first wording that the model answers right.

    The fact gets its likeliest rival among the objects of `pool`. If the model answers no wording
    right, the result is a record that the fact was skipped.
    """
    fact, wrong_answers = first_known(model, worded)
    if fact is None:
        said = ", ".join(map(repr, wrong_answers))
        return skip(WRONG, f"it says {said}", prompt=worded[0].prompt)
    return measure(with_likeliest_rival(model, fact, pool))


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
    """Chooses the heads with the largest absolute effects by attribution, averaged over facts.

    A head's effect is summed over positions.

    Args:
        order: facts that may be used, each in all its wordings. The first `choose` facts are used
            that the model answers right and that can be corrupted.
        runs: gives the runs of a fact.
        pool: facts whose objects may be rivals.
        choose: number of facts to use.
        n_heads: number of heads to choose.
        metric: metric of the effects.

    Raises:
        InputError: no fact could be used.
    """

    def effects(fact: Fact) -> dict[str, Any]:
        both = runs(fact)
        patches = [Patch("z")]
        found = attributed(model, both.clean, both.corrupted, patches, both.question, [metric])
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
        raise InputError(
            "no heads could be chosen: no fact is both answered right by the model and corruptible"
        )
    mean = torch.tensor([entry.record["effect"] for entry in used]).mean(0)
    best = mean.abs().flatten().topk(min(n_heads, mean.numel())).indices.tolist()
    return Choice(
        heads=tuple(sorted(Head(*divmod(index, model.cfg.n_heads)) for index in best)),
        prompts=tuple(encode(model, _used(entry.item, entry.record)) for entry in used),
        n_tried=len(tried),
    )


def require_heads(model: HookedTransformer, heads: Sequence[Head]) -> None:
    """Raises InputError for a head that the model does not have."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for head in heads:
        if head.layer >= n_layers or head.head >= n_heads:
            raise InputError(f"no head {head}: the model has {n_layers} layers of {n_heads} heads")


def _used(worded: Sequence[Fact], record: Mapping[str, Any]) -> Fact:
    """The wording that a record says was used, with its rival."""
    fact = next(
        fact
        for fact in worded
        if (fact.prompt, fact.object) == (record["prompt"], record["object"])
    )
    return replace(fact, rival=record["rival"])
