"""Study: causal tracing of one fact or of many (Meng et al. 2022, ROME; RaKE for relations).

Where does a model read a fact's subject or relation, and where does it recall the object? A trace
of one fact is noisy, because it depends on its words and tokens. `trace_facts` therefore traces
many facts that the model knows, over many relations, for averages by token role. `trace_fact`
traces a single fact, for a first look or in a notebook.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from kedit.data import builtin
from kedit.data.choose import fact_key, spread_facts
from kedit.editing.provenance import current_fingerprint
from kedit.errors import InputError, NoReplacement
from kedit.facts import Fact
from kedit.journal import Entry, Journal, skip
from kedit.models import toy
from kedit.models.load import name_of
from kedit.models.masked import AnyModel, require_decoder
from kedit.models.masked_prompts import fact_prompt, readable
from kedit.models.outline import TOYS
from kedit.results.traced import Traces, left_out_of
from kedit.results.traces import FactTrace, fact_traces
from kedit.results.tracing import NO_REPLACEMENT, SITES, WRONG, LeftOut, Tracing
from probes.corrupt import Corruption, Noise, add_noise, noise_rule, prompt_seed, replaced
from probes.known import first_known, with_likeliest_rival
from probes.screen import Screening
from probes.trace import PAPER_WINDOW, patches_at, trace

PAPERS = Tracing()  # the default settings: Meng et al.'s windows, at every site
FIRST_LOOK = 4  # counted facts; fewer show little more than the facts themselves


def trace_facts(
    model: AnyModel,
    facts: Sequence[Fact],
    settings: Tracing = PAPERS,
    *,
    pool: Sequence[Fact] | None = None,
    limit: int = 0,
    journal: Journal | None = None,
    so_far: Callable[[Traces, str], None] | None = None,
) -> Traces:
    """Traces facts that the model answers right, spread evenly over the relations.

    Facts are taken from the relations in turn, each in the first wording that the model answers
    right. A fact is left out, with the reason, if the model answers it wrong or it cannot be used.
    A part of a fact is left out if no other words have the same number of tokens. If other words
    hardly lower the answer's probability, the fact is traced but not counted (`Traces.averaged`
    leaves it out).

    Args:
        facts: the facts, perhaps in several wordings.
        settings: what is corrupted, how, and where activations are restored.
        pool: facts whose words replace others and whose objects are rivals; `facts` if None.
        limit: number of facts to trace; 0: all.
        journal: records that exist already are not computed again.
        so_far: is called while facts are traced, with the traces so far and their number as a
            phrase ("4 of 32 facts"): at FIRST_LOOK counted facts, and whenever there are twice as
            many as at the last call.

    Raises:
        InputError: no fact could be traced, or a setting does not fit the model or the facts.
    """
    journal = Journal() if journal is None else journal
    journal.ask("trace_facts", model=current_fingerprint(model), settings=settings)
    order = spread_facts(facts, settings.seed)
    prepared = _prepared(
        model, [worded[0] for worded in order], facts if pool is None else pool, settings
    )
    total = min(limit, len(order)) if limit else len(order)
    found: dict[str, dict[str, FactTrace]] = {}
    left_out: list[LeftOut] = []
    n_counted = 0

    def collected() -> Traces:
        return Traces(
            model=name_of(model),
            settings=settings,
            by_part={
                part: tuple(traced[part] for traced in found.values() if part in traced)
                for part in settings.parts
            },
            left_out=tuple(left_out),
            relations={worded[0].relation.id: worded[0].relation.name for worded in order},
        )

    def in_turn() -> Iterator[list[Fact]]:
        """The facts; before one is traced, `so_far` is called if it is due."""
        n_due = FIRST_LOOK
        for worded in order:
            # not before facts that an earlier run has traced: they follow at once
            is_new = fact_key(worded[0]) not in journal.records
            if so_far is not None and is_new and n_due <= n_counted < total:
                n_due = 2 * n_counted
                so_far(collected(), f"{n_counted} of {total} facts")
            yield worded

    def corrupts(entry: Entry[list[Fact]]) -> bool:
        nonlocal n_counted
        if not entry.skipped:
            found[entry.key] = fact_traces(entry.record, journal.tensors(entry.key))
        traced = found.get(entry.key, {})
        counts = any(settings.corrupts(part_trace.kept_share) for part_trace in traced.values())
        n_counted += counts
        return counts

    for entry in journal.each(
        in_turn(),
        lambda worded: fact_key(worded[0]),
        lambda worded: _traced(model, worded, prepared),
        unit="facts",
        doing="tracing",
        total=total,
        counts=corrupts,
        name=lambda worded: f"{worded[0].subject[:20]}: {worded[0].relation.name[:18]}",
        about=lambda worded: {"prompt": worded[0].prompt},
    ):
        left_out += left_out_of(entry.record)
    traces = collected()
    if not any(traces.averaged.values()):
        raise InputError(f"no fact could be traced: {traces.counts}; see {journal.where}")
    return traces


# eleven parameters: in a notebook, one call sets everything that a Tracing sets
def trace_fact(
    model: AnyModel,
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
    """Traces one fact: corrupts its prompt and restores every cell to its clean value.

        trace_fact(model, fact, "relation").top(5)

    The model need not know the fact. The score is that of the object's token.

    Args:
        corrupt: "relation" or "subject", whose words are corrupted.
        by: "replacement" puts other words with the same number of tokens in their place, "noise"
            adds noise to their embeddings, and "auto" replaces if `pool` has fitting words and adds
            noise otherwise. `FactTrace.corruption` says what was done.
        noise, samples, answer, sites, window, seed: see `kedit.results.tracing.Tracing`.
        pool: facts whose words replace others and whose objects are rivals; None: the facts that
            come with kedit (the toy's facts for the toy model).

    Raises:
        InputError: the fact cannot be traced in this way. It is a NoReplacement if there are no
            other words with the same number of tokens.
    """
    if pool is None:
        pool = toy.facts() if model.cfg.model_name in TOYS else builtin.load()
    settings = Tracing(
        corrupt=corrupt, by="noise" if by == "noise" else "replacement", noise=noise,
        samples=samples, answer=answer, sites=tuple(sites), window=window, seed=seed,
    )  # fmt: skip
    fact = with_likeliest_rival(model, fact, pool)
    try:
        return _trace_of(model, fact, corrupt, _prepared(model, [fact], pool, settings))
    except NoReplacement:
        if by != "auto":
            raise
    noisy = replace(settings, by="noise")
    return _trace_of(model, fact, corrupt, _prepared(model, [fact], pool, noisy))


@dataclass(frozen=True)
class _Prepared:
    """Settings, and what is computed from them once for all facts.

    Args:
        settings: the study's settings.
        pool: facts whose words replace others and whose objects are rivals.
        noises: the noise on each part; empty if words are replaced.
        screening: how sweeps are screened; None if all cells are restored.
    """

    settings: Tracing
    pool: Sequence[Fact]
    noises: Mapping[str, Noise]
    screening: Screening | None


def _prepared(
    model: AnyModel, facts: Sequence[Fact], pool: Sequence[Fact], settings: Tracing
) -> _Prepared:
    """Builds the noise and the screening; the size of the noise is measured on all of `facts`."""
    noises = {}
    if settings.by == "noise":
        measured = list(readable(model, facts))
        noises = {
            part: noise_rule(model, settings.noise, measured, part) for part in settings.parts
        }
    screening = None
    if settings.screen:
        require_decoder(model, "screening")
        screening = Screening(settings.screen, steps=settings.screen_steps, seed=settings.seed)
    return _Prepared(settings, pool, noises, screening)


def _traced(
    model: AnyModel, worded: Sequence[Fact], prepared: _Prepared
) -> dict[str, Any] | tuple[dict[str, Any], dict[str, Tensor]]:
    """Traces a fact in its first wording that the model answers right; returns record and tensors.

    If one part cannot be corrupted, the other part is traced all the same.
    """
    fact, wrong_answers = first_known(model, worded)
    if fact is None:
        said = ", ".join(map(repr, wrong_answers))
        return skip(WRONG, f"it says {said}", prompt=worded[0].prompt)
    fact = with_likeliest_rival(model, fact, prepared.pool)
    traces, uncorrupted = [], {}
    for part in prepared.settings.parts:
        try:
            traces.append(_trace_of(model, fact, part, prepared))
        except NoReplacement as error:
            uncorrupted[part] = str(error)
    if not traces:
        return skip(NO_REPLACEMENT, "; ".join(uncorrupted.values()), prompt=fact.prompt)
    tensors = {
        f"{traced.part}:{name}": value
        for traced in traces
        for name, value in traced.tensors().items()
    }
    records = [traced.to_record() for traced in traces]
    return {"traces": records, "uncorrupted": uncorrupted}, tensors


def _trace_of(model: AnyModel, fact: Fact, part: str, prepared: _Prepared) -> FactTrace:
    """Traces one part of a fact."""
    settings = prepared.settings
    return trace(
        model, fact, part, _corruption(model, fact, part, prepared),
        patches_at(settings.sites, settings.window),
        screening=prepared.screening, whole=settings.answer == "whole",
    )  # fmt: skip


def _corruption(model: AnyModel, fact: Fact, part: str, prepared: _Prepared) -> Corruption:
    """Corrupts one part of a fact's prompt, by other words or by noise."""
    settings = prepared.settings
    if settings.by == "replacement":
        return replaced(model, fact, part, prepared.pool, settings.seed)
    prompt, seed = fact_prompt(model, fact), prompt_seed(settings.seed, fact)
    return add_noise(model, prompt, part, prepared.noises[part], settings.samples, seed)
