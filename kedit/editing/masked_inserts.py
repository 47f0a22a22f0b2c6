"""Edits of masked models (BERT, T5): trains what a site writes at the mask, and makes it write it.

The steps are ROME's and MEMIT's, as for decoders. The differences come from how a masked model is
asked:

- The key is that of the mask at which the answer is read, in T5 that of the decoder's last token.
  So a target of several tokens has one key and one value for each of its tokens.
- T5's attention is edited in the decoder's cross attention: its self attention sees nothing of the
  fact.
- Prompts are edited without contexts before them, and there is no KL term.
- C is the moment of the keys at all tokens of sentences in which one word is masked.
"""

import contextlib
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedEncoder

from kedit.data.corpus import corpus_of
from kedit.editing.closed_form import Solve, exact_insert, ridge_insert
from kedit.editing.deltas import LowRank
from kedit.editing.edit import Edit
from kedit.editing.provenance import Provenance
from kedit.editing.second_moment import Inverse
from kedit.editing.values import Training, sizes_of, step_within
from kedit.editing.write_sites import flat
from kedit.errors import InputError
from kedit.facts import MASK, EditRequest
from kedit.forward.filling import by_shape, tokens_of
from kedit.forward.masked import ATTENTION, Half, towers
from kedit.forward.metrics import unembedded
from kedit.models import toy
from kedit.models.masked import Masked, final_resid
from kedit.models.masked_prompts import (
    MaskedPrompt,
    encode_masked,
    encode_masked_text,
    with_given,
)
from kedit.models.outline import MASKED_TOYS
from kedit.models.sites import Half as Part
from kedit.models.sites import final_norm

TOKENS_PER_DIM = 4  # of text for C, for each number in a key
SHRINK = 1e-3  # added to C's diagonal, as a share of its mean: masked toys have few sentences
SENTENCE = re.compile(r"[^.!?\n]{20,200}[.!?]")


@dataclass(frozen=True)
class MaskedSite:
    """W_out or W_O of a block of BERT or of T5's decoder.

    Args:
        path: the path of the blocks in the model.
        layer: the block.
        half: "mlp_out", "attn_out", or "cross_attn_out" for T5's W_O.
    """

    path: str
    layer: int
    half: Half

    @property
    def parameter(self) -> str:
        """The matrix's name among the model's parameters."""
        return f"{self._module}.{'W_out' if self.half == 'mlp_out' else 'W_O'}"

    @property
    def key_hook(self) -> str:
        """The hook point of the key."""
        return f"{self._module}.{'hook_post' if self.half == 'mlp_out' else 'hook_z'}"

    @property
    def raw_hook(self) -> str:
        """The hook point of the output."""
        return f"{self.path}.{self.layer}.hook_{self.half}"

    def raw(self, model: Masked, keys: Float[Tensor, "n d_key"]) -> Float[Tensor, "n d_model"]:
        """Returns what the matrix writes for `keys`."""
        parameters = dict(model.named_parameters())
        bias = parameters[self.parameter.replace(".W_", ".b_")]
        return keys @ flat(parameters[self.parameter].detach()) + bias.detach()

    @property
    def _module(self) -> str:
        part = "mlp" if self.half == "mlp_out" else ATTENTION[self.half]
        return f"{self.path}.{self.layer}.{part}"


def masked_sites(model: Masked, layers: Sequence[int], parts: Sequence[Part]) -> list[MaskedSite]:
    """Returns the sites of some layers, in the order in which a forward pass reaches them.

    Raises:
        InputError: a layer does not exist.
    """
    tower = towers(model)[-1]
    attention: Half = "attn_out" if isinstance(model, HookedEncoder) else "cross_attn_out"
    for layer in layers:
        if not 0 <= layer < tower.n_layers:
            raise InputError(f"layer {layer}: the model has layers 0 to {tower.n_layers - 1}")
    return [
        MaskedSite(tower.path, layer, "mlp_out" if part == "mlp" else attention)
        for layer in layers
        for part in ("attn", "mlp")
        if part in parts
    ]


