"""ROME: one fact, one rank-one change of one MLP (Meng et al. 2022), from both sides."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens import HookedTransformer

from kedit.closed_form import exact_insert, legacy_insert
from kedit.contexts import rome_contexts
from kedit.edit import Edit, one_by_one
from kedit.facts import NO_RELATION, EditRequest
from kedit.keys import groups, keys, staying_row, wanted_rows
from kedit.moments import Moment, moment
from kedit.prompts import KeyPosition, answer_ids, plain_ids
from kedit.provenance import made_by
from kedit.value import Row, Slot, Training, first_rows, train
from kedit.writes import WriteSite

UPSTREAM_REMOVALS = 5  # contexts of the removal prompt in RaKE's code


@dataclass(frozen=True)
class ROME:
    """Makes the model say the target by writing v* where it reads the subject.

    A relation edit asks for two things, the relation between S and O* and none between S and O. At
    the subject's last token both have one key, so one value has to do for both; at the other key
    positions each has a key and a value of its own, inserted together.

    Args:
        layer: whose W_out is changed.
        training: of v*.
        where: the token whose key is taken.
        key: "mean" takes k* over contexts, as the paper has it, wherever a key is needed (R-ROME,
            arXiv 2403.07175); "legacy" takes the bare prompt's in the denominator, as the published
            code does, so that the edited weight maps neither key to v*.
        relation: "right", or "upstream" for what RaKE's code does: one value for both demands, five
            contexts for the removal, its target "None" without a blank and divided by the length of
            the relation's name, and the key of the removal prompt.
        contexts: put before the prompts; none: the model makes them up by `seed`.
        text: of C, as kedit.text reads it; "": the model's own.
        n_tokens: of it; 0 for ten times the key's length.
    """

    layer: int
    training: Training = Training()
    where: KeyPosition = "subject_last"
    key: Literal["mean", "legacy"] = "mean"
    relation: Literal["right", "upstream"] = "right"
    contexts: tuple[str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """One request after the other, each on the model with the edits before it.

        Raises:
            InputError: a prompt has no token at the key position, or the family cannot be edited.
        """
        site = WriteSite(self.layer)
        second = moment(model, [site], self.text, self.n_tokens, self.seed)
        contexts = self.contexts or rome_contexts(model, seed=self.seed)
        return one_by_one(
            model, requests, lambda request: self._edit(model, request, site, second, contexts)
        )

    def _edit(
        self,
        model: HookedTransformer,
        request: EditRequest,
        site: WriteSite,
        second: Moment,
        contexts: Sequence[str],
    ) -> Edit:
        slot = Slot(self.layer, "mlp")
        upstream = self.relation == "upstream" and request.removal is not None
        numbers = groups(model, request, self.where)
        if upstream:
            numbers = (0,) * len(numbers)
        rows = self._rows(model, request, numbers, contexts, upstream)
        trained = train(model, rows, [slot], self.training)
        demands = [request.demands[numbers.index(group)] for group in range(1 + max(numbers))]
        sought = request.demands[-1:] if upstream else demands  # upstream: the removal's prompt
        mean_keys = torch.stack(
            [keys(model, [site], one, contexts, self.where)[site].mean(0) for one in sought]
        )
        if self.key == "legacy":
            bare_key = keys(model, [site], demands[0], [""], self.where)[site][0]
            delta = legacy_insert(mean_keys[0], bare_key, trained.deltas[slot][0], second.solve)
        else:
            wanted = trained.written[slot][first_rows(rows)] + trained.deltas[slot]
            written = mean_keys @ site.weight(model) + site.bias(model)
            delta = exact_insert(mean_keys, wanted - written, second.solve)
        settings = dataclasses.asdict(self) | {"contexts": list(contexts)}
        return Edit({site.parameter: delta}, made_by("rome", settings, [request], model))

    def _rows(
        self,
        model: HookedTransformer,
        request: EditRequest,
        numbers: Sequence[int],
        contexts: Sequence[str],
        upstream: bool,
    ) -> list[Row]:
        adding, *removing = request.demands
        rows = wanted_rows(model, adding, contexts, self.where, numbers[0])
        for demand, group in zip(removing, numbers[1:], strict=True):
            if upstream:
                none, name = plain_ids(model, NO_RELATION), answer_ids(model, adding.target)
                rows += wanted_rows(
                    model, demand, contexts[:UPSTREAM_REMOVALS], self.where, group, none,
                    len(none) / len(name),
                )  # fmt: skip
            else:
                rows += wanted_rows(model, demand, contexts, self.where, group)
        if self.where == "subject_last":
            rows.append(staying_row(model, adding))
        return rows
