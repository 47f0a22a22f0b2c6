"""Activation patching between any two texts: which activations make the difference?

`probes.trace` needs a fact with a subject and a relation. Here any behaviour can be studied, given
a clean text and a corrupted text of the same token length that differ in what matters, such as the
names in indirect object identification (Wang et al. 2022). Restoring a cell of the corrupted run
shows whether its clean value suffices to bring the clean answer back (Zhang and Nanda 2023,
arXiv 2309.16042).
"""

from collections.abc import Callable, Sequence
from os.path import commonprefix

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.errors import InputError
from kedit.forward.masked import MaskedStates
from kedit.forward.metrics import OwnMetric
from kedit.forward.runs import Run, States, both_states
from kedit.models.masked import AnyModel, is_masked
from kedit.models.masked_prompts import (
    MaskedPrompt,
    encode_masked_text,
    given_first,
    with_given,
)
from kedit.models.prompts import (
    Prompt,
    answers_ids,
    decoded,
    distinguishing_token,
    encode_text,
    first_difference,
    require_room,
)
from kedit.progress import progress
from kedit.results.grids import EffectGrid
from kedit.results.prompts import PromptTrace
from kedit.results.tracing import SITES
from kedit.spacing import without_end_blanks
from probes.masked import every_sweep, masked_runs
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import patches_at, question_of

# every site in single layers, without Meng et al.'s windows, so that layers can be compared
SINGLE = (Patch("resid_post"), Patch("mlp_out"), Patch("attn_out"), Patch("z"))
Metric = Callable[[Float[Tensor, "row d_vocab"]], Tensor]


@torch.no_grad()
def patch_prompts(
    model: AnyModel,
    clean: str,
    corrupted: str | Sequence[str],
    answer: str = "",
    foil: str = "",
    metric: Metric | OwnMetric | None = None,
    patches: Sequence[Patch] = SINGLE,
    positions: Sequence[int] | None = None,
) -> PromptTrace:
    """Restores every cell of the corrupted run to its clean value, one at a time.

        trace = patch_prompts(model, "When John and Mary went to the store, John gave a drink to",
                              "When John and Mary went to the store, Mary gave a drink to",
                              answer="Mary", foil="John")

    One token is scored: the first that distinguishes the answer from the foil or, without a foil,
    the answer's first token that is not blank. The answer's tokens before it are appended to both
    texts.

    Args:
        clean: the text that leads to the answer. Texts for a masked model (BERT, T5) have "[MASK]"
            in the place of the answer.
        corrupted: a text with the same number of tokens, or several, whose scores are averaged.
        answer: how the clean text continues. `kedit.spacing` decides whether a blank joins them.
        foil: the wrong answer for the metric logit_diff. If it is empty, the foil is the token that
            the corrupted run finds likeliest, apart from the answer.
        metric: a function that replaces the answer's scores: from the last position's logits
            [row, d_vocab] to one number per row. `kedit.forward.metrics.OwnMetric` gives it a name.
        patches: what to restore; by default single layers of all sites.
        positions: where to restore. BOS counts as position 0, and negative numbers count from the
            end. Everywhere if None.

    Raises:
        InputError: the texts differ in their numbers of tokens or do not differ at all, both an
            answer and a metric are given or neither, no token distinguishes the answer from the
            foil, a position does not exist, or scores are not finite.
    """
    others = [corrupted] if isinstance(corrupted, str) else list(corrupted)
    clean, *others = (without_end_blanks(text) for text in (clean, *others))
    _require_arguments(clean, others, answer, foil, metric, patches)
    answer = answer.strip()
    prompt, foil_token = _scored(model, clean, answer, foil.strip())
    require_room(model, clean, len(prompt.tokens))
    rows = torch.stack([_aligned(model, prompt, text, answer) for text in others])
    if is_masked(model):
        assert isinstance(prompt, MaskedPrompt)
        states = masked_runs(model, prompt, Run(rows))
    else:
        states = both_states(model, Run(prompt.tokens[None]), Run(rows))
    if metric is not None:
        question = metric if isinstance(metric, OwnMetric) else OwnMetric(_name_of(metric), metric)
    elif foil_token is not None:
        question = AnswerMetric(prompt.answer_ids[0], foil_token)
    else:
        question = question_of(model, prompt.answer_ids[0], states[1])
    columns = _columns(positions, len(prompt.tokens))
    grids = _swept(model, states, patches, question, columns)
    if not all(grid.is_finite for grid in grids.values()):
        raise InputError(f"{clean!r}: scores are not finite; load the model in float32")
    tokens = (question.answer, question.foil) if isinstance(question, AnswerMetric) else ()
    return PromptTrace(
        clean,
        tuple(others),
        prompt.labels,
        tuple((rows != prompt.tokens).any(0).nonzero().flatten().tolist()),
        grids,
        *(decoded(model, token) for token in tokens),
        given=decoded(model, *prompt.given),
    )


# eight parameters: the model, the texts, what is scored, and what is restored
def patch(
    model: AnyModel,
    clean: str,
    corrupted: str | Sequence[str],
    site: str = "z",
    *,
    answer: str = "",
    foil: str = "",
    metric: Metric | OwnMetric | None = None,
    window: int = 1,
) -> PromptTrace:
    """Restores every cell of one site; otherwise the same as `patch_prompts`.

        patch(model, "When John and Mary went to the store, John gave a drink to",
              "When John and Mary went to the store, Mary gave a drink to",
              answer="Mary", foil="John").top(5)

    Args:
        site: "resid_post", "mlp_out", "attn_out", "z", or "severed": single residuals, once while
            MLP outputs and once while attention outputs stay at their corrupted values.
        window: number of layers whose MLP or attention outputs are restored together.
        model, clean, corrupted, answer, foil, metric: see `patch_prompts`.

    Raises:
        InputError: there is no such site; for other reasons see `patch_prompts`.
    """
    if site not in SITES:
        raise InputError(f"site {site!r}: must be one of {', '.join(SITES)}")
    patches = patches_at([site], window)
    return patch_prompts(model, clean, corrupted, answer, foil, metric, patches)


