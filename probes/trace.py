"""Causal tracing of facts: corrupt, sweep, average over token buckets (Meng et al. 2022; RaKE)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.metrics import METRICS, last_logits
from kedit.forward.runs import Run, States
from kedit.models.prompts import Prompt, decoded, encode, giving
from kedit.progress import progress
from kedit.results.grids import EffectGrid
from kedit.results.traces import AverageEffect, FactTrace
from kedit.stats import Interval, bootstrap_ratio, resamples
from probes.attribution import attributed
from probes.corrupt import Corruption, prompt_seed
from probes.patch import Patch, Question, sweep
from probes.screen import Screening, screened_sweep

BUCKETS = (
    "first corrupted",
    "middle corrupted",
    "last corrupted",
    "between",
    "first subsequent",
    "further",
    "last token",
)
PAPER_WINDOW = 10  # layers, as Meng et al.'s code
PROB, LOGPROB = METRICS.index("prob"), METRICS.index("logprob")


def paper_patches(window: int = PAPER_WINDOW) -> tuple[Patch, ...]:
    """What Meng et al. restore (residuals; windows of MLP and attention outputs), and each head."""
    return (
        Patch("resid_post"),
        Patch("mlp_out", window),
        Patch("attn_out", window),
        Patch("z"),
        Patch("resid_post", severed="mlp_out"),
        Patch("resid_post", severed="attn_out"),
    )


@torch.no_grad()
def question_of(model: HookedTransformer, answer: int, corrupted: States) -> Question:
    """How `answer` compares with what the corrupted run says besides it, the foil."""
    mean_prob = last_logits(model, corrupted.last).softmax(-1).mean(0)
    mean_prob[answer] = -1
    return Question(answer, int(mean_prob.argmax()))


def trace(
    model: HookedTransformer,
    fact: Fact,
    part: str,
    corruption: Corruption,
    patches: Sequence[Patch],
    positions: Sequence[int] | None = None,
    screening: Screening | None = None,
    whole: bool = False,
) -> FactTrace:
    """Sweeps `fact` under one corruption with every patch.

    Answer and foil are those of `question_of`: the answer is the first token that tells the object
    from `fact.rival` (`probes.known.told_apart` finds it), and the object's tokens before it end
    the prompt. A severed sweep covers the last corrupted position only, as the paper's does
    (`Patch` says where its scores depart from the published code's).

    Args:
        positions: at which all others restore; everywhere if None.
        screening: restore only what attribution keeps, and a sample; severed sweeps are whole.
        whole: trace the object as a whole: logprob and logit_diff are sums over its tokens, each
            behind those before it, and prob is exp of that logprob (with several samples a
            geometric mean). Takes as many sweeps as the object has tokens.

    Raises:
        InputError: the corruption changes no position of this prompt, a whole object is to be
            screened, or a score is not finite.
    """
    prompt = encode(model, fact)
    if not corruption.positions:
        raise InputError(f"nothing is corrupted in {fact.prompt!r}")
    if whole and screening is not None:
        raise InputError("a whole object cannot be screened: restore all cells, or trace one token")
    if whole:
        n_plain = prompt.n_plain
        steps = [giving(model, prompt, n) for n in range(len(prompt.object_ids))]
        columns = range(n_plain) if positions is None else positions
        swept = [
            _swept(model, fact, step, _given(corruption, step), patches, columns, None)
            for step in steps
        ]
        grids = {name: _summed([own[name] for _, own in swept]) for name in swept[0][1]}
        prompt = steps[0]
    else:
        swept = [_swept(model, fact, prompt, corruption, patches, positions, screening)]
        grids = swept[0][1]
    found = FactTrace(
        subject=fact.subject,
        relation=fact.relation.id,
        object=fact.object,
        prompt=fact.prompt,
        labels=prompt.labels,
        part=part,
        corrupted=corruption.positions,
        corruption=corruption.description,
        answer=decoded(model, *(question.answer for question, _ in swept)),
        foil=decoded(model, *(question.foil for question, _ in swept)),
        grids=grids,
        given=decoded(model, *prompt.given),
        rival=fact.rival,
        whole=whole,
    )
    for name in grids:
        finite_grid(found, name)
    return found


def _swept(
    model: HookedTransformer,
    fact: Fact,
    prompt: Prompt,
    corruption: Corruption,
    patches: Sequence[Patch],
    positions: Sequence[int] | None,
    screening: Screening | None,
) -> tuple[Question, dict[str, EffectGrid]]:
    """What is asked after `prompt`, and every patch's grid."""
    clean = Run(prompt.tokens[None]).states(model)
    corrupted = corruption.run.states(model)
    question = question_of(model, prompt.answer_ids[0], corrupted)
    guess: dict[str, Tensor] = {}
    draw = torch.Generator()
    if screening is not None:
        rest = [patch for patch in patches if not patch.severed]
        guess = attributed(model, clean, corrupted, rest, question, steps=screening.steps)
        draw.manual_seed(prompt_seed(screening.seed, fact))
    grids = {}
    with progress("sweeps") as bars:
        for patch in bars.track(patches, description="restoring every cell"):
            if screening is None or patch.severed:
                at = corruption.positions[-1:] if patch.severed else positions
                grid = sweep(model, clean, corrupted, patch, question, at)
            else:
                grid = screened_sweep(
                    model, (clean, corrupted), patch, question, guess[patch.site], screening, draw
                )
            grids[grid.name] = grid
    return question, grids


def _given(corruption: Corruption, prompt: Prompt) -> Corruption:
    """`corruption` of the same prompt with the tokens behind it that `prompt` gives."""
    rows = corruption.run.tokens[:, : prompt.n_plain]
    given = prompt.tokens[prompt.n_plain :].expand(len(rows), -1)
    return replace(corruption, run=replace(corruption.run, tokens=torch.cat([rows, given], 1)))


def _summed(grids: Sequence[EffectGrid]) -> EffectGrid:
    """One grid of all tokens of an object: by the chain rule their log-probabilities add up."""

    def summed(scores: Sequence[Tensor]) -> Tensor:
        total = torch.stack(list(scores)).sum(0)
        total[PROB] = total[LOGPROB].exp()
        return total

    return replace(
        grids[0],
        restored=summed([grid.restored for grid in grids]),
        clean=summed([grid.clean for grid in grids]),
        corrupted=summed([grid.corrupted for grid in grids]),
    )


def buckets(corrupted: Sequence[int], n_pos: int) -> dict[str, list[int]]:
    """The positions in each of BUCKETS: Meng et al.'s, and "between", for one or more spans.

    A corrupted span's only token is both its first and its last; a span that ends the prompt makes
    the last corrupted token the last token too, and leaves "first subsequent" and "further" empty.
    "between" (ours) holds the tokens that two corrupted spans enclose; tokens before the first
    corrupted one are in no bucket, since nothing can be restored there. A token that is all that
    follows the corrupted ones is the "last token" only, which is ours too: see `notebook_buckets`.
    """
    first, last, end = corrupted[0], corrupted[-1], n_pos - 1
    return {
        "first corrupted": [first],
        "middle corrupted": [pos for pos in corrupted if first < pos < last],
        "last corrupted": [last],
        "between": [pos for pos in range(first, last) if pos not in corrupted],
        "first subsequent": [last + 1] if last + 1 < end else [],
        "further": list(range(last + 2, end)),
        "last token": [end],
    }


def finite_grid(trace: FactTrace, name: str) -> EffectGrid:
    """The grid `name` of a trace whose scores are all numbers: nothing else can be averaged.

    Raises:
        InputError: a restored, clean or corrupted score is NaN or infinite.
    """
    grid = trace.grids[name]
    if not grid.is_finite:
        raise InputError(
            f"{trace.prompt!r}, {trace.part} corrupted: scores of {name!r} are not finite, so this "
            "fact has no effect. Leave it out, or trace it anew with smaller noise or in float32"
        )
    return grid


def notebook_buckets(corrupted: Sequence[int], n_pos: int) -> dict[str, list[int]]:
    """`buckets` as Meng et al.'s notebook fills them.

    They differ where one token follows the corrupted ones: in the notebook it is the "first
    subsequent" token as well as the "last token". Where none follows, the notebook stops with an
    error, and "first subsequent" is empty here.
    """
    following = corrupted[-1] + 1
    first_subsequent = [following] if following < n_pos else []
    return buckets(corrupted, n_pos) | {"first subsequent": first_subsequent}


def average(
    traces: Iterable[FactTrace],
    name: str,
    baseline: Literal["own", "pooled"] = "own",
    seed: int = 0,
    draws: int = 2000,
) -> AverageEffect:
    """Average indirect effect by bucket and layer, tokens pooled, with intervals over facts.

    Args:
        traces: of one part, each with the grid `name`.
        baseline: what is subtracted from a restored score: the fact's "own" corrupted score, or the
            "pooled" average of all facts'. "pooled" is the average of Meng et al.'s notebook, in
            `notebook_buckets`; subtracting their own scores differs from it where facts have
            unequally many tokens in a bucket.
        seed, draws: of the bootstrap, which draws facts.

    Raises:
        InputError: no traces, or a score that is not finite.
    """
    kept = [(trace, finite_grid(trace, name)) for trace in traces]
    if not kept:
        raise InputError(f"no traces with {name!r} to average")
    low_scores = np.stack([grid.corrupted.numpy() for _, grid in kept])
    places_of = buckets if baseline == "own" else notebook_buckets
    places = [places_of(trace.corrupted, len(trace.labels)) for trace, _ in kept]
    results: list[Interval] = []
    n_tokens, n_facts = [], []
    for bucket in BUCKETS:
        parts = (_sum(grid, own[bucket]) for own, (_, grid) in zip(places, kept, strict=True))
        sums, counts = zip(*parts, strict=True)
        total, count = np.stack(sums).astype(float), np.array(counts, dtype=float)
        spread = (slice(None), slice(None), *[None] * (total.ndim - 2))
        if baseline == "own":
            centred = total - (low_scores * count[:, None])[spread]
            results.append(bootstrap_ratio(centred, count, draws, seed))
        else:
            results.append(_pooled(total, count, low_scores[spread], draws, seed))
        n_tokens.append(int(count.sum()))
        n_facts.append(int((count > 0).sum()))
    trace, grid = kept[0]
    mean, low, high = (np.stack(values, axis=1) for values in zip(*results, strict=True))
    return AverageEffect(
        name=name,
        part=trace.part,
        window=grid.window,
        buckets=BUCKETS,
        n_tokens=tuple(n_tokens),
        n_facts=tuple(n_facts),
        mean=mean,
        low=low,
        high=high,
    )


def total_effects(traces: Sequence[FactTrace], seed: int = 0) -> dict[str, Interval]:
    """Clean and corrupted scores and their difference, averaged over facts: each by metric.

    Raises:
        InputError: a score that is not finite.
    """
    grids = [finite_grid(trace, next(iter(trace.grids))) for trace in traces]
    clean = np.stack([grid.clean.numpy() for grid in grids]).astype(float)
    corrupted = np.stack([grid.corrupted.numpy() for grid in grids]).astype(float)
    ones = np.ones(len(grids))
    return {
        "clean": bootstrap_ratio(clean, ones, seed=seed),
        "corrupted": bootstrap_ratio(corrupted, ones, seed=seed),
        "total effect": bootstrap_ratio(clean - corrupted, ones, seed=seed),
    }


def _sum(
    grid: EffectGrid, wanted: Sequence[int]
) -> tuple[Float[Tensor, "metric layer *head"], int]:
    """Over the wanted positions that the grid has, and how many these are."""
    columns = [index for index, pos in enumerate(grid.positions) if pos in wanted]
    return grid.restored[:, :, columns].sum(2), len(columns)


def _pooled(
    total: Float[ndarray, "fact metric layer *head"],
    count: Float[ndarray, " fact"],
    low_scores: Float[ndarray, "fact metric *one"],
    draws: int,
    seed: int,
) -> Interval:
    """sum(total) / sum(count) - mean(low_scores), both over the same drawn facts.

    As `bootstrap_ratio`, it is without an interval where a single fact has tokens.
    """
    shift = np.broadcast_to(low_scores, total.shape)
    if (count > 0).sum() < 2:
        alone = bootstrap_ratio(total, count)
        return alone._replace(mean=alone.mean - shift.mean(0))
    weights = resamples(len(total), draws, seed)
    weights = weights[weights @ count > 0]
    flat, flat_shift = total.reshape(len(total), -1), shift.reshape(len(total), -1)
    drawn = (weights @ flat) / (weights @ count)[:, None] - weights @ flat_shift / len(total)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    mean = flat.sum(0) / count.sum() - flat_shift.mean(0)
    return Interval(*(values.reshape(total.shape[1:]) for values in (mean, low, high)))
