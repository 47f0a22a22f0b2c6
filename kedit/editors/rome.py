"""ROME: edits one fact by a rank-one change of one MLP (Meng et al. 2022), from either side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import Solve, exact_insert, legacy_insert
from kedit.editing.contexts import ROME_LENGTHS, bare_first, rome_contexts
from kedit.editing.edit import Edit, LowRank, PreparedEditor, edit_in_turn
from kedit.editing.frozen import Slot
from kedit.editing.keys import RelationEdit, keys, training_rows
from kedit.editing.provenance import made_by
from kedit.editing.second_moment import Moment
from kedit.editing.spared import settings_of, spared
from kedit.editing.values import Training, first_rows, train
from kedit.editing.write_sites import WriteSite
from kedit.editors.masked import on_masked
from kedit.facts import EditRequest
from kedit.models.masked import AnyModel, is_masked
from kedit.models.prompts import KeyPosition

UPSTREAM_REMOVALS = 5  # contexts of the removal prompt in RaKE's code


@dataclass(frozen=True)
class ROME:
    """Trains a value v* and maps one token's key to it, so that the model says the target.

    The delta maps the key k* to v* and disturbs other text least (Meng et al. 2022, equation 2).

    A relation edit makes two demands: the relation between S and O*, and none between S and O. At
    the subject's last token both have the same key, so they share one value. At other key positions
    each demand has its own key and value, and these are inserted together.

    BERT and T5 are edited at the mask or at the decoder's last token, with where="last" (see
    `kedit.editing.masked_inserts`).

    Departures from the published code, also with published settings: the key is the mean key
    (`key`), C is measured on the text that comes with kedit instead of 100,000 Wikipedia articles
    (`moments`), and relation edits (`relation`). Meng et al.'s code makes the edit of key="legacy"
    with the C in their statistics file. The published contexts cannot be reproduced, because they
    were sampled without a seed.

    Args:
        layer: the layer whose W_out is changed.
        training: settings for training v*.
        where: the token whose key is used.
        key: "mean" uses the mean key over contexts as k* throughout, as in the paper (R-ROME, arXiv
            2403.07175). "legacy" uses the bare prompt's key in the denominator, as the published
            code does; the edited weight then maps neither key to v*.
        relation: "right", or "upstream" for what RaKE's code does: one value for both demands; five
            contexts for the removal; its target "None" without a blank, and its loss divided by the
            number of tokens in the relation's name; and the key of the removal's prompt.
        contexts: texts put before the prompts; empty: the model samples them with `seed`.
        lengths: of sampled contexts: pairs of tokens per context and number of contexts.
        moments: C itself, instead of a text to measure it on: a
            `kedit.editing.second_moment.Moment`, or an .npz file of statistics that ROME's code
            saved (see `kedit.editing.spared`).
        text: what C is measured on (see `kedit.data.corpus.corpus_of`); "": the text that comes
            with kedit.
        n_tokens: number of tokens for C; 0: four times the key's length.
        seed: of contexts and text.
    """

    layer: int
    training: Training = Training()
    where: KeyPosition = "subject_last"
    key: Literal["mean", "legacy"] = "mean"
    relation: RelationEdit = "right"
    contexts: tuple[str, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ROME_LENGTHS
    moments: tuple[Moment | str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    edits_masked = True  # BERT and T5, too; see `kedit.editing.checks.guarded`

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @property
    def groups(self) -> list[list[WriteSite]]:
        """The site that needs a moment (see `kedit.editing.spared.Sparing`)."""
        return [[WriteSite(self.layer)]]

    @guarded
    def on(self, model: AnyModel) -> PreparedEditor:
        """Prepares the editor for a model: gets the moment and samples the contexts.

        The returned function makes one edit after the other, each on the model with the edits
        before it.

        Raises:
            InputError: models of this family cannot be edited, or there is a problem with the
                moment (see `kedit.editing.spared.spared`); later: a prompt has no token at the key
                position.
        """
        if is_masked(model):
            one = on_masked("rome", self, model, [self.layer], ["mlp"], weight=None)
            return lambda requests: edit_in_turn(model, [[request] for request in requests], one)
        ((site,),) = self.groups
        (second,) = spared(model, self)
        contexts = bare_first(self.contexts or rome_contexts(model, self.lengths, self.seed))
        settings, solve = settings_of(self, contexts, [second]), second.inverse()

        def edit(request: EditRequest) -> Edit:
            delta = self._delta(model, request, site, solve, contexts)
            return Edit({site.parameter: delta}, made_by("rome", settings, [request], model))

        return lambda requests: edit_in_turn(model, requests, edit)

    def __call__(self, model: AnyModel, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit per request, on the model with the edits before it; combines them."""
        return self.on(model)(requests)

    def _delta(
        self,
        model: HookedTransformer,
        request: EditRequest,
        site: WriteSite,
        solve: Solve,
        contexts: Sequence[str],
    ) -> LowRank:
        """Trains the request's values and returns the delta that inserts them."""
        slot = Slot(self.layer, "mlp")
        upstream = self.relation == "upstream" and request.removal is not None
        removals = UPSTREAM_REMOVALS if upstream else None
        rows = training_rows(model, request, contexts, self.where, removals)
        trained = train(model, rows, [slot], self.training)
        found, firsts = trained.keys[slot], first_rows(rows)
        if upstream:  # the key of the removal's prompt, after all contexts
            mean_keys = keys(model, [site], request.demands[-1], contexts, self.where)[site].mean(0)
            mean_keys = mean_keys[None]
        else:  # the first demand of each key has one row per context, the bare prompt's first
            mean_keys = torch.stack([found[row : row + len(contexts)].mean(0) for row in firsts])
        if self.key == "legacy":
            return legacy_insert(mean_keys[0], found[0], trained.deltas[slot][0], solve)
        targets = trained.written[slot][firsts] + trained.deltas[slot]
        written = mean_keys @ site.weight(model) + site.bias(model)
        return exact_insert(mean_keys, targets - written, solve)
