"""Measures how an edit changes the model on held-out text: perplexity, and KL per token."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.errors import InputError
from kedit.forward.kept import KeptStates
from kedit.forward.metrics import chosen_logits, expected_unembedding, normalisers, unembedded
from kedit.forward.packed import LayerCache, embedded, empty_cache, is_plain, run_blocks, unpacked
from kedit.models.prompts import bos_ids, device
from kedit.models.sites import norm
from kedit.progress import working

CHUNKS = 8  # chunks in one forward
WINDOW = 128  # tokens per chunk, without BOS
ROWS = 64  # positions whose logits over the vocabulary are in memory at once


@dataclass(frozen=True)
class Baseline:
    """Held-out text with the unedited model's predictions on it.

    Args:
        chunks: tokens of the text; each chunk begins with BOS if the model uses one.
        rows: outputs of ln_final at all positions but the last of each chunk, where the next token
            is known. No edit changes the unembedding that follows, so the logits need not be kept.
        total: logsumexp of the logits of each row.
        nll: negative log-probability of each token except the first of its chunk, in nats.
        expected: `kedit.forward.metrics.expected_unembedding` of each row; None if the model caps
            its logits.
    """

    chunks: Int[Tensor, "chunk pos"]
    rows: Float[Tensor, "row d_model"]
    total: Float[Tensor, " row"]
    nll: Float[Tensor, "chunk predicted"]
    expected: Float[Tensor, "row d_model"] | None


@dataclass(frozen=True)
class Drift:
    """Surprise before and after an edit on the same text, and the KL divergence between them.

    Args:
        before, after: mean negative log-probability per token of each chunk, in nats.
        kl: mean KL(before ‖ after) per token of each chunk, in nats.
    """

    before: Float[Tensor, " chunk"]
    after: Float[Tensor, " chunk"]
    kl: Float[Tensor, " chunk"]

    @property
    def perplexity(self) -> tuple[float, float]:
        """Perplexity before and after: exp of the mean negative log-probability."""
        # float64: in float32 the perplexity of a destroyed model, above e^88, would be infinite
        return float(self.before.double().mean().exp()), float(self.after.double().mean().exp())


def held_out(
    model: HookedTransformer,
    source: str,
    n_chunks: int = 16,
    seed: int = 0,
    chunk_tokens: int = WINDOW,
) -> Int[Tensor, "chunk pos"]:
    """Returns chunks of a held-out text, each with BOS if the model uses one.

    The chunks of a file are spread evenly over it; those of a data set of the hub or of sampled
    text are its first ones.

    Args:
        source, seed: see `kedit.data.corpus.corpus_of`; "" for the held-out part of kedit's text.
        n_chunks: number of chunks, at most; a short file has fewer.
        chunk_tokens: tokens per chunk, without BOS; at most what fits the model's context.

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
            raise InputError(f"{corpus.name}: needs at least {chunk_tokens} tokens")
        return torch.tensor(rows, device=device(model))
    ids = list(itertools.chain.from_iterable(corpus.token_ids(model)))
    n_chunks = min(n_chunks, len(ids) // chunk_tokens)
    if n_chunks == 0:
        raise InputError(f"{corpus.name}: has {len(ids)} tokens, needs at least {chunk_tokens}")
    stride = len(ids) // n_chunks
    rows = [[*start, *ids[n * stride : n * stride + chunk_tokens]] for n in range(n_chunks)]
    return torch.tensor(rows, device=device(model))


@torch.no_grad()
def baseline(model: HookedTransformer, chunks: Int[Tensor, "chunk pos"]) -> Baseline:
    """Computes the predictions of the unedited `model` on the text."""
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
    """Computes `Baseline.nll` alone, without `Baseline.expected`, which takes most of the time."""
    return _likelihood(model, _normed(model, _resid(model, chunks)), chunks)[1]


@torch.no_grad()
def drift(model: HookedTransformer, before: Baseline, kept: KeptStates | None = None) -> Drift:
    """Compares the edited `model` with the baseline on the same text.

    Args:
        kept: states of the text in the layers below the lowest edited one.
    """
    rows = _normed(model, _resid(model, before.chunks, kept))
    total, nll = _likelihood(model, rows, before.chunks)
    kl = _divergence(model, before, rows, total).view(nll.shape)
    return Drift(before.nll.mean(1), nll.mean(1), kl.mean(1))


def _resid(
    model: HookedTransformer, chunks: Int[Tensor, "chunk pos"], kept: KeptStates | None = None
) -> Float[Tensor, "chunk pos d_model"]:
    """Runs the model on the chunks, up to the residual stream before ln_final."""
    if not is_plain(model):
        return torch.cat([_lens_resid(model, part) for part in chunks.split(CHUNKS)])
    return torch.cat([_packed_resid(model, part, kept) for part in chunks.split(CHUNKS)])


def _packed_resid(
    model: HookedTransformer, chunks: Int[Tensor, "chunk pos"], kept: KeptStates | None
) -> Float[Tensor, "chunk pos d_model"]:
    """The same as `_lens_resid`, packed: for models with plain attention and without hooks."""
    mask, real = torch.ones_like(chunks), torch.ones_like(chunks, dtype=torch.bool)

    def run(resid: Tensor | None, layers: range) -> tuple[Tensor, LayerCache, LayerCache]:
        resid = embedded(model, chunks, mask, real) if resid is None else resid
        past = empty_cache(model, len(chunks), layers)
        return run_blocks(model, layers, resid, past, past, mask, real)

    layer, resid = 0, None
    if kept:
        text = ("text", tuple(map(tuple, chunks.tolist())))
        layer, resid, _, _ = kept.below(model, text, run, cache=False)
    return unpacked(run(resid, range(layer, model.cfg.n_layers))[0], real)


def _lens_resid(
    model: HookedTransformer, chunks: Int[Tensor, "chunk pos"]
) -> Float[Tensor, "chunk pos d_model"]:
    """The final residuals of a few chunks, by HookedTransformer's own forward."""
    return model(
        chunks,
        stop_at_layer=model.cfg.n_layers,
        # without it, TransformerLens takes tokens that equal the padding token for padding
        attention_mask=torch.ones_like(chunks),
    )


def _normed(
    model: HookedTransformer, resid: Float[Tensor, "chunk pos d_model"]
) -> Float[Tensor, "row d_model"]:
    """Applies ln_final at all positions but the last of each chunk, which has no next token."""
    return norm(model.ln_final, resid[:, :-1].flatten(0, 1)[None])[0]


def _likelihood(
    model: HookedTransformer, rows: Float[Tensor, "row d_model"], chunks: Int[Tensor, "chunk pos"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "chunk predicted"]]:
    """Returns logsumexp of each row's logits and negative log-probability of the next token."""
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
    """Computes KL(before ‖ now) of each row.

    The logits are linear in the output h of ln_final. With the probabilities p of the unedited
    model, therefore

        KL = (h_before − h_now) · Σ p(v) W_U[v] − (logsumexp_before − logsumexp_now)

    Here only logsumexp_now needs the edited model's logits over the vocabulary; the sum over v and
    logsumexp_before are in the baseline. Capped logits (Gemma 2) are not linear in h, so both
    distributions are computed in full.
    """
    if before.expected is not None:
        moved = ((before.rows - rows).double() * before.expected.double()).sum(-1)
        return (moved - (before.total.double() - total.double())).clamp(min=0).float()
    kl = torch.empty(len(rows), device=rows.device)
    for part in torch.arange(len(rows), device=rows.device).split(ROWS):
        old, new = (
            unembedded(model, outputs[part]).log_softmax(-1) for outputs in (before.rows, rows)
        )
        kl[part] = (old.exp() * (old - new)).sum(-1)
    return kl