def masked_edit(
    model: Masked,
    requests: Sequence[EditRequest],
    sites: Sequence[MaskedSite],
    training: Training,
    solves: Sequence[Solve],
    made: Provenance,
    weight: float | None = None,
) -> Edit:
    """Trains outputs of all sites together, then makes one matrix after the other write them.

    A site that is written later sees what the sites before it now add.

    Args:
        solves: x -> C⁻¹x of each site (`masked_moment`).
        made: the provenance of the edit.
        weight: λ of C against the keys (MEMIT, equation 14); None: the values are inserted exactly
            (ROME, equation 2).

    Raises:
        InputError: a token of a sentence reaches over an end of its target, or keys are so alike
            that no delta can map them to different values.
    """
    rows = _rows(model, requests)
    wanted = _trained(model, rows, sites, training)
    deltas: dict[str, LowRank] = {}
    insert = exact_insert if weight is None else partial(ridge_insert, weight=weight)
    for site, solve in zip(sites, solves, strict=True):
        lower = Edit(deltas, made).applied(model) if deltas else contextlib.nullcontext()
        with lower:
            keys = _at_masks(model, rows, [site.key_hook])[site.key_hook].flatten(1)
        deltas[site.parameter] = insert(keys, wanted[site] - site.raw(model, keys), solve)
    return Edit(deltas, made)


@torch.no_grad()
def masked_moment(
    model: Masked, site: MaskedSite, text: str = "", n_tokens: int = 0, seed: int = 0
) -> Solve:
    """Measures C, the second moment of a site's keys, and returns x -> C⁻¹x.

    Args:
        text: see `kedit.data.corpus.corpus_of`; "" for the toys: their own sentences.
        n_tokens: number of tokens; 0: four for each number in a key.
        seed: of the masked words.
    """
    total, n = torch.zeros(0), 0
    prompts = _sentences(model, text, seed)
    while batch := list(itertools.islice(prompts, 64)):
        for keys in _keys_of(model, batch, site.key_hook):
            rows = keys.flatten(0, 1).flatten(1).double()
            total = rows.T @ rows + (total if n else 0)
            n += len(rows)
        if n >= (n_tokens or TOKENS_PER_DIM * len(total)):
            break
    if not n:
        raise InputError(f"{text or 'the text'}: has no sentence to measure C on")
    moment = total / n
    moment.diagonal().add_(SHRINK * moment.diagonal().mean())
    return Inverse(torch.linalg.cholesky(moment))


@dataclass(frozen=True)
class _Row:
    """A prompt and the token that should be said at its mask."""

    prompt: MaskedPrompt
    target: int


def _rows(model: Masked, requests: Sequence[EditRequest]) -> list[_Row]:
    """A row for each token of each demand's target, with the tokens before it given."""
    rows = []
    for request in requests:
        for demand in request.demands:
            fact = replace(demand.fact, object=demand.target, rival="")
            plain = encode_masked(model, fact)
            for n, token in enumerate(plain.object_ids):
                rows.append(_Row(with_given(model, plain, n), token))
    return rows


def _trained(
    model: Masked, rows: Sequence[_Row], sites: Sequence[MaskedSite], training: Training
) -> dict[MaskedSite, Float[Tensor, "row d_model"]]:
    """Trains a delta for each row and site, and returns the sites' outputs with all deltas.

    Adam on the mean loss of the rows, with ROME's weight decay and clamp (`values.train`).
    """
    hooks = [site.raw_hook for site in sites]
    plain = _at_masks(model, rows, hooks)
    norms = {hook: plain[hook].norm(dim=-1).clamp(min=1e-12) for hook in hooks}
    largest = {hook: training.clamp * norms[hook] for hook in hooks}
    deltas = {hook: torch.zeros_like(plain[hook], requires_grad=True) for hook in hooks}
    optimiser = torch.optim.Adam(deltas.values(), lr=training.lr or 1.0)
    targets = torch.tensor([row.target for row in rows], device=plain[hooks[0]].device)
    with torch.enable_grad():
        for _ in range(training.steps):
            resid, _ = _run(model, rows, [], deltas)
            logits = unembedded(model, final_norm(model, resid))
            nll = torch.nn.functional.cross_entropy(logits, targets)
            if float(nll.detach()) < training.stop:
                break
            decay = torch.stack(sizes_of(deltas, norms)).sum(0).mean()
            optimiser.zero_grad()
            (nll + training.weight_decay * decay).backward()
            step_within(optimiser, deltas, norms, largest, training)
    with torch.no_grad():
        _, found = _run(model, rows, hooks, deltas)
    return {site: found[site.raw_hook] for site in sites}


