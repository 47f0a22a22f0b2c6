"""Computes scores, log-probabilities and losses from final residuals.

A row of logits has one number per token of the vocabulary (262,144 in Gemma 3). So scores of many
rows are computed in chunks of the vocabulary or of the rows. The functions that hold all logits of
their rows at once say so; give them few rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kedit.errors import InputError
from kedit.models.masked import AnyModel
from kedit.models.sites import final_norm

METRICS = ("prob", "logprob", "logit_diff")
# With fewer rows than this, MKL (of torch 2.13) takes up to twice as long for a whole vocabulary
FEWEST = 16
Divergence = Literal["now || before", "before || now"]  # KL(edited ‖ unedited), or the reverse
# A sixteenth of Gemma's vocabulary excludes nearly as many competitors as all of it would
BOUND_SHARE = 16
HELD = 2**24  # most logits that a user's metric gets at once, 64 MiB in float32
# Logits in memory at once, 16 MiB in float32: the allocator keeps and reuses memory of this size
CHUNK = 2**22


@dataclass(frozen=True)
class OwnMetric:
    """A metric that a user defines by a function of the logits.

    Args:
        name: its name in grids and figures, not one of METRICS.
        of: a function from float32 logits of the last position [row, d_vocab] to one number per row
            [row]. It gets the rows of a sweep in several calls, so it must score each row alone.

    Raises:
        InputError: the name is one of METRICS.
    """

    name: str
    of: Callable[[Float[Tensor, "row d_vocab"]], Any]

    def __post_init__(self) -> None:
        if self.name in METRICS:
            raise InputError(f"a metric of your own cannot be called {self.name!r}: kedit has one")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.name,)

    def scores(
        self, model: AnyModel, resid: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "metric row"]:
        """Computes the score of each final residual.

        Raises:
            InputError: the user's function does not return one finite number per row.
        """
        parts = resid.split(max(1, HELD // model.cfg.d_vocab))
        scores = [
            self._checked(self.of(logits := last_logits(model, part)), logits) for part in parts
        ]
        return torch.cat(scores)[None]

    def _checked(self, scores: Any, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        needed = f"it must give a tensor of shape ({len(logits)},), one number per row"
        if not isinstance(scores, Tensor):
            raise InputError(f"metric {self.name!r} gives {type(scores).__name__}: {needed}")
        if scores.shape != logits.shape[:1] or scores.is_complex():
            raise InputError(
                f"metric {self.name!r} gives {tuple(scores.shape)} of {scores.dtype} for logits of "
                f"shape {tuple(logits.shape)}: {needed}"
            )
        if not scores.isfinite().all():
            raise InputError(f"metric {self.name!r} gives NaN or infinity: it must give numbers")
        return scores.float()


def answer_scores(
    model: AnyModel, resid: Float[Tensor, "row d_model"], answer: int, foil: int
) -> Float[Tensor, "metric row"]:
    """Scores the answer at each final residual by all of METRICS, in float32.

    prob is softmax(logits)[answer], logprob is its logarithm, and logit_diff is logits[answer] -
    logits[foil]. The normaliser is computed in chunks of the vocabulary, so that the logits of all
    rows are never in memory together.
    """
    pair = torch.tensor([answer, foil], device=resid.device)
    columns = model.unembed.W_U[:, pair].T, model.unembed.b_U[pair]
    scores = []
    for rows in final_norm(model, resid).split(1024):
        chosen = _capped(model, F.linear(rows, *columns))
        logprob = chosen[:, 0] - _over_vocabulary(model, rows)[0]
        scores.append(torch.stack([logprob.exp(), logprob, chosen[:, 0] - chosen[:, 1]]))
    return torch.cat(scores, dim=1)


def token_scores(
    model: AnyModel,
    resid: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " token"],
    tokens: Int[Tensor, " token"],
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Returns the log-probability of each token after its row, and whether it is the likeliest.

    Args:
        resid: final residuals, before ln_final.
        rows: for each token, its row of `resid`.
        tokens: the tokens.
    """
    normed = final_norm(model, resid)
    normaliser, best = normalisers(model, normed)
    return chosen_logits(model, normed, rows, tokens) - normaliser[rows], best[rows] == tokens