def _require_arguments(
    clean: str,
    others: Sequence[str],
    answer: str,
    foil: str,
    metric: Metric | OwnMetric | None,
    patches: Sequence[Patch],
) -> None:
    """Raises InputError for errors that show in the arguments, before the model is used."""
    if not clean.strip() or not others or not all(text.strip() for text in others):
        raise InputError("clean and corrupted: both texts are needed, got an empty one")
    if bool(answer.strip()) == (metric is not None):
        both = "both" if answer.strip() else "neither"
        raise InputError(f"either an answer or a metric of your own is needed, got {both}")
    if foil.strip() and not answer.strip():
        raise InputError(f"foil {foil!r}: a metric of your own has no foil")
    if not patches:
        raise InputError("patches: at least one is needed")


def _scored(model: AnyModel, clean: str, answer: str, foil: str) -> tuple[Prompt, int | None]:
    """The clean prompt up to the token that is scored, and the foil's token at this position."""
    if is_masked(model):
        prompt = encode_masked_text(model, clean, answer)
        if not answer:
            return prompt, None
        ids = prompt.object_ids
        others = [encode_masked_text(model, clean, foil).object_ids] if foil else []
    elif not answer:
        return encode_text(model, clean), None
    else:
        ids, *others = answers_ids(model, clean, (answer, foil) if foil else (answer,))
        prompt = encode_text(model, clean, ids)
    if not others:
        return given_first(model, prompt, distinguishing_token(model, ids)), None
    foil_ids, n = others[0], first_difference(ids, others[0])
    if n >= len(foil_ids) or ids[n] == foil_ids[n]:
        raise InputError(
            f"answer {answer!r}, foil {foil!r}: no token distinguishes them, because one begins "
            "with the other"
        )
    return given_first(model, prompt, n), foil_ids[n]


def _swept(
    model: AnyModel,
    states: tuple[States, States] | tuple[MaskedStates, MaskedStates],
    patches: Sequence[Patch],
    question: AnswerMetric | OwnMetric,
    columns: Sequence[int] | None,
) -> dict[str, EffectGrid]:
    """The grid of each patch, by name."""
    clean, corrupted = states
    if is_masked(model):
        assert isinstance(clean, MaskedStates) and isinstance(corrupted, MaskedStates)
        return every_sweep(model, (clean, corrupted), patches, question, columns, columns)
    assert isinstance(clean, States) and isinstance(corrupted, States)
    with progress("sweeps") as bars:
        swept = bars.track(patches, description="restoring every cell")
        found = [sweep(model, clean, corrupted, patch, question, columns) for patch in swept]
    return {grid.name: grid for grid in found}


def _aligned(model: AnyModel, prompt: Prompt, text: str, answer: str) -> Tensor:
    """Tokens of a corrupted text, with the answer's tokens that are given in the clean prompt.

    Raises:
        InputError: the text has more or fewer tokens than the clean one, or exactly the same.
    """
    plain = prompt.labels[: prompt.n_plain]
    if is_masked(model):
        other = with_given(model, encode_masked_text(model, text, answer), len(prompt.given))
    else:
        other = encode_text(model, text)
    if len(other.tokens) != prompt.n_plain:
        labels = other.labels[: len(other.tokens)]  # without those of T5's decoder
        part, instead = _difference(plain, labels)
        raise InputError(
            f"the clean text has {prompt.n_plain} tokens, the corrupted text {len(other.tokens)}: "
            "they must have the same number, because a cell is restored from the clean run's same "
            f"position. The clean text has {_quoted(part)} ({len(part)}) where the corrupted text "
            f"has {_quoted(instead)} ({len(instead)}): choose words with the same number of "
            f"tokens.\nclean:     {_quoted(plain)}\ncorrupted: {_quoted(labels)}"
        )
    if torch.equal(other.tokens, prompt.tokens[: prompt.n_plain]):
        raise InputError(f"the corrupted text has the same tokens as the clean text: {text!r}")
    return torch.cat([other.tokens, prompt.tokens[prompt.n_plain :]])


def _difference(
    first: tuple[str, ...], second: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both texts' tokens without the beginning and the end that they share."""
    start = len(commonprefix([first, second]))
    first, second = first[start:], second[start:]
    end = len(commonprefix([first[::-1], second[::-1]]))
    return first[: len(first) - end], second[: len(second) - end]


def _quoted(labels: Sequence[str]) -> str:
    return " ".join(map(repr, labels)) or "nothing"


def _columns(positions: Sequence[int] | None, n_pos: int) -> tuple[int, ...] | None:
    if positions is None:
        return None
    for pos in positions:
        if not -n_pos <= pos < n_pos:
            raise InputError(f"position {pos}: the prompt has positions 0 to {n_pos - 1}")
    return tuple(range(n_pos)[pos] for pos in positions)


def _name_of(metric: Metric) -> str:
    name = getattr(metric, "__name__", "")
    return "own metric" if name in ("", "<lambda>") else name