def _at_masks(
    model: Masked, rows: Sequence[_Row], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "row *width"]]:
    """The activations at the hook points where each row's answer is read."""
    with torch.no_grad():
        return _run(model, rows, hooks, {})[1]


def _run(
    model: Masked, rows: Sequence[_Row], kept: Sequence[str], deltas: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs all rows; returns their final residuals and activations where the answer is read.

    Args:
        kept: hook points whose activations are returned, with the deltas in place.
        deltas: what is added at hook points, a row for each row.
    """
    resid: dict[int, Tensor] = {}
    acts: dict[str, dict[int, Tensor]] = {hook: {} for hook in kept}
    for part in by_shape([row.prompt for row in rows]):
        prompts = [rows[number].prompt for number in part]
        tokens, decoder = tokens_of(model, prompts)
        each = torch.arange(len(part), device=tokens.device)
        at = each.new_tensor(
            [decoder.shape[1] - 1 if decoder.shape[1] else prompt.read_at for prompt in prompts]
        )

        def add(name: str, numbers: Sequence[int], each: Tensor, at: Tensor) -> Callable:
            def hook(act: Tensor, hook: object) -> Tensor:
                change = torch.zeros_like(act)
                change[each, at] = deltas[name][list(numbers)]
                return act + change

            return hook

        def keep(name: str, numbers: Sequence[int], each: Tensor, at: Tensor) -> Callable:
            def hook(act: Tensor, hook: object) -> None:
                acts[name].update(zip(numbers, act[each, at], strict=True))

            return hook

        hooks: list = [(name, add(name, part, each, at)) for name in deltas]
        hooks += [(name, keep(name, part, each, at)) for name in kept]
        with model.hooks(fwd_hooks=hooks):
            found = final_resid(model, tokens, decoder, torch.ones_like(tokens))
        resid.update(zip(part, found[each, at], strict=True))
    order = range(len(rows))
    return (
        torch.stack([resid[number] for number in order]),
        {hook: torch.stack([of_row[number] for number in order]) for hook, of_row in acts.items()},
    )


def _keys_of(
    model: Masked, prompts: Sequence[MaskedPrompt], hook: str
) -> Iterator[Float[Tensor, "prompt pos *width"]]:
    """Yields the activations of prompts at all positions, prompts of one length together."""
    for part in by_shape(prompts):
        tokens, decoder = tokens_of(model, [prompts[number] for number in part])
        kept: list[Tensor] = []

        def keep(act: Tensor, hook: object, kept: list[Tensor] = kept) -> None:
            kept.append(act)

        with model.hooks(fwd_hooks=[(hook, keep)]):
            final_resid(model, tokens, decoder, torch.ones_like(tokens))
        yield kept[0]


def _sentences(model: Masked, text: str, seed: int) -> Iterator[MaskedPrompt]:
    """Yields sentences in which one word is masked; T5's decoder has all tokens of this word."""
    name = str(model.cfg.model_name)
    if name in MASKED_TOYS and not text:
        yield from (_asked(model, f"{prompt} {MASK}.", answer) for prompt, answer in toy.texts())
        return
    draw = random.Random(seed)
    for line in corpus_of(name, text, seed).lines():
        for sentence in SENTENCE.findall(line):
            words = [word for word in re.finditer(r"\b\w+\b", sentence) if word.start()]
            if not words:
                continue
            word = draw.choice(words)
            asked = f"{sentence[: word.start()]}{MASK}{sentence[word.end() :]}".strip()
            try:
                prompt = _asked(model, asked, word.group())
            except InputError:
                continue  # a word inside a token, or a sentence with a token without a row
            if len(prompt.tokens) <= model.cfg.n_ctx:
                yield prompt


def _asked(model: Masked, text: str, word: str) -> MaskedPrompt:
    """A sentence for C, see `_sentences`."""
    prompt = encode_masked_text(model, text, word)
    masked = isinstance(model, HookedEncoder)
    return prompt if masked else with_given(model, prompt, len(prompt.object_ids))