def token_bounds(
    model: AnyModel,
    resid: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " token"],
    tokens: Int[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """Returns an upper bound of each token's log-probability after its row, see `token_scores`.

    The token's logit is normalised by the first 1 / BOUND_SHARE of the vocabulary alone. In most
    tokenizers these are the frequent tokens, which have most of the probability.
    """
    normed = final_norm(model, resid)
    n_tokens = model.cfg.d_vocab // BOUND_SHARE + 1
    least, _ = normalisers(model, normed, n_tokens)
    return (chosen_logits(model, normed, rows, tokens) - least[rows]).clamp(max=0)


def normalisers(
    model: AnyModel, normed: Float[Tensor, "row d_model"], n_tokens: int | None = None
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Returns the logsumexp of each row's logits, and its likeliest token.

    Args:
        normed: final residuals, after ln_final.
        n_tokens: use the first tokens of the vocabulary only, this many; None: all.
    """
    parts = [_over_vocabulary(model, part, n_tokens) for part in normed.split(1024)]
    total, best = (torch.cat(values) for values in zip(*parts, strict=True))
    return total, best


def chosen_logits(
    model: AnyModel,
    normed: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " token"],
    tokens: Int[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """Returns the logit of each token after its row of `normed`, residuals after ln_final."""
    logits = torch.empty(len(tokens), device=normed.device)
    for part in torch.arange(len(tokens), device=normed.device).split(4096):
        columns = model.unembed.W_U.T[tokens[part]]
        chosen = torch.einsum("td,td->t", normed[rows[part]], columns)
        logits[part] = _capped(model, chosen + model.unembed.b_U[tokens[part]])
    return logits


def expected_unembedding(
    model: AnyModel, normed: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """Returns the mean unembedding vector of each row, Σ p(token) · W_U[token].

    p are the model's probabilities after the row. `normed` are final residuals after ln_final. All
    logits are in memory at once.
    """
    return unembedded(model, normed).softmax(-1) @ model.unembed.W_U.T.float()


def last_logits(model: AnyModel, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Returns all logits of a few final residuals (before ln_final), in float32."""
    return unembedded(model, final_norm(model, resid))


def unembedded(model: AnyModel, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Returns all logits of a few residuals after ln_final, in float32."""
    return _capped(model, _product(normed, model.unembed.W_U.T, model.unembed.b_U))


class Vocabulary(NamedTuple):
    """A vocabulary, or a part of it, over which probabilities are computed.

    Args:
        ids: the tokens, in ascending order.
        weight, bias: the rows of W_U and the entries of b_U of these tokens.
    """

    ids: Int[Tensor, " word"]
    weight: Float[Tensor, "word d_model"]
    bias: Float[Tensor, " word"]


def whole(model: AnyModel) -> Vocabulary:
    """Returns the model's whole vocabulary."""
    weight, bias = model.unembed.W_U.T, model.unembed.b_U
    return Vocabulary(torch.arange(len(weight), device=weight.device), weight, bias)


@torch.no_grad()
def likeliest(
    model: AnyModel,
    normed: Float[Tensor, "row d_model"],
    always: Int[Tensor, " target"],
    n: int,
) -> Vocabulary:
    """Returns the vocabulary of the `n` likeliest tokens after each row and those of `always`.

    All logits are in memory at once.

    Args:
        normed: final residuals, after ln_final.
    """
    logits = unembedded(model, normed)
    ids = torch.cat([logits.topk(min(n, logits.shape[1])).indices.flatten(), always]).unique()
    return Vocabulary(ids, model.unembed.W_U.T[ids], model.unembed.b_U[ids])


@torch.no_grad()
def losses_and_slope(
    model: AnyModel,
    normed: Float[Tensor, "row d_model"],
    targets: Int[Tensor, " target"],
    shares: Float[Tensor, " target"],
    stay_shares: Float[Tensor, " staying"] | None = None,
    stay: Float[Tensor, "staying vocab"] | None = None,
    divergence: Divergence = "now || before",
    among: Vocabulary | None = None,
) -> tuple[
    Float[Tensor, " target"],
    Float[Tensor, " staying"],
    Float[Tensor, "staying vocab"],
    Float[Tensor, "row d_model"],
]:
    """Computes the loss that editors minimise, and its gradient.

    The loss is Σ share · nll + Σ share · KL, in nats. Its gradient is written out and computed
    in place in one buffer of logits. Autograd would hold five such buffers, and allocating memory
    for a whole vocabulary of logits per row takes as long as computing them.

    Args:
        normed: residuals after ln_final: first one row per target token, then the staying rows,
            whose predictions should not change.
        targets: the target tokens.
        shares: the weight of each target token's negative log-likelihood (nll) in the loss.
        stay_shares: the weight of each staying row's KL in the loss; None: there are no such rows.
        stay: log-probabilities of the staying rows before training; None: the present ones.
        divergence: the direction of the KL divergence.
        among: the tokens among which probabilities are normalised; None: the whole vocabulary.

    Returns:
        The nll of each target; the KL of each staying row; the staying rows' log-probabilities
        before training; and the gradient with respect to `normed`.
    """
    words, n_targets = among or whole(model), len(targets)
    targets = torch.searchsorted(words.ids, targets)
    cap = model.cfg.output_logits_soft_cap
    logits = _capped(model, _product(normed, words.weight, words.bias))
    cap_slope = 1 - (logits / cap) ** 2 if cap > 0 else None  # the derivative of the soft cap
    each = torch.arange(n_targets, device=logits.device)
    chosen, now = logits[each, targets], logits[n_targets:].log_softmax(-1)
    stay = now.clone() if stay is None else stay
    peak = logits.max(-1, keepdim=True).values
    slope = logits.sub_(peak).exp_()
    total = slope.sum(-1, keepdim=True)
    nll = total[:n_targets, 0].log() + peak[:n_targets, 0] - chosen
    scale = torch.ones_like(total)
    scale[:n_targets, 0] = shares
    slope.mul_(scale / total)  # the softmax, times its share
    slope[each, targets] -= shares
    weights = slope.new_zeros(len(now)) if stay_shares is None else stay_shares
    if divergence == "now || before":
        excess = now - stay
        drifted = (now.exp() * excess).sum(-1, keepdim=True)
        slope[n_targets:] *= (excess - drifted) * weights[:, None]
    else:
        then = stay.exp()
        drifted = (then * (stay - now)).sum(-1, keepdim=True)
        slope[n_targets:] -= then
        slope[n_targets:] *= weights[:, None]
    if cap_slope is not None:
        slope.mul_(cap_slope)
    return nll, drifted[:, 0], stay, slope.to(words.weight.dtype) @ words.weight


def _over_vocabulary(
    model: AnyModel, rows: Float[Tensor, "row d_model"], n_tokens: int | None = None
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """The logsumexp of each row's logits and its likeliest token, in chunks of the vocabulary.

    With `n_tokens`, both are of the first tokens of the vocabulary only.
    """
    weight, bias = model.unembed.W_U.T[:n_tokens], model.unembed.b_U[:n_tokens]
    total = highest = best = None
    width = max(1, CHUNK // len(rows))
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = _capped(model, _product(rows, weight[part], bias[part]))
        peak, where = logits.max(-1)
        # in place, which takes half of the time of torch.logsumexp
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
    """F.linear(rows, weight, bias), padded to FEWEST rows, which is faster."""
    if not 1 < len(rows) < FEWEST:
        return F.linear(rows, weight, bias)
    return F.linear(F.pad(rows, (0, 0, 0, FEWEST - len(rows))), weight, bias)[: len(rows)]


def _capped(model: AnyModel, logits: Tensor) -> Tensor:
    """Logits in float32, with the model's soft cap (Gemma 2: cap * tanh(logits / cap))."""
    cap = model.cfg.output_logits_soft_cap
    logits = logits.float()
    return cap * torch.tanh(logits / cap) if cap > 0 else logits
