"""Where does a model keep a relation, or a subject? Causal tracing of one fact, and of many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data import builtin
from kedit.data.choose import fact_key, spread_facts
from kedit.editing.provenance import fingerprint
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.journal import Entry, Journal, skip
from kedit.models import toy
from kedit.models.load import name_of
from kedit.models.prompts import encode, readable
from kedit.results.traced import Traces, left_out_of
from kedit.results.traces import FactTrace, fact_traces
from kedit.results.tracing import NO_REPLACEMENT, SITES, WRONG, Tracing
from probes.corrupt import Corruption, Noise, add_noise, noise_rule, prompt_seed, replaced
from probes.known import first_known, with_likeliest_rival
from probes.screen import Screening
from probes.trace import PAPER_WINDOW, patches_at, trace

PAPERS = Tracing()  # Meng et al.'s windows, at every site


def trace_facts(
    model: HookedTransformer,
    facts: Sequence[Fact],
    settings: Tracing = PAPERS,
    *,
    pool: Sequence[Fact] | None = None,
    limit: int = 0,
    journal: Journal | None = None,
) -> Traces:
    """Traces facts that the model answers right, over as many relations as there are.

    Facts are taken in turn from every relation, each in the first wording that the model answers
    right. One that it answers wrong, or that cannot be used, is left out with the reason; so is a
    part of a fact that nothing of as many tokens can replace. A fact whose replaced words do no
    harm to its answer is traced, but does not count (`Traces.averaged` sorts it out).

    Args:
        pool: facts whose words replace others and whose objects are rivals; `facts` if None.
        limit: how many facts; 0 for all.
        journal: what is in it is not done again.

    Raises:
        InputError: no fact could be traced, or a setting does not fit.
    """
    journal = Journal() if journal is None else journal
    journal.ask("trace_facts", model=fingerprint(model), settings=settings)
    order = spread_facts(facts, settings.seed)
    ways = _ways(model, [worded[0] for worded in order], facts if pool is None else pool, settings)
    found: dict[str, dict[str, FactTrace]] = {}

    def corrupts(entry: Entry[list[Fact]]) -> bool:
        if not entry.skipped:
            found[entry.key] = fact_traces(entry.record, journal.tensors(entry.key))
        traced = found.get(entry.key, {})
        return any(settings.corrupts(one.kept_share) for one in traced.values())

    left_out = [
        one
        for entry in journal.each(
            order,
            lambda worded: fact_key(worded[0]),
            lambda worded: _traced(model, worded, ways),
            unit="facts",
            doing="tracing",
            total=min(limit, len(order)) if limit else len(order),
            counts=corrupts,
            name=lambda worded: f"{worded[0].subject[:20]}: {worded[0].relation.name[:18]}",
            about=lambda worded: {"prompt": worded[0].prompt},
        )
        for one in left_out_of(entry.record)
    ]
    traces = Traces(
        model=name_of(model),
        settings=settings,
        by_part={
            part: tuple(traced[part] for traced in found.values() if part in traced)
            for part in settings.parts
        },
        left_out=tuple(left_out),
        relations={worded[0].relation.id: worded[0].relation.name for worded in order},
    )
    if not any(traces.averaged.values()):
        raise InputError(f"no fact could be traced: {traces.counts}; see {journal.where}")
    return traces


# eleven parameters: one call says in a notebook what a Tracing says, for one fact
def trace_fact(
    model: HookedTransformer,
    fact: Fact,
    corrupt: Literal["relation", "subject"] = "relation",
    *,
    by: Literal["auto", "replacement", "noise"] = "auto",
    noise: str = "s3",
    samples: int = 10,
    answer: Literal["token", "whole"] = "token",
    sites: Sequence[str] = SITES,
    window: int = PAPER_WINDOW,
    seed: int = 0,
    pool: Sequence[Fact] | None = None,
) -> FactTrace:
    """Which cells of the corrupted run, restored to their clean values, bring the answer back?

        trace_fact(model, fact, "relation").top(5)

    The model need not know the fact: what is scored is the object's token.

    Args:
        corrupt: whose words are corrupted.
        by: "auto" replaces them by others of as many tokens where there are any in `pool`, and else
            puts noise on their embeddings; `FactTrace.corruption` says which it was.
        noise, samples, answer, sites, window, seed: as in `kedit.results.tracing.Tracing`.
        pool: facts whose words replace others and whose objects are rivals; None for kedit's own,
            or the toy's.

    Raises:
        InputError: the fact cannot be traced in this way (NoReplacement: words of as many tokens
            are wanted, and there are none).
    """
    if pool is None:
        pool = toy.facts() if model.cfg.model_name == "toy" else builtin.load()
    how = Tracing(
        corrupt=corrupt, by="noise" if by == "noise" else "replacement", noise=noise,
        samples=samples, answer=answer, sites=tuple(sites), window=window, seed=seed,
    )  # fmt: skip
    fact = with_likeliest_rival(model, fact, pool)
    try:
        return _trace_of(model, fact, corrupt, _ways(model, [fact], pool, how))
    except NoReplacement:
        if by != "auto":
            raise
    return _trace_of(model, fact, corrupt, _ways(model, [fact], pool, replace(how, by="noise")))


@dataclass(frozen=True)
class _Ways:
    """How the facts of a study are traced: settings, and what is made of them once.

    Args:
        noises: by part; empty where words are replaced.
    """

    settings: Tracing
    pool: Sequence[Fact]
    noises: Mapping[str, Noise]
    screening: Screening | None


def _ways(
    model: HookedTransformer, every: Sequence[Fact], pool: Sequence[Fact], settings: Tracing
) -> _Ways:
    """Noise is measured on the words of `every` fact."""
    noises = {}
    if settings.by == "noise":
        some = list(readable(model, every))
        noises = {part: noise_rule(model, settings.noise, some, part) for part in settings.parts}
    screening = None
    if settings.screen:
        screening = Screening(settings.screen, steps=settings.screen_steps, seed=settings.seed)
    return _Ways(settings, pool, noises, screening)


def _traced(
    model: HookedTransformer, worded: Sequence[Fact], ways: _Ways
) -> dict[str, Any] | tuple[dict[str, Any], dict[str, Tensor]]:
    """Record and tensors of a fact, in the first wording that the model answers right.

    A part that cannot be corrupted does not take the other one with it.
    """
    fact, heard = first_known(model, worded)
    if fact is None:
        return skip(WRONG, f"it says {', '.join(map(repr, heard))}", prompt=worded[0].prompt)
    fact = with_likeliest_rival(model, fact, ways.pool)
    done, uncorrupted = [], {}
    for part in ways.settings.parts:
        try:
            done.append(_trace_of(model, fact, part, ways))
        except NoReplacement as error:
            uncorrupted[part] = str(error)
    if not done:
        return skip(NO_REPLACEMENT, "; ".join(uncorrupted.values()), prompt=fact.prompt)
    tensors = {f"{one.part}:{name}": value for one in done for name, value in one.tensors().items()}
    return {"traces": [one.to_record() for one in done], "uncorrupted": uncorrupted}, tensors


def _trace_of(model: HookedTransformer, fact: Fact, part: str, ways: _Ways) -> FactTrace:
    settings = ways.settings
    return trace(
        model, fact, part, _corruption(model, fact, part, ways),
        patches_at(settings.sites, settings.window),
        screening=ways.screening, whole=settings.answer == "whole",
    )  # fmt: skip


def _corruption(model: HookedTransformer, fact: Fact, part: str, ways: _Ways) -> Corruption:
    settings = ways.settings
    if settings.by == "replacement":
        return replaced(model, fact, part, ways.pool, settings.seed)
    prompt, seed = encode(model, fact), prompt_seed(settings.seed, fact)
    return add_noise(model, prompt, part, ways.noises[part], settings.samples, seed)
