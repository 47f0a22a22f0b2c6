"""ROME: one fact, one rank-one change of one MLP (Meng et al. 2022), from both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import exact_insert, legacy_insert
from kedit.editing.contexts import ROME_LENGTHS, bare_first, rome_contexts
from kedit.editing.edit import Edit, LowRank, PreparedEditor, edit_in_turn
from kedit.editing.keys import RelationEdit, keys, training_rows, written_for
from kedit.editing.moments import Moment
from kedit.editing.provenance import made_by
from kedit.editing.spared import settings_of, spared
from kedit.editing.values import Slot, Training, first_rows, train
from kedit.editing.write_sites import WriteSite
from kedit.facts import EditRequest
from kedit.models.prompts import KeyPosition

UPSTREAM_REMOVALS = 5  # contexts of the removal prompt in RaKE's code


@dataclass(frozen=True)
class ROME:
    """Makes the model say the target by writing v* where it reads the subject.

    A relation edit asks for two things, the relation between S and O* and none between S and O. At
    the subject's last token both have one key, so one value has to do for both; at the other key
    positions each has a key and a value of its own, inserted together.

    Meng et al.'s code makes the edit of key="legacy" with C of 100,000 articles of Wikipedia, which
    its files of statistics hold (`moments`). Neither is the default here, with published settings
    either: the key is the mean one, and C is of the text that ships with kedit. The published
    contexts cannot be had again, since they were drawn without a seed.

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
        contexts: put before the prompts; none: the model makes them up by `seed`,
        lengths: of so many tokens, and so many of that length.
        moments: C itself, in place of the text that it is measured on: a
            `kedit.editing.moments.Moment`, or an .npz file of the statistics that ROME's code keeps
            (`kedit.editing.spared`).
        text: of C, as `kedit.data.corpus.corpus_of` has it; "": the one that ships with kedit.
        n_tokens: of it; 0 for four times the key's length.
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

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @property
    def groups(self) -> list[list[WriteSite]]:
        """What it needs moments of (kedit.editing.spared.Sparing)."""
        return [[WriteSite(self.layer)]]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Reads the moment and draws the contexts, once for many edits.

        What this gives makes one edit on top of the other.

        Raises:
            InputError: the family cannot be edited, or its moment is not to be had
                (`kedit.editing.spared.spared`); later: a prompt has no token at the key position.
        """
        ((site,),) = self.groups
        (second,) = spared(model, self)
        contexts = bare_first(self.contexts or rome_contexts(model, self.lengths, self.seed))
        settings = settings_of(self, contexts, [second])

        def edit(request: EditRequest) -> Edit:
            delta = self._delta(model, request, site, second, contexts)
            return Edit({site.parameter: delta}, made_by("rome", settings, [request], model))

        return lambda requests: edit_in_turn(model, requests, edit)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """One request after the other, each on the model with the edits before it."""
        return self.on(model)(requests)

    def _delta(
        self,
        model: HookedTransformer,
        request: EditRequest,
        site: WriteSite,
        second: Moment,
        contexts: Sequence[str],
    ) -> LowRank:
        slot = Slot(self.layer, "mlp")
        upstream = self.relation == "upstream" and request.removal is not None
        removals = UPSTREAM_REMOVALS if upstream else None
        rows = training_rows(model, request, contexts, self.where, removals)
        trained = train(model, rows, [slot], self.training)
        demands = written_for(model, request, self.where, upstream)
        sought = request.demands[-1:] if upstream else demands  # upstream: the removal's prompt
        mean_keys = torch.stack(
            [keys(model, [site], one, contexts, self.where)[site].mean(0) for one in sought]
        )
        if self.key == "legacy":
            bare_key = keys(model, [site], demands[0], [""], self.where)[site][0]
            return legacy_insert(mean_keys[0], bare_key, trained.deltas[slot][0], second.solve)
        wanted = trained.written[slot][first_rows(rows)] + trained.deltas[slot]
        written = mean_keys @ site.weight(model) + site.bias(model)
        return exact_insert(mean_keys, wanted - written, second.solve)
