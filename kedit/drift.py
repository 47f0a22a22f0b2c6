"""How far an edit moves the model on text that has nothing to do with it."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.metrics import last_logits
from kedit.prompts import bos_ids, device
from kedit.text import Corpus

WINDOW = 128  # tokens a chunk, BOS not counted
ROWS = 64  # positions whose logits over the vocabulary lie in memory at once
KEPT_BYTES = 2**28  # of the unedited model's log-probabilities


@dataclass(frozen=True)
class Baseline:
    """Held-out text, and what the unedited model makes of it.

    Args:
        chunks: tokens, each chunk with BOS where the model wants one.
        resid: final residuals before ln_final; an edit leaves what comes after them as it is.
        nll: negative log-probability of every token but each chunk's first, in nats.
        logprobs: of the whole vocabulary, for the first places of all; the others' are worked out
            anew, for they would take too much memory.
    """

    chunks: Int[Tensor, "chunk pos"]
    resid: Float[Tensor, "chunk pos d_model"]
    nll: Float[Tensor, "chunk predicted"]
    logprobs: Float[Tensor, "kept vocab"]


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
    model: HookedTransformer, source: str, n_chunks: int = 16, seed: int = 0
) -> Int[Tensor, "chunk pos"]:
    """Chunks of WINDOW tokens of a `kedit.text.Corpus`: evenly over a file, else its first ones.

    Raises:
        InputError: the text cannot be read, or is too short for one chunk.
    """
    start = bos_ids(model)
    window = min(WINDOW, model.cfg.n_ctx - len(start))
    corpus = Corpus(source, seed)
    if not corpus.is_file:
        rows = list(itertools.islice(corpus.chunks(model, window), n_chunks))
        if not rows:
            raise InputError(f"--text {source}: at least {window} tokens are wanted")
        return torch.tensor(rows, device=device(model))
    ids = list(itertools.chain.from_iterable(corpus.token_ids(model)))
    n_chunks = min(n_chunks, len(ids) // window)
    if n_chunks == 0:
        raise InputError(f"--text {source}: {len(ids)} tokens, at least {window} are wanted")
    stride = len(ids) // n_chunks
    rows = [[*start, *ids[n * stride : n * stride + window]] for n in range(n_chunks)]
    return torch.tensor(rows, device=device(model))


@torch.no_grad()
def baseline(model: HookedTransformer, chunks: Int[Tensor, "chunk pos"]) -> Baseline:
    """What `model`, not yet edited, makes of the text."""
    resid = _resid(model, chunks)
    n_kept = KEPT_BYTES // (4 * model.cfg.d_vocab) // ROWS * ROWS
    rows = resid[:, :-1].flatten(0, 1)[:n_kept].split(ROWS)
    parts = [last_logits(model, part).log_softmax(-1) for part in rows]
    logprobs = torch.cat(parts) if parts else torch.empty(0, model.cfg.d_vocab).to(resid.device)
    unmeasured = torch.empty(len(chunks), 0, device=resid.device)
    nll, _ = _compared(model, Baseline(chunks, resid, unmeasured, logprobs), resid)
    return Baseline(chunks, resid, nll, logprobs)


@torch.no_grad()
def drift(model: HookedTransformer, before: Baseline) -> Drift:
    """What the edited `model` makes of the same text."""
    resid = _resid(model, before.chunks)
    nll, kl = _compared(model, before, resid)
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


def _compared(
    model: HookedTransformer, before: Baseline, resid: Float[Tensor, "chunk pos d_model"]
) -> tuple[Float[Tensor, "chunk predicted"], Float[Tensor, "chunk predicted"]]:
    """Each token's negative log-probability, and KL(before ‖ now) where it is predicted."""
    rows, targets = resid[:, :-1].flatten(0, 1), before.chunks[:, 1:].flatten()
    old = before.resid[:, :-1].flatten(0, 1)
    nll, kl = torch.empty(2, len(rows), device=rows.device)
    for part in torch.arange(len(rows), device=rows.device).split(ROWS):
        now = last_logits(model, rows[part]).log_softmax(-1)
        nll[part] = -now.gather(1, targets[part, None])[:, 0]
        kept = before.logprobs[part[0] : part[-1] + 1]
        then = kept if len(kept) == len(part) else last_logits(model, old[part]).log_softmax(-1)
        kl[part] = (then.exp() * (then - now)).sum(-1)
    shape = (len(resid), resid.shape[1] - 1)
    return nll.view(shape), kl.view(shape)
