"""Activation patching between two texts of one's own, without a fact: which cells bring it back?"""

from collections.abc import Callable, Sequence
from os.path import commonprefix

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import OwnMetric
from kedit.forward.runs import Run
from kedit.models.prompts import (
    Prompt,
    answers_ids,
    decoded,
    distinguishing_token,
    encode_text,
    first_difference,
    require_room,
    with_given_tokens,
)
from kedit.progress import progress
from kedit.results.prompts import PromptTrace
from kedit.results.tracing import SITES
from kedit.spacing import without_end_blanks
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import patches_at, question_of

# single layers: a map by layer, not Meng et al.'s windows
SINGLE = (Patch("resid_post"), Patch("mlp_out"), Patch("attn_out"), Patch("z"))
Metric = Callable[[Float[Tensor, "row d_vocab"]], Tensor]


@torch.no_grad()
def patch_prompts(
    model: HookedTransformer,
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

    What is scored is one token: the first that tells the answer from the foil, or without a foil
    the answer's first that is no bare blank. The answer's tokens before it end every prompt.

    Args:
        corrupted: a text of as many tokens as the clean one, or several, whose scores are averaged.
        answer: what the clean text goes on with; it is joined to it as `kedit.spacing` says.
        foil: what it is held against (logit_diff); "" for what the corrupted run says besides it.
        metric: in place of an answer, a score of one's own: a function from the last position's
            logits [row, d_vocab] to one number a row (`kedit.forward.metrics.OwnMetric` gives it a
            name).
        patches: what is restored; by default residual, MLP and attention outputs, and heads.
        positions: at which positions, counted with BOS, from the end if negative; everywhere if
            None.

    Raises:
        InputError: texts of unequal lengths or without a difference, an answer and a metric or
            neither of them, an answer that no token tells from the foil, positions that are not
            there, or scores that are not finite.
    """
    others = [corrupted] if isinstance(corrupted, str) else list(corrupted)
    clean, *others = (without_end_blanks(text) for text in (clean, *others))
    _require_asked(clean, others, answer, foil, metric, patches)
    prompt, rival = _asked(model, clean, answer.strip(), foil.strip())
    require_room(model, clean, len(prompt.tokens))
    rows = torch.stack([_aligned(model, prompt, text) for text in others])
    states = Run(prompt.tokens[None]).states(model), Run(rows).states(model)
    if metric is not None:
        question = metric if isinstance(metric, OwnMetric) else OwnMetric(_name_of(metric), metric)
    elif rival is not None:
        question = AnswerMetric(prompt.answer_ids[0], rival)
    else:
        question = question_of(model, prompt.answer_ids[0], states[1])
    columns = _columns(positions, len(prompt.tokens))
    with progress("sweeps") as bars:
        swept = bars.track(patches, description="restoring every cell")
        found = [sweep(model, *states, patch, question, columns) for patch in swept]
    if not all(grid.is_finite for grid in found):
        raise InputError(f"{clean!r}: scores are not finite: try float32")
    tokens = (question.answer, question.foil) if isinstance(question, AnswerMetric) else ()
    return PromptTrace(
        clean,
        tuple(others),
        prompt.labels,
        tuple((rows != prompt.tokens).any(0).nonzero().flatten().tolist()),
        {grid.name: grid for grid in found},
        *(decoded(model, token) for token in tokens),
        given=decoded(model, *prompt.given),
    )


# eight parameters: the texts, what is scored of them, and what is restored
def patch(
    model: HookedTransformer,
    clean: str,
    corrupted: str | Sequence[str],
    site: str = "z",
    *,
    answer: str = "",
    foil: str = "",
    metric: Metric | OwnMetric | None = None,
    window: int = 1,
) -> PromptTrace:
    """`patch_prompts` at one site: which cells of it bring the answer back?

        patch(model, "When John and Mary went to the store, John gave a drink to",
              "When John and Mary went to the store, Mary gave a drink to",
              answer="Mary", foil="John").top(5)

    Args:
        site: "resid_post", "mlp_out", "attn_out", "z", or "severed": single residuals, each once
            while MLP and once while attention outputs stay as they were corrupted.
        window: layers of MLP or attention outputs that are restored together.

    Raises:
        InputError: no such site, or as `patch_prompts`.
    """
    if site not in SITES:
        raise InputError(f"site {site!r}: one of {', '.join(SITES)} is wanted")
    patches = patches_at([site], window)
    return patch_prompts(model, clean, corrupted, answer, foil, metric, patches)


def _require_asked(
    clean: str,
    others: Sequence[str],
    answer: str,
    foil: str,
    metric: Metric | OwnMetric | None,
    patches: Sequence[Patch],
) -> None:
    """Raises InputError for what can be told from the arguments alone."""
    if not clean.strip() or not others or not all(text.strip() for text in others):
        raise InputError("a clean text and a corrupted one are wanted, got an empty one")
    if bool(answer.strip()) == (metric is not None):
        both = "both" if answer.strip() else "neither"
        raise InputError(f"an answer or a metric of your own is wanted, got {both}")
    if foil.strip() and not answer.strip():
        raise InputError(f"foil {foil!r}: a metric of your own has no foil")
    if not patches:
        raise InputError("patches: at least one is wanted")


def _asked(
    model: HookedTransformer, clean: str, answer: str, foil: str
) -> tuple[Prompt, int | None]:
    """The clean prompt up to the token that is scored, and the foil's token in its place."""
    if not answer:
        return encode_text(model, clean), None
    ids, *others = answers_ids(model, clean, (answer, foil) if foil else (answer,))
    prompt = encode_text(model, clean, ids)
    if not others:
        return with_given_tokens(model, prompt, distinguishing_token(model, ids)), None
    rival, n = others[0], first_difference(ids, others[0])
    if n >= len(rival) or ids[n] == rival[n]:
        raise InputError(
            f"answer {answer!r}, foil {foil!r}: no token tells them apart, for one begins with "
            "the other"
        )
    return with_given_tokens(model, prompt, n), rival[n]


def _aligned(model: HookedTransformer, prompt: Prompt, text: str) -> Tensor:
    """Tokens of a corrupted text, each at the place of one of the clean text, and what is given.

    Raises:
        InputError: it has more tokens, or fewer, or the same.
    """
    other, plain = encode_text(model, text), prompt.labels[: prompt.n_plain]
    if len(other.tokens) != prompt.n_plain:
        part, instead = _difference(plain, other.labels)
        raise InputError(
            f"the clean text has {prompt.n_plain} tokens, the corrupted one {len(other.tokens)}: "
            "they must have equally many, for a cell is restored to what the clean run has at its "
            f"place. {_told(part)} ({len(part)}) stands against {_told(instead)} "
            f"({len(instead)}): put words of as many tokens there.\n"
            f"clean:     {_told(plain)}\ncorrupted: {_told(other.labels)}"
        )
    if torch.equal(other.tokens, prompt.tokens[: prompt.n_plain]):
        raise InputError(f"the corrupted text is the clean one, token for token: {text!r}")
    return torch.cat([other.tokens, prompt.tokens[prompt.n_plain :]])


def _difference(
    one: tuple[str, ...], other: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both without the tokens that they begin and end with alike."""
    start = len(commonprefix([one, other]))
    one, other = one[start:], other[start:]
    end = len(commonprefix([one[::-1], other[::-1]]))
    return one[: len(one) - end], other[: len(other) - end]


def _told(labels: Sequence[str]) -> str:
    return " ".join(map(repr, labels)) or "nothing"


def _columns(positions: Sequence[int] | None, n_pos: int) -> tuple[int, ...] | None:
    if positions is None:
        return None
    for pos in positions:
        if not -n_pos <= pos < n_pos:
            raise InputError(f"position {pos}: the prompt has {n_pos} tokens, counted from 0")
    return tuple(range(n_pos)[pos] for pos in positions)


def _name_of(metric: Metric) -> str:
    name = getattr(metric, "__name__", "")
    return "own metric" if name in ("", "<lambda>") else name
