"""Many prompts of different lengths in one forward, and what follows each of them in the next.

Prompts are padded on the right, so that causality alone keeps the padding out and positions stay
what they are. Before anything follows, each prompt's keys and values move up to the right edge: the
gap is then at the left, and masked.

Blocks that hold nothing out of the ordinary, and no hooks, are run by fused kernels over
HookedTransformer's own weights; all others, and a model that live hooks patch or ablate, by
HookedTransformer itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache

from kedit.forward.openings import Tokens, shared_openings
from kedit.forward.packed import (
    LayerCache,
    embedded,
    empty_cache,
    is_plain,
    padded,
    run_blocks,
    to_right,
    unpacked,
)
from kedit.forward.patched import max_tokens
from kedit.models.prompts import device

CACHE_BYTES = 2**29  # keys and values held at once
TOGETHER = 4096  # tokens in one forward: more gains nothing


@dataclass(frozen=True)
class Reading:
    """Prompts that were read.

    Args:
        last: the final residual (before ln_final) at each prompt's last token.
        keys, values: by layer; prompts end at the last position. What they hold is the business of
            who made them: fused attention keeps rotated keys, HookedTransformer unrotated ones.
        mask: 1 where there is a token, 0 in the gap at the left.
    """

    last: Float[Tensor, "prompt d_model"]
    keys: LayerCache
    values: LayerCache
    mask: Int[Tensor, "prompt pos"]

    def rows(self, index: Int[Tensor, " row"]) -> "Reading":
        """These prompts only, in this order; a prompt may be there several times."""
        return Reading(
            self.last[index],
            tuple(keys[index] for keys in self.keys),
            tuple(values[index] for values in self.values),
            self.mask[index],
        )


def batches(
    model: HookedTransformer, lengths: Sequence[int], behind: int = 0
) -> Iterator[list[int]]:
    """Indices of prompts to read together, in the order given, as many as memory takes.

    Args:
        behind: tokens that stand before each of them already.
    """
    cfg = model.cfg
    a_token = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head * 4  # bytes
    budget = min(TOGETHER, max_tokens(model, cfg.n_ctx), max(64, CACHE_BYTES // a_token))
    batch: list[int] = []
    widest = 0
    for index, length in enumerate(lengths):
        widest = max(widest, length + behind)
        if batch and (len(batch) + 1) * widest > budget:
            yield batch
            batch, widest = [], length + behind
        batch.append(index)
    if batch:
        yield batch


def nearness(prompt: Tokens) -> tuple[int, Tokens]:
    """What to sort prompts by for `batches`: similar lengths, then equal openings together."""
    return len(prompt) // 8, prompt


@torch.no_grad()
def read(model: HookedTransformer, prompts: Sequence[Tokens]) -> Reading:
    """All `prompts` (use `batches` to bound them); what many of them open with is read once."""
    place = device(model)
    groups = shared_openings(prompts)
    empty_cache = _nothing(model, len(groups), place)
    openings = [prompts[members[0]][:length] for length, members in groups]
    opened = _read_behind(model, empty_cache, openings) if any(openings) else empty_cache
    group_of = {index: group for group, (_, members) in enumerate(groups) for index in members}
    before = opened.rows(torch.tensor([group_of[index] for index in range(len(prompts))]))
    tails = [prompt[groups[group_of[index]][0] :] for index, prompt in enumerate(prompts)]
    return _read_behind(model, before, tails)


def _read_behind(model: HookedTransformer, before: Reading, rows: Sequence[Tokens]) -> Reading:
    """The reading of `rows` of any lengths, each behind its own past."""
    place = before.mask.device
    tokens = padded(rows, place)
    lengths = torch.tensor([len(row) for row in rows], device=place)
    resid, whole = _forward(model, before, tokens, lengths)
    # what is padding at the right becomes the gap at the left, which repeats the start
    padding = (tokens.shape[1] - lengths)[:, None]
    positions = torch.arange(whole.mask.shape[1], device=place)
    source = (positions - padding).clamp(min=0)
    return Reading(
        resid[torch.arange(len(tokens), device=place), lengths - 1],
        to_right(whole.keys, source),
        to_right(whole.values, source),
        torch.take_along_dim(whole.mask, source, 1) * (positions >= padding),
    )


@torch.no_grad()
def read_on(
    model: HookedTransformer, reading: Reading, tokens: Int[Tensor, "prompt new"]
) -> tuple[Float[Tensor, "prompt new d_model"], Reading]:
    """Final residuals of `tokens` behind each prompt, and the reading that includes them.

    Padding at the right of `tokens` harms no residual before it, but is part of the new reading.
    """
    lengths = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    return _forward(model, reading, tokens, lengths)


def _nothing(model: HookedTransformer, n_rows: int, place: torch.device) -> Reading:
    """Before the first token."""
    cfg = model.cfg
    empty = empty_cache(model, n_rows, range(cfg.n_layers))
    return Reading(
        torch.empty(n_rows, cfg.d_model, device=place, dtype=cfg.dtype),
        empty,
        empty,
        torch.ones(n_rows, 0, dtype=torch.long, device=place),
    )


def _forward(
    model: HookedTransformer,
    before: Reading,
    tokens: Int[Tensor, "row new"],
    lengths: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "row new d_model"], Reading]:
    """Residuals (of padding behind `lengths`: anything), and keys and values, padding's too."""
    mask = torch.cat([before.mask, torch.ones_like(tokens)], 1)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    if not is_plain(model):
        # of an empty row too there has to be a token: softmax over none gives NaN
        real = columns < lengths[:, None].clamp(min=1)
        return _by_its_own_blocks(model, before, tokens, mask, real)
    real = columns < lengths[:, None]
    resid = embedded(model, tokens, mask, real)
    layers = range(model.cfg.n_layers)
    packed, keys, values = run_blocks(model, layers, resid, before.keys, before.values, mask, real)
    final = unpacked(packed, real)
    return final, Reading(final[:, -1], keys, values, mask)


def _by_its_own_blocks(
    model: HookedTransformer,
    before: Reading,
    tokens: Int[Tensor, "row new"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
) -> tuple[Float[Tensor, "row new d_model"], Reading]:
    """`_forward` as HookedTransformer does it: any family, hooks run."""
    past = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, batch_size=len(tokens))
    for entry, keys, values in zip(past.entries, before.keys, before.values, strict=True):
        entry.past_keys, entry.past_values = keys, values
    past.previous_attention_mask = before.mask
    resid = model(
        tokens,
        past_kv_cache=past,
        # without padding, whose positions may lie beyond the context; else guessed from tokens
        attention_mask=real.long(),
        stop_at_layer=model.cfg.n_layers,
    )
    return resid, Reading(
        resid[:, -1],
        tuple(entry.past_keys for entry in past.entries),
        tuple(entry.past_values for entry in past.entries),
        mask,
    )
