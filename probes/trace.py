"""Causal tracing of a fact: corrupt its prompt, restore every cell (Meng et al. 2022; RaKE)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.forward.metrics import METRICS, last_logits
from kedit.forward.runs import Run, States
from kedit.models.prompts import Prompt, decoded, encode, with_given_tokens
from kedit.progress import progress
from kedit.results.averages import finite_grid
from kedit.results.grids import EffectGrid
from kedit.results.traces import FactTrace
from kedit.results.tracing import SITES
from probes.attribution import attributed
from probes.corrupt import Corruption, prompt_seed
from probes.patch import AnswerMetric, Patch, sweep
from probes.screen import Screening, screened_sweep

PAPER_WINDOW = 10  # layers, as Meng et al.'s code
PROB, LOGPROB = METRICS.index("prob"), METRICS.index("logprob")


def patches_at(sites: Sequence[str], window: int = 1) -> tuple[Patch, ...]:
    """What is restored at each of these sites.

    Args:
        sites: any of `kedit.results.tracing.SITES`; "severed" is single residuals while MLP, or
            attention, outputs stay as they were corrupted.
        window: layers of MLP or attention outputs that are restored together.
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
    """What Meng et al. restore (residuals; windows of MLP and attention outputs), and each head."""
    return patches_at(SITES, window)


@torch.no_grad()
def question_of(model: HookedTransformer, answer: int, corrupted: States) -> AnswerMetric:
    """How `answer` compares with what the corrupted run says besides it, the foil."""
    mean_prob = last_logits(model, corrupted.last).softmax(-1).mean(0)
    mean_prob[answer] = -1
    return AnswerMetric(answer, int(mean_prob.argmax()))


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
        steps = [with_given_tokens(model, prompt, n) for n in range(len(prompt.object_ids))]
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
) -> tuple[AnswerMetric, dict[str, EffectGrid]]:
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
