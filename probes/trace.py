"""Causal tracing of a fact: which activations carry the answer, at which layer and token?

The prompt is corrupted so that the model no longer gives the answer. Then each activation is set
back to its clean value, one cell at a time, and the answer's score is measured again. Where the
score rises again, the activation carries what the model needs for the answer. Meng et al. 2022
(ROME) corrupt the subject and find MLPs of middle layers at its last token; RaKE corrupts the
relation.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.masked import MaskedStates
from kedit.forward.metrics import METRICS, last_logits
from kedit.forward.runs import Run, States, both_states
from kedit.models.masked import AnyModel, Masked, is_masked, require_decoder
from kedit.models.masked_prompts import (
    MaskedPrompt,
    fact_prompt,
    given_first,
)
from kedit.models.prompts import Prompt, decoded
from kedit.progress import progress
from kedit.results.averages import finite_grid
from kedit.results.grids import EffectGrid
from kedit.results.traces import FactTrace
from kedit.results.tracing import SITES
from probes.attribution import attributed
from probes.corrupt import Corruption, prompt_seed
from probes.masked import every_sweep, masked_runs
from probes.patch import AnswerMetric, Patch, sweep
from probes.screen import Screening, screened_sweep

N_DECODER_START = 2  # tokens with which T5's decoder begins: start and sentinel
PAPER_WINDOW = 10  # layers that Meng et al.'s code restores together
PROB, LOGPROB = METRICS.index("prob"), METRICS.index("logprob")


def patches_at(sites: Sequence[str], window: int = 1) -> tuple[Patch, ...]:
    """Lists the patches to sweep for these sites.

    Args:
        sites: any of `kedit.results.tracing.SITES`; "severed" gives two patches, which restore
            single residuals while the MLPs' or attention's outputs stay at their corrupted values.
        window: number of layers whose MLP or attention outputs are restored together.
    """
    chosen: list[Patch] = []
    for site in sites:
        if site == "severed":
            chosen += [
                Patch("resid_post", severed="mlp_out"),
                Patch("resid_post", severed="attn_out"),
            ]
        elif site in ("mlp_out", "attn_out"):
            chosen.append(Patch(site, window))
        else:
            chosen.append(Patch(site))  # pyright: ignore[reportArgumentType]
    return tuple(chosen)


def paper_patches(window: int = PAPER_WINDOW) -> tuple[Patch, ...]:
    """Lists the patches of Meng et al. (residuals; windows of MLP and attention outputs), and z."""
    return patches_at(SITES, window)


@torch.no_grad()
def question_of(model: AnyModel, answer: int, corrupted: States | MaskedStates) -> AnswerMetric:
    """Builds the metric for `answer`, with the foil that the corrupted run gives.

    The foil is the likeliest token apart from the answer, on average over the samples.
    """
    mean_prob = last_logits(model, corrupted.last).softmax(-1).mean(0)
    mean_prob[answer] = -1  # so that the answer is not its own foil
    return AnswerMetric(answer, int(mean_prob.argmax()))


def trace(
    model: AnyModel,
    fact: Fact,
    part: str,
    corruption: Corruption,
    patches: Sequence[Patch],
    positions: Sequence[int] | None = None,
    screening: Screening | None = None,
    whole: bool = False,
) -> FactTrace:
    """Sweeps `fact` under one corruption with every patch.

    The answer is the first token that distinguishes the object from `fact.rival`
    (`probes.known.with_likeliest_rival` finds a rival). The object's tokens before it are appended
    to the prompt. `question_of` chooses the foil. A severed sweep covers only the last corrupted
    position, as the paper's does (`Patch` describes how its scores differ from the published
    code's).

    Args:
        part: "subject" or "relation", whichever `corruption` corrupts.
        corruption: the corrupted run of the fact's prompt.
        patches: what to restore; each patch gives a grid.
        positions: where to restore, except in severed sweeps; everywhere if None.
        screening: if given, restore only the cells that attribution keeps and a random sample of
            the others. Severed sweeps are never screened.
        whole: trace the whole object instead of one token: logprob and logit_diff are sums over the
            object's tokens, each after the tokens before it, and prob is exp of that logprob (with
            several samples, a geometric mean). This needs as many sweeps as the object has tokens.

    Raises:
        InputError: the corruption changes no position of this prompt, `whole` and `screening` are
            combined, or a score is not finite.
    """
    prompt = fact_prompt(model, fact)
    if not corruption.positions:
        raise InputError(f"{fact.prompt!r}: the corruption changes no token")
    if whole and screening is not None:
        raise InputError("a whole object cannot be screened: restore all cells, or trace one token")
    if screening is not None:
        require_decoder(model, "screening")
    if whole:
        n_plain = prompt.n_plain
        steps = [given_first(model, prompt, n) for n in range(len(prompt.object_ids))]
        columns = range(n_plain) if positions is None else positions
        swept = [
            _swept(model, fact, step, _given(corruption, step), patches, columns, None, whole)
            for step in steps
        ]
        grids = {name: _summed([by_name[name] for _, by_name in swept]) for name in swept[0][1]}
        prompt = steps[0]
    else:
        swept = [_swept(model, fact, prompt, corruption, patches, positions, screening, whole)]
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
        masks=prompt.answer_at if isinstance(prompt, MaskedPrompt) else (),
    )
    for name in grids:
        finite_grid(found, name)
    return found


def _swept(
    model: AnyModel,
    fact: Fact,
    prompt: Prompt,
    corruption: Corruption,
    patches: Sequence[Patch],
    positions: Sequence[int] | None,
    screening: Screening | None,
    whole: bool,
) -> tuple[AnswerMetric, dict[str, EffectGrid]]:
    """Sweeps one prompt with every patch; returns the metric and the grids by name."""
    if is_masked(model):
        assert isinstance(prompt, MaskedPrompt)
        return _masked_swept(model, prompt, corruption, patches, positions, whole)
    clean, corrupted = both_states(model, Run(prompt.tokens[None]), corruption.run)
    question = question_of(model, prompt.answer_ids[0], corrupted)
    estimated: dict[str, Tensor] = {}
    generator = torch.Generator()
    if screening is not None:
        screened = [patch for patch in patches if not patch.severed]
        estimated = attributed(model, clean, corrupted, screened, question, steps=screening.steps)
        generator.manual_seed(prompt_seed(screening.seed, fact))
    grids = {}
    with progress("sweeps") as bars:
        for patch in bars.track(patches, description="restoring every cell"):
            if screening is None or patch.severed:
                columns = corruption.positions[-1:] if patch.severed else positions
                grid = sweep(model, clean, corrupted, patch, question, columns)
            else:
                grid = screened_sweep(
                    model,
                    (clean, corrupted),
                    patch,
                    question,
                    estimated[patch.site],
                    screening,
                    generator,
                )
            grids[grid.name] = grid
    return question, grids


def _masked_swept(
    model: Masked,
    prompt: MaskedPrompt,
    corruption: Corruption,
    patches: Sequence[Patch],
    positions: Sequence[int] | None,
    whole: bool,
) -> tuple[AnswerMetric, dict[str, EffectGrid]]:
    """The same as `_swept` for a masked model, which may have two towers."""
    states = masked_runs(model, prompt, corruption.run)
    question = question_of(model, prompt.answer_ids[0], states[1])
    severed_at = corruption.positions[-1:]
    # T5's decoder has the given tokens, too; the steps of a whole object share only the first two
    n_decoder = N_DECODER_START if whole else None
    grids = every_sweep(model, states, patches, question, positions, severed_at, n_decoder)
    return question, grids


def _given(corruption: Corruption, prompt: Prompt) -> Corruption:
    """Extends the corrupted run by the object's tokens that `prompt` ends with."""
    rows = corruption.run.tokens[:, : prompt.n_plain]
    if isinstance(prompt, MaskedPrompt):
        rows = rows.clone()
        rows[:, list(prompt.masks)] = prompt.tokens[list(prompt.masks)]
        return replace(corruption, run=replace(corruption.run, tokens=rows))
    given = prompt.tokens[prompt.n_plain :].expand(len(rows), -1)
    return replace(corruption, run=replace(corruption.run, tokens=torch.cat([rows, given], 1)))


def _summed(grids: Sequence[EffectGrid]) -> EffectGrid:
    """Adds up the grids of an object's tokens: by the chain rule their log-probabilities add."""

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
