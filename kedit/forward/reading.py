"""Reads many prompts of different lengths together, and continues each of them.

What is read once: equal prompts are read once if the caller passes them once (`likelihoods` does);
the opening that a group of prompts shares is read once (`shared_openings`); and a prompt's keys and
values are kept in its `Reading`, so that any number of answers can continue it without reading the
prompt again.

Prompts are padded at the right. Attention is causal, so no token attends to the padding, and
positions are not shifted. Before the prompts are continued, their keys and values move to the right
edge (`to_right` in packed.py has a sketch). The gap is then at the left, and masked.

With `kept` (`kedit.forward.kept`), prompts that were read before are read from the lowest edited
layer on. The results are equal to the bit.

Models with plain attention and without live hooks run on the packed forward
(`kedit.forward.packed`). All others, and models that hooks patch or ablate, run on
HookedTransformer's own forward.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache

from kedit.batching import FEWEST
from kedit.forward.kept import KeptStates
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

CACHE_BYTES = 2**29  # most bytes of keys and values in memory at once
TOKENS_PER_BATCH = 4096  # most tokens in one forward: larger batches are not faster
Continuation = tuple[int, Tokens]  # the row of its prompt in a reading, and the tokens after it


@dataclass(frozen=True)
class Reading:
    """The result of reading prompts, from which they can be continued.

    Args:
        last: the final residual (before ln_final) at each prompt's last token.
        keys, values: by layer; each prompt ends at the last column. Keys are rotated if the packed
            forward made them, and unrotated if HookedTransformer did: only the forward that made a
            reading can continue it.
        mask: 1 at tokens, 0 in the gap at the left.
        prompts: the prompts, if this is the reading of whole prompts that `read` returned.
    """

    last: Float[Tensor, "prompt d_model"]
    keys: LayerCache
    values: LayerCache
    mask: Int[Tensor, "prompt pos"]
    prompts: tuple[Tokens, ...] = ()

    def rows(self, index: Int[Tensor, " row"]) -> "Reading":
        """Returns the reading of these prompts, in this order; a prompt may occur several times."""
        return Reading(
            self.last[index],
            tuple(keys[index] for keys in self.keys),
            tuple(values[index] for values in self.values),
            self.mask[index],
        )


def batches(
    model: HookedTransformer, lengths: Sequence[int], n_past: int = 0
) -> Iterator[list[int]]:
    """Divides prompts, in the given order, into batches that fit in memory.

    Args:
        lengths: number of tokens of each prompt.
        n_past: number of tokens that come before each of them and are read already.

    Yields:
        The indices of the prompts of each batch.
    """
    cfg = model.cfg
    token_bytes = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head * 4
    budget = min(
        TOKENS_PER_BATCH, max_tokens(model, cfg.n_ctx), max(FEWEST, CACHE_BYTES // token_bytes)
    )
    batch: list[int] = []
    widest = 0
    for index, length in enumerate(lengths):
        widest = max(widest, length + n_past)
        if batch and (len(batch) + 1) * widest > budget:
            yield batch
            batch, widest = [], length + n_past
        batch.append(index)
    if batch:
        yield batch


def nearness(prompt: Tokens) -> tuple[int, Tokens]:
    """Returns a sorting key for `batches`: similar lengths first, then equal openings together."""
    return len(prompt) // 8, prompt


@torch.no_grad()
def read(
    model: HookedTransformer, prompts: Sequence[Tokens], kept: KeptStates | None = None
) -> Reading:
    """Reads `prompts` in one batch (use `batches` to bound it); shared openings are read once.

    Args:
        kept: states of the layers below the lowest edited one, which need not run again.
    """
    groups = shared_openings(prompts)
    nothing = _empty_reading(model, len(groups))
    openings = [prompts[members[0]][:length] for length, members in groups]
    whole = tuple(prompts)
    opened = (
        _read_after(model, nothing, openings, kept, ("openings", whole))
        if any(openings)
        else nothing
    )
    group_of = {index: group for group, (_, members) in enumerate(groups) for index in members}
    row_of = [group_of[index] for index in range(len(prompts))]
    before = opened.rows(torch.tensor(row_of, device=opened.last.device))
    tails = [prompt[groups[group_of[index]][0] :] for index, prompt in enumerate(prompts)]
    return replace(_read_after(model, before, tails, kept, ("tails", whole)), prompts=whole)


def _read_after(
    model: HookedTransformer,
    before: Reading,
    rows: Sequence[Tokens],
    kept: KeptStates | None,
    text: Hashable,
) -> Reading:
    """The reading of `rows`, which may differ in length, each after its row of `before`."""
    on = before.mask.device
    tokens = padded(rows, on)
    lengths = torch.tensor([len(row) for row in rows], device=on)
    resid, unaligned = _forward(model, before, tokens, lengths, kept, text)
    # The padding at the right becomes a part of the gap at the left. There, column 0 is repeated:
    # any finite keys and values will do.
    padding = (tokens.shape[1] - lengths)[:, None]
    columns = torch.arange(unaligned.mask.shape[1], device=on)
    source = (columns - padding).clamp(min=0)
    return Reading(
        resid[torch.arange(len(tokens), device=on), lengths - 1],
        to_right(unaligned.keys, source),
        to_right(unaligned.values, source),
        torch.take_along_dim(unaligned.mask, source, 1) * (columns >= padding),
    )


@torch.no_grad()
def read_on(
    model: HookedTransformer, reading: Reading, rows: Sequence[Tokens]
) -> tuple[Float[Tensor, "prompt new d_model"], Reading]:
    """Continues each prompt by its row of `rows`, of at least one token each.

    Returns:
        The final residuals of the new tokens, padded at the right, and the reading that includes
        them. It can be continued only if all rows have the same length.
    """
    tokens = padded(rows, reading.mask.device)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return _forward(model, reading, tokens, lengths)


@torch.no_grad()
def read_some(
    model: HookedTransformer,
    reading: Reading,
    continuations: Sequence[Continuation],
    chosen: Sequence[int],
    kept: KeptStates | None = None,
) -> Float[Tensor, "chosen new d_model"]:
    """Reads some of the texts that may continue the prompts; returns the new tokens' residuals.

    Args:
        continuations: all texts that may be chosen, under any edit: with `kept`, all of them pass
            the layers below the lowest edited one, once, and only the chosen ones the layers above.
        chosen: the numbers of those that are read.
    """
    if kept is None or not reading.prompts or not is_plain(model):
        rows = torch.tensor([continuations[n][0] for n in chosen], device=reading.mask.device)
        return read_on(model, reading.rows(rows), [continuations[n][1] for n in chosen])[0]
    on = reading.mask.device
    rows = torch.tensor([row for row, _ in continuations], device=on)
    tokens = padded([each for _, each in continuations], on)
    lengths = torch.tensor([len(each) for _, each in continuations], device=on)
    real = torch.arange(tokens.shape[1], device=on) < lengths[:, None]

    def run(
        resid: Tensor | None, layers: range, of: Tensor | slice = slice(None)
    ) -> tuple[Tensor, LayerCache, LayerCache]:
        mask = torch.cat([reading.mask[rows[of]], torch.ones_like(tokens[of])], 1)
        resid = embedded(model, tokens[of], mask, real[of]) if resid is None else resid
        keys, values = (
            tuple(cache[layer][rows[of]] for layer in layers)
            for cache in (reading.keys, reading.values)
        )
        return run_blocks(model, layers, resid, keys, values, mask, real[of])

    text = ("continuations", reading.prompts, tuple(continuations))
    layer, resid, _, _ = kept.below(model, text, run, cache=False)
    of = torch.tensor(chosen, device=on)
    resid = unpacked(resid, real)[of][real[of]]
    return unpacked(run(resid, range(layer, model.cfg.n_layers), of)[0], real[of])


def _empty_reading(model: HookedTransformer, n_rows: int) -> Reading:
    """The reading of empty prompts, which the first tokens continue."""
    cfg, on = model.cfg, device(model)
    empty = empty_cache(model, n_rows, range(cfg.n_layers))
    return Reading(
        torch.empty(n_rows, cfg.d_model, device=on, dtype=cfg.dtype),
        empty,
        empty,
        torch.ones(n_rows, 0, dtype=torch.long, device=on),
    )


def _forward(
    model: HookedTransformer,
    before: Reading,
    tokens: Int[Tensor, "row new"],
    lengths: Int[Tensor, " row"],
    kept: KeptStates | None = None,
    text: Hashable = None,
) -> tuple[Float[Tensor, "row new d_model"], Reading]:
    """The final residuals of `tokens` after `before`, and the reading with keys and values of all.

    Only the first `lengths` tokens of each row are not padding. The residuals, keys and values of
    padding are arbitrary. In `kept`, the states of `tokens` after `before` are called `text`.
    """
    mask = torch.cat([before.mask, torch.ones_like(tokens)], 1)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    if not is_plain(model):
        # at least one token per row, even in empty rows: a softmax over no token gives NaN
        real = columns < lengths[:, None].clamp(min=1)
        return _lens_forward(model, before, tokens, mask, real)
    real = columns < lengths[:, None]

    def run(resid: Tensor | None, layers: range) -> tuple[Tensor, LayerCache, LayerCache]:
        resid = embedded(model, tokens, mask, real) if resid is None else resid
        keys, values = (cache[layers.start : layers.stop] for cache in (before.keys, before.values))
        return run_blocks(model, layers, resid, keys, values, mask, real)

    if kept is None:
        packed, keys, values = run(None, range(model.cfg.n_layers))
    else:
        layer, resid, keys, values = kept.below(model, text, run)
        packed, *above = run(resid, range(layer, model.cfg.n_layers))
        keys, values = keys + above[0], values + above[1]
    final = unpacked(packed, real)
    return final, Reading(final[:, -1], keys, values, mask)


def _lens_forward(
    model: HookedTransformer,
    before: Reading,
    tokens: Int[Tensor, "row new"],
    mask: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row new"],
) -> tuple[Float[Tensor, "row new d_model"], Reading]:
    """The same as `_forward`, by HookedTransformer itself: for any family, and with its hooks."""
    past = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, batch_size=len(tokens))
    for entry, keys, values in zip(past.entries, before.keys, before.values, strict=True):
        entry.past_keys, entry.past_values = keys, values
    past.previous_attention_mask = before.mask
    resid = model(
        tokens,
        past_kv_cache=past,
        # given explicitly, or TransformerLens would guess it from tokens that look like padding;
        # 0 at padding, whose positions may lie beyond the context
        attention_mask=real.long(),
        stop_at_layer=model.cfg.n_layers,
    )
    return resid, Reading(
        resid[:, -1],
        tuple(entry.past_keys for entry in past.entries),
        tuple(entry.past_values for entry in past.entries),
        mask,
    )
