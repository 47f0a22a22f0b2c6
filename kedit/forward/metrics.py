"""From the last residual to one number a prompt, never holding all prompts' logits at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.models.sites import norm

METRICS = ("prob", "logprob", "logit_diff")
FEWEST = 16  # rows: fewer times a vocabulary take MKL (of torch 2.13) up to twice as long
Divergence = Literal["now || before", "before || now"]  # KL(edited ‖ unedited), or the other way
HELD = 2**24  # logits that a metric of one's own is given at once, 64 MiB in float32
CHUNK = 2**22  # logits in memory at once, 16 MiB in float32: what the allocator keeps and reuses


@dataclass(frozen=True)
class OwnMetric:
    """A score of one's own.

    Args:
        name: what grids and figures call it; none of METRICS.
        of: from float32 logits of the last position [row, d_vocab] to one number a row [row]. The
            rows of a sweep come in several calls, so that each has to be scored by itself.

    Raises:
        InputError: the name is one of METRICS.
    """

    name: str
    of: Callable[[Float[Tensor, "row d_vocab"]], Any]

    def __post_init__(self) -> None:
        if self.name in METRICS:
            raise InputError(f"a metric of your own cannot be called {self.name!r}, as kedit's is")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.name,)

    def scores(
        self, model: HookedTransformer, resid: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "metric row"]:
        """Of each final residual.

        Raises:
            InputError: the callable does not give one finite number a row.
        """
        parts = resid.split(max(1, HELD // model.cfg.d_vocab))
        scores = [
            self._checked(self.of(logits := last_logits(model, part)), logits) for part in parts
        ]
        return torch.cat(scores)[None]

    def _checked(self, given: Any, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        wanted = f"a tensor of shape ({len(logits)},), one number a row, is wanted"
        if not isinstance(given, Tensor):
            raise InputError(f"metric {self.name!r} gives {type(given).__name__}: {wanted}")
        if given.shape != logits.shape[:1] or given.is_complex():
            raise InputError(
                f"metric {self.name!r} gives {tuple(given.shape)} of {given.dtype} for logits of "
                f"shape {tuple(logits.shape)}: {wanted}"
            )
        if not given.isfinite().all():
            raise InputError(f"metric {self.name!r} gives NaN or infinity: a number is wanted")
        return given.float()


def answer_scores(
    model: HookedTransformer, resid: Float[Tensor, "row d_model"], answer: int, foil: int
) -> Float[Tensor, "metric row"]:
    """How strongly each final residual says `answer`, by every metric of METRICS, in float32.

    prob is softmax(logits)[answer], logprob its logarithm, logit_diff logits[answer - foil]. The
    normaliser runs over the vocabulary in chunks: 262,144 logits a row never lie in memory.
    """
    pair = torch.tensor([answer, foil], device=resid.device)
    columns = model.unembed.W_U[:, pair].T, model.unembed.b_U[pair]
    scores = []
    for rows in norm(model.ln_final, resid[None])[0].split(1024):
        chosen = _capped(model, F.linear(rows, *columns))
        logprob = chosen[:, 0] - _over_vocabulary(model, rows)[0]
        scores.append(torch.stack([logprob.exp(), logprob, chosen[:, 0] - chosen[:, 1]]))
    return torch.cat(scores, dim=1)


def token_scores(
    model: HookedTransformer,
    resid: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " token"],
    tokens: Int[Tensor, " token"],
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Log-probability of each token after the final residual `resid[row]`; is it the likeliest?"""
    normed = norm(model.ln_final, resid[None])[0]
    normaliser, best = normalisers(model, normed)
    return chosen_logits(model, normed, rows, tokens) - normaliser[rows], best[rows] == tokens


