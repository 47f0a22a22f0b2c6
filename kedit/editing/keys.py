"""What an editor reads from the model before it writes: each demand's texts, positions and keys."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.frozen import Row
from kedit.editing.write_sites import WriteSite, read_keys
from kedit.errors import InputError
from kedit.facts import NO_RELATION, Demand, EditRequest
from kedit.forward.packed import is_plain, padded, run_first_layers, unpacked
from kedit.forward.reading import Tokens
from kedit.forward.runs import Run
from kedit.models.prompts import KeyPosition, answer_ids, device, located, plain_ids

TEXTS_PER_BATCH = 256
# after this prompt the next-token distribution should stay as it is (Meng et al. 2022, equation 4)
ESSENCE = "{} is a"
# A first token with a residual so many times as long as those of the other tokens is a sink: it is
# 139 times in SmolLM2 135M and 147 in Qwen2.5-Coder 1.5B.
SINK = 10.0


def groups(model: HookedTransformer, request: EditRequest, where: KeyPosition) -> tuple[int, ...]:
    """Returns the number of the key of each demand in the request.

    Demands whose texts are equal up to the key position have the same key, and one key cannot be
    mapped to two values.

    Raises:
        InputError: a key is read at the first token, and the model uses this token as a sink.
    """
    texts_to_key = []
    for demand in request.demands:
        tokens, pos = located(model, demand.fact, where, demand.mentioned)
        if pos == 0 and first_is_sink(model, tokens):
            raise InputError(
                f"{demand.fact.prompt!r}: the key would be read at the first token, but this "
                "model reads texts without BOS and uses their first token as an attention sink, so "
                "that its keys are almost the same in every text. Most edits there fail, or change "
                "every text: put words before the subject, such as 'In fact, ', or write at "
                "another token (where=last)"
            )
        texts_to_key.append(tokens[: pos + 1])
    distinct = list(dict.fromkeys(texts_to_key))
    return tuple(distinct.index(text) for text in texts_to_key)


def first_is_sink(model: HookedTransformer, tokens: Tokens) -> bool:
    """Returns whether the first token of a prompt has a massive activation in some layer.

    A model that reads texts without BOS turns their first token, whatever it is, into an attention
    sink: a residual of enormous length that hardly depends on the token (Sun et al. 2024, arXiv
    2402.17762). In SmolLM2 135M and Qwen2.5-Coder 1.5B, MLP keys there have a cosine of 1.00
    between any two words from layer 9 and 4 on.

    Args:
        tokens: the prompt's token ids; False if it has only one.
    """
    if len(tokens) == 1:
        return False
    states = Run(torch.tensor([tokens], device=device(model))).states(model)
    lengths = [resid[0].norm(dim=-1) for resid in states.resid[1:]]  # after each layer, of tokens
    return any(bool(length[0] > SINK * length[1:].median()) for length in lengths)


RelationEdit = Literal["right", "upstream"]


def training_rows(
    model: HookedTransformer,
    request: EditRequest,
    contexts: Sequence[str],
    where: KeyPosition,
    upstream_removals: int | None = None,
) -> list[Row]:
    """Returns the texts that a value is trained on: each demand after each context, and "S is a".

    The output after "S is a" should stay the same. This row is added only if the value is written
    at the subject's last token.

    Args:
        contexts: prefixes; "" is the bare prompt.
        where: the key position.
        upstream_removals: None, or train a relation edit as RaKE's code does: one value for both
            demands; the removal after only this many contexts; its target "None" without a blank,
            and the target's loss divided by the number of tokens in the relation's name instead of
            in "None".
    """
    addition, *removals = request.demands
    group_numbers = groups(model, request, where)
    rows = target_rows(model, addition, contexts, where, group_numbers[0])
    for demand, group in zip(removals, group_numbers[1:], strict=True):
        if upstream_removals is None:
            rows += target_rows(model, demand, contexts, where, group)
        else:
            none = plain_ids(model, NO_RELATION)
            name = answer_ids(model, addition.fact.prompt, addition.target)
            rows += target_rows(
                model, demand, contexts[:upstream_removals], where, group_numbers[0], none,
                len(none) / len(name),
            )  # fmt: skip
    if where == "subject_last":
        rows.append(staying_row(model, addition))
    return rows


def written_for(
    model: HookedTransformer, request: EditRequest, where: KeyPosition, one_value: bool
) -> list[Demand]:
    """Returns the demands that get a value each: the first demand of every distinct key.

    Args:
        one_value: whether all demands share one value, even if their keys differ (RaKE's code).
    """
    if one_value:
        return [request.demands[0]]
    group_numbers = groups(model, request, where)
    return [request.demands[group_numbers.index(group)] for group in range(1 + max(group_numbers))]


def target_rows(
    model: HookedTransformer,
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
    group: int,
    targets: Tokens = (),
    weight: float = 1.0,
) -> list[Row]:
    """Returns a training row for the demand after each context.

    Args:
        group: number of the demand's key.
        targets: token ids to train instead of the demand's target.
        weight: of the rows in the loss.
    """
    targets = targets or answer_ids(model, demand.fact.prompt, demand.target)
    rows = []
    for context in contexts:
        tokens, pos = located(model, demand.fact, where, demand.mentioned, context)
        rows.append(Row((*tokens, *targets[:-1]), pos, group, targets, weight))
    return rows


def staying_row(model: HookedTransformer, demand: Demand) -> Row:
    """Returns the row "S is a", whose output should stay; its key position is the subject's."""
    essence = replace(demand.fact, template=ESSENCE, relation_words=())
    return Row(*located(model, essence, "subject_last"))


def key_texts(
    model: HookedTransformer, demand: Demand, contexts: Sequence[str], where: KeyPosition
) -> list[Tokens]:
    """Returns the demand's prompt after each context, up to the key position."""
    found = (located(model, demand.fact, where, demand.mentioned, text) for text in contexts)
    return [tokens[: pos + 1] for tokens, pos in found]


def keys(
    model: HookedTransformer,
    sites: Sequence[WriteSite],
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
) -> Mapping[WriteSite, Float[Tensor, "context d_key"]]:
    """Returns the demand's key at each site after each context."""
    return last_keys(model, sites, key_texts(model, demand, contexts, where))


class LastTokens:
    """Reads keys at the last token of each text, again and again while layers are edited upwards.

    The residual stream before a layer is cached, so the layers below are not run again. Edits of
    this layer and of those above it are seen.

    Args:
        texts: token ids.
        layer: the lowest layer that will be edited or read.
    """

    @torch.no_grad()
    def __init__(self, model: HookedTransformer, texts: Sequence[Tokens], layer: int = 0) -> None:
        self._model, self._layer = model, layer
        self._resids: list[Tensor] = []
        self._last: list[list[int]] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = texts[start : start + TEXTS_PER_BATCH]
            if is_plain(model):
                packed, _, real = run_first_layers(model, batch, layer)
                resid = unpacked(packed, real)
            else:
                rows = padded(batch, device(model))
                resid = model(rows, stop_at_layer=layer, attention_mask=torch.ones_like(rows))
            self._resids.append(resid)
            self._last.append([len(text) - 1 for text in batch])

    def advance(self, layer: int) -> None:
        """Moves the cache up to `layer`. Edits below it that are made later are not seen."""
        self._resids = [self._before(resid, layer) for resid in self._resids]
        self._layer = layer

    def keys(self, sites: Sequence[WriteSite]) -> Mapping[WriteSite, Float[Tensor, "text d_key"]]:
        """Returns the keys at each site, in the model's present state."""
        found = []
        for resid, last in zip(self._resids, self._last, strict=True):
            read = read_keys(self._model, resid, list(sites), self._layer)
            found.append({site: acts[range(len(last)), last] for site, acts in read.items()})
        return {site: torch.cat([part[site] for part in found]) for site in sites}

    def residuals(self, layer: int) -> Float[Tensor, "text d_model"]:
        """Returns the residual stream after `layer`, in the model's present state."""
        return torch.cat(
            [
                self._before(resid, layer + 1)[range(len(last)), last]
                for resid, last in zip(self._resids, self._last, strict=True)
            ]
        )

    @torch.no_grad()
    def _before(self, resid: Tensor, layer: int) -> Float[Tensor, "text pos d_model"]:
        """Runs the model from the cached residual to the one before `layer`."""
        if layer == self._layer:
            return resid
        mask = resid.new_ones(resid.shape[:2], dtype=torch.long)
        return self._model(
            resid, start_at_layer=self._layer, stop_at_layer=layer, attention_mask=mask
        )


def last_keys(
    model: HookedTransformer, sites: Sequence[WriteSite], texts: Sequence[Tokens]
) -> Mapping[WriteSite, Float[Tensor, "text d_key"]]:
    """Returns the key at the last token of each text, at each site."""
    return LastTokens(model, texts).keys(sites)
