"""How far an edit moves the model on text that has nothing to do with it."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.errors import InputError
from kedit.forward.metrics import chosen_logits, expected_unembedding, normalisers, unembedded
from kedit.models.prompts import bos_ids, device
from kedit.models.sites import norm
from kedit.progress import working

WINDOW = 128  # tokens a chunk, BOS not counted
ROWS = 64  # positions whose logits over the vocabulary lie in memory at once


@dataclass(frozen=True)
class Baseline:
    """Held-out text, and what the unedited model makes of it.

    Args:
        chunks: tokens, each chunk with BOS where the model wants one.
        rows: behind ln_final, wherever a token is predicted; an edit leaves what follows as it is.
        total: logsumexp of the logits there.
        nll: negative log-probability of every token but each chunk's first, in nats.
        expected: `kedit.forward.metrics.expected_unembedding` of each row; None where logits are
            capped.
    """

    chunks: Int[Tensor, "chunk pos"]
    rows: Float[Tensor, "row d_model"]
    total: Float[Tensor, " row"]
    nll: Float[Tensor, "chunk predicted"]
    expected: Float[Tensor, "row d_model"] | None


@dataclass(frozen=True)
class Drift:
    """Before and after, on the same text.

    Args:
        before, after: each chunk's mean negative log-probability a token, in nats.
        kl: each chunk's mean KL(before ‖ after) a token, in nats.
    """

    before: Float[Tensor, " chunk"]
    after: Float[Tensor, " chunk"]
    kl: Float[Tensor, " chunk"]

    @property
    def perplexity(self) -> tuple[float, float]:
        """exp of the mean negative log-probability, before and after."""
        return float(self.before.mean().exp()), float(self.after.mean().exp())


def held_out(
    model: HookedTransformer,
    source: str,
    n_chunks: int = 16,
    seed: int = 0,
    chunk_tokens: int = WINDOW,
) -> Int[Tensor, "chunk pos"]:
    """Chunks of `chunk_tokens` tokens of a text: evenly over a file, else its first ones.

    Args:
        source, seed: as `kedit.data.corpus.corpus_of` has them; "" for the part of kedit's text
            that is held out.

    Raises:
        InputError: the text cannot be read, or is too short for one chunk.
    """
    start = bos_ids(model)
    chunk_tokens = min(chunk_tokens, model.cfg.n_ctx - len(start))
    corpus = corpus_of(str(model.cfg.model_name), source, seed, held_out=True)
    if corpus.file is None:
        with working(f"reading {corpus.name}"):
            rows = list(itertools.islice(corpus.chunks(model, chunk_tokens), n_chunks))
        if not rows:
            raise InputError(f"{corpus.name}: at least {chunk_tokens} tokens are wanted")
        return torch.tensor(rows, device=device(model))
    ids = list(itertools.chain.from_iterable(corpus.token_ids(model)))
    n_chunks = min(n_chunks, len(ids) // chunk_tokens)
    if n_chunks == 0:
        raise InputError(f"{corpus.name}: {len(ids)} tokens, at least {chunk_tokens} are wanted")
    stride = len(ids) // n_chunks
    rows = [[*start, *ids[n * stride : n * stride + chunk_tokens]] for n in range(n_chunks)]
    return torch.tensor(rows, device=device(model))


@torch.no_grad()
def baseline(model: HookedTransformer, chunks: Int[Tensor, "chunk pos"]) -> Baseline:
    """What `model`, not yet edited, makes of the text."""
    resid = _resid(model, chunks)
    rows = _normed(model, resid)
    total, nll = _likelihood(model, rows, chunks)
    parts = rows.split(ROWS) if model.cfg.output_logits_soft_cap <= 0 else ()
    expected = [expected_unembedding(model, part) for part in parts]
    return Baseline(chunks, rows, total, nll, torch.cat(expected) if expected else None)


@torch.no_grad()
def surprise(
    model: HookedTransformer, chunks: Int[Tensor, "chunk pos"]
) -> Float[Tensor, "chunk predicted"]:
    """What a `Baseline` has as nll, for those who need no more: KL's part is the longest."""
    return _likelihood(model, _normed(model, _resid(model, chunks)), chunks)[1]


@torch.no_grad()
def drift(model: HookedTransformer, before: Baseline) -> Drift:
    """What the edited `model` makes of the same text."""
    rows = _normed(model, _resid(model, before.chunks))
    total, nll = _likelihood(model, rows, before.chunks)
    kl = _divergence(model, before, rows, total).view(nll.shape)
    return Drift(before.nll.mean(1), nll.mean(1), kl.mean(1))


def _resid(model: HookedTransformer, chunks: Tensor) -> Float[Tensor, "chunk pos d_model"]:
    return torch.cat(
        [
            model(
                part,
                stop_at_layer=model.cfg.n_layers,
                attention_mask=torch.ones_like(part),  # else guessed from padding tokens
            )
            for part in chunks.split(8)
        ]
    )


def _normed(
    model: HookedTransformer, resid: Float[Tensor, "chunk pos d_model"]
) -> Float[Tensor, "row d_model"]:
    """Behind ln_final, where a token is predicted: everywhere but at the last of each chunk."""
    return norm(model.ln_final, resid[:, :-1].flatten(0, 1)[None])[0]


def _likelihood(
    model: HookedTransformer, rows: Float[Tensor, "row d_model"], chunks: Int[Tensor, "chunk pos"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "chunk predicted"]]:
    """logsumexp of each row's logits, and negative log-probability of the token behind it."""
    total, _ = normalisers(model, rows)
    each = torch.arange(len(rows), device=rows.device)
    nll = total - chosen_logits(model, rows, each, chunks[:, 1:].flatten())
    return total, nll.view(len(chunks), -1)


def _divergence(
    model: HookedTransformer,
    before: Baseline,
    rows: Float[Tensor, "row d_model"],
    total: Float[Tensor, " row"],
) -> Float[Tensor, " row"]:
    """KL(before ‖ now) of each row.

    Logits are linear in what is behind ln_final, so that with p of the unedited model

        KL = (h_before − h_now) · Σ p(v) W_U[v] − (logsumexp_before − logsumexp_now)

    in which only the last number is one over the vocabulary. Capped logits (Gemma 2) are not.
    """
    if before.expected is not None:
        moved = ((before.rows - rows).double() * before.expected.double()).sum(-1)
        return (moved - (before.total.double() - total.double())).clamp(min=0).float()
    kl = torch.empty(len(rows), device=rows.device)
    for part in torch.arange(len(rows), device=rows.device).split(ROWS):
        then, now = (unembedded(model, one[part]).log_softmax(-1) for one in (before.rows, rows))
        kl[part] = (then.exp() * (then - now)).sum(-1)
    return kl