def normalisers(
    model: HookedTransformer, normed: Float[Tensor, "row d_model"]
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """logsumexp of the logits of each row behind ln_final, and its likeliest token."""
    parts = [_over_vocabulary(model, part) for part in normed.split(1024)]
    total, best = (torch.cat(values) for values in zip(*parts, strict=True))
    return total, best


def chosen_logits(
    model: HookedTransformer,
    normed: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " token"],
    tokens: Int[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """The logit of each token behind `normed[row]`."""
    logits = torch.empty(len(tokens), device=normed.device)
    for part in torch.arange(len(tokens), device=normed.device).split(4096):
        columns = model.unembed.W_U.T[tokens[part]]
        chosen = torch.einsum("td,td->t", normed[rows[part]], columns)
        logits[part] = _capped(model, chosen + model.unembed.b_U[tokens[part]])
    return logits


def expected_unembedding(
    model: HookedTransformer, normed: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """Σ p(token) · W_U[token], p being what the model says behind each row."""
    return unembedded(model, normed).softmax(-1) @ model.unembed.W_U.T.float()


def last_logits(
    model: HookedTransformer, resid: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    """All logits of a few final residuals, in float32."""
    return unembedded(model, norm(model.ln_final, resid[None])[0])


def unembedded(
    model: HookedTransformer, normed: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocab"]:
    """All logits of a few residuals behind ln_final, in float32."""
    return _capped(model, _product(normed, model.unembed.W_U.T, model.unembed.b_U))


class Vocabulary(NamedTuple):
    """Tokens that are told apart, their ids ascending, and how they are unembedded."""

    ids: Int[Tensor, " word"]
    weight: Float[Tensor, "word d_model"]
    bias: Float[Tensor, " word"]


def whole(model: HookedTransformer) -> Vocabulary:
    """All of the model's tokens."""
    weight, bias = model.unembed.W_U.T, model.unembed.b_U
    return Vocabulary(torch.arange(len(weight), device=weight.device), weight, bias)


@torch.no_grad()
def likeliest(
    model: HookedTransformer,
    normed: Float[Tensor, "row d_model"],
    always: Int[Tensor, " target"],
    n: int,
) -> Vocabulary:
    """The `n` likeliest tokens after each row, and those of `always`."""
    logits = unembedded(model, normed)
    ids = torch.cat([logits.topk(min(n, logits.shape[1])).indices.flatten(), always]).unique()
    return Vocabulary(ids, model.unembed.W_U.T[ids], model.unembed.b_U[ids])


@torch.no_grad()
def losses_and_slope(
    model: HookedTransformer,
    normed: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " target"],
    shares: Float[Tensor, " target"],
    kl: float = 0.0,
    stay: Float[Tensor, "staying vocab"] | None = None,
    divergence: Divergence = "now || before",
    among: Vocabulary | None = None,
) -> tuple[
    Float[Tensor, " target"],
    Float[Tensor, ""],
    Float[Tensor, "staying vocab"],
    Float[Tensor, "row d_model"],
]:
    """What an editor trains on, with the gradient of Σ share · nll + `kl` · mean KL, in nats.

    The gradient is written out, in place over one buffer of logits: autograd would hold five of
    them, and fresh memory for 262,144 logits a row costs as much as computing them.

    Args:
        normed: behind ln_final: first one row a target token, then those that are to stay.
        shares: of each target token's negative log-likelihood (nll) in what is trained.
        stay: log-probabilities before, of the rows that are to stay; None: these are taken.
        divergence: which way the KL of these rows goes.
        among: tokens that all probabilities are shared by; none: the whole vocabulary.

    Returns:
        Each target's nll; the mean KL of the staying rows (0 without any); their log-probabilities
        before; and the gradient with respect to `normed`.
    """
    words, n_targets = among or whole(model), len(targets)
    targets = torch.searchsorted(words.ids, targets)
    cap = model.cfg.output_logits_soft_cap
    logits = _capped(model, _product(normed, words.weight, words.bias))
    flat = 1 - (logits / cap) ** 2 if cap > 0 else None
    each = torch.arange(n_targets, device=logits.device)
    chosen, now = logits[each, targets], logits[n_targets:].log_softmax(-1)
    stay = now.clone() if stay is None else stay
    peak = logits.max(-1, keepdim=True).values
    slope = logits.sub_(peak).exp_()
    total = slope.sum(-1, keepdim=True)
    nll = total[:n_targets, 0].log() + peak[:n_targets, 0] - chosen
    scale = torch.ones_like(total)
    scale[:n_targets, 0] = shares
    slope.mul_(scale / total)  # softmax, by its share
    slope[each, targets] -= shares
    if divergence == "now || before":
        excess = now - stay
        drifted = (now.exp() * excess).sum(-1, keepdim=True)
        slope[n_targets:] *= (excess - drifted) * (kl / max(1, len(now)))
    else:
        then = stay.exp()
        drifted = (then * (stay - now)).sum(-1, keepdim=True)
        slope[n_targets:] -= then
        slope[n_targets:] *= kl / max(1, len(now))
    if flat is not None:
        slope.mul_(flat)
    mean_kl = drifted.mean() if len(now) else drifted.sum()
    return nll, mean_kl, stay, slope.to(words.weight.dtype) @ words.weight


def _over_vocabulary(
    model: HookedTransformer, rows: Float[Tensor, "row d_model"]
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """logsumexp of each row's logits, and the likeliest token."""
    weight, bias = model.unembed.W_U.T, model.unembed.b_U
    total = highest = best = None
    width = max(1, CHUNK // len(rows))
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = _capped(model, _product(rows, weight[part], bias[part]))
        peak, where = logits.max(-1)
        # in place: half of logsumexp's time
        lse = logits.sub_(peak[:, None]).exp_().sum(-1).log() + peak
        if total is None or highest is None or best is None:
            total, highest, best = lse, peak, where
            continue
        total = torch.logaddexp(total, lse)
        best = torch.where(peak > highest, where + start, best)
        highest = torch.maximum(highest, peak)
    assert total is not None and best is not None
    return total, best


def _product(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear(rows, weight, bias), for few rows and a large vocabulary."""
    if not 1 < len(rows) < FEWEST:
        return F.linear(rows, weight, bias)
    return F.linear(F.pad(rows, (0, 0, 0, FEWEST - len(rows))), weight, bias)[: len(rows)]


def _capped(model: HookedTransformer, logits: Tensor) -> Tensor:
    """Gemma 2 bounds its logits: cap * tanh(logits / cap)."""
    cap = model.cfg.output_logits_soft_cap
    logits = logits.float()
    return cap * torch.tanh(logits / cap) if cap > 0 else logits
