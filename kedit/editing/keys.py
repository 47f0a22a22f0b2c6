"""What an editor asks the model before it writes: texts, positions and keys of each demand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.values import Row
from kedit.editing.write_sites import WriteSite, read_keys
from kedit.facts import NO_RELATION, Demand, EditRequest
from kedit.forward.packed import is_plain, padded, run_first_layers, unpacked
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, answer_ids, device, located, plain_ids

TOGETHER = 256  # texts in one forward
ESSENCE = "{} is a"  # whose next-token distribution is to stay (Meng et al. 2022, equation 4)


def groups(model: HookedTransformer, request: EditRequest, where: KeyPosition) -> tuple[int, ...]:
    """For each of the request's demands, the number of its key: equal texts up to the position
    have one key, and one key cannot write two things.
    """
    openings = []
    for demand in request.demands:
        tokens, pos = located(model, demand.fact, where, demand.mentioned)
        openings.append(tokens[: pos + 1])
    distinct = list(dict.fromkeys(openings))
    return tuple(distinct.index(opening) for opening in openings)


RelationEdit = Literal["right", "upstream"]


def training_rows(
    model: HookedTransformer,
    request: EditRequest,
    contexts: Sequence[str],
    where: KeyPosition,
    upstream_removals: int | None = None,
) -> list[Row]:
    """What a value is trained on: each demand behind each context, and "S is a", which is to stay.

    The latter only where the value is written at the subject's last token.

    Args:
        upstream_removals: as RaKE's code trains a relation edit: one value for both demands; the
            removal behind so many contexts only, its target "None" without a blank and divided by
            the length of the relation's name.
    """
    adding, *removing = request.demands
    numbers = groups(model, request, where)
    rows = target_rows(model, adding, contexts, where, numbers[0])
    for demand, group in zip(removing, numbers[1:], strict=True):
        if upstream_removals is None:
            rows += target_rows(model, demand, contexts, where, group)
        else:
            none = plain_ids(model, NO_RELATION)
            name = answer_ids(model, adding.fact.prompt, adding.target)
            rows += target_rows(
                model, demand, contexts[:upstream_removals], where, numbers[0], none,
                len(none) / len(name),
            )  # fmt: skip
    if where == "subject_last":
        rows.append(staying_row(model, adding))
    return rows


def written_for(
    model: HookedTransformer, request: EditRequest, where: KeyPosition, one_value: bool
) -> list[Demand]:
    """The demands that get a value of their own: those with the first of equal keys.

    Args:
        one_value: for all demands, whatever their keys (RaKE's code).
    """
    if one_value:
        return [request.demands[0]]
    numbers = groups(model, request, where)
    return [request.demands[numbers.index(group)] for group in range(1 + max(numbers))]


def target_rows(
    model: HookedTransformer,
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
    group: int,
    targets: Tokens = (),
    weight: float = 1.0,
) -> list[Row]:
    """The demand behind each context.

    Args:
        targets: token ids in place of the demand's own target.
    """
    targets = targets or answer_ids(model, demand.fact.prompt, demand.target)
    rows = []
    for context in contexts:
        tokens, pos = located(model, demand.fact, where, demand.mentioned, context)
        rows.append(Row((*tokens, *targets[:-1]), pos, group, targets, weight))
    return rows


def staying_row(model: HookedTransformer, demand: Demand) -> Row:
    """ "S is a", the subject's deltas entering at its last token."""
    essence = replace(demand.fact, template=ESSENCE, relation_words=())
    return Row(*located(model, essence, "subject_last"))


def keys(
    model: HookedTransformer,
    sites: Sequence[WriteSite],
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
) -> Mapping[WriteSite, Float[Tensor, "context d_key"]]:
    """The demand's key at each site, behind each context."""
    found = [located(model, demand.fact, where, demand.mentioned, text) for text in contexts]
    read = read_keys(model, padded([tokens for tokens, _ in found], device(model)), list(sites))
    at = [pos for _, pos in found]
    return {site: acts[range(len(found)), at] for site, acts in read.items()}


class LastTokens:
    """The last tokens of texts, for their keys from a layer up: what is below is read only once.

    So they can be read again under edits of this layer and of those above it.
    """

    @torch.no_grad()
    def __init__(self, model: HookedTransformer, texts: Sequence[Tokens], layer: int = 0) -> None:
        self._model, self._layer = model, layer
        self._opened: list[tuple[Tensor, list[int]]] = []
        for start in range(0, len(texts), TOGETHER):
            some = texts[start : start + TOGETHER]
            if is_plain(model):
                packed, _, real = run_first_layers(model, some, layer)
                resid = unpacked(packed, real)
            else:
                rows = padded(some, device(model))
                resid = model(rows, stop_at_layer=layer, attention_mask=torch.ones_like(rows))
            self._opened.append((resid, [len(text) - 1 for text in some]))

    def keys(self, sites: Sequence[WriteSite]) -> Mapping[WriteSite, Float[Tensor, "text d_key"]]:
        """At each site, none of which is below the layer, as the model stands."""
        found = []
        for resid, last in self._opened:
            read = read_keys(self._model, resid, list(sites), self._layer)
            found.append({site: acts[range(len(last)), last] for site, acts in read.items()})
        return {site: torch.cat([part[site] for part in found]) for site in sites}


def last_keys(
    model: HookedTransformer, sites: Sequence[WriteSite], texts: Sequence[Tokens]
) -> Mapping[WriteSite, Float[Tensor, "text d_key"]]:
    """The key at the last token of each text, at each site."""
    return LastTokens(model, texts).keys(sites)


@torch.no_grad()
def residual(
    model: HookedTransformer, layer: int, demand: Demand, where: KeyPosition
) -> Float[Tensor, " d_model"]:
    """The residual stream behind `layer` at the demand's key position, without a context."""
    tokens, pos = located(model, demand.fact, where, demand.mentioned)
    rows = padded([tokens], device(model))
    resid = model(rows, stop_at_layer=layer + 1, attention_mask=torch.ones_like(rows))
    return resid[0, pos]
