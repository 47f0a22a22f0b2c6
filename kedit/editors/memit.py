"""MEMIT: many facts at once, spread over the MLPs of several layers (Meng et al. 2023)."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import ridge_insert
from kedit.editing.contexts import bare_first, memit_contexts
from kedit.editing.edit import Delta, Edit, PreparedEditor, edit_in_turn
from kedit.editing.keys import RelationEdit, keys, residual, training_rows, written_for
from kedit.editing.moments import Moment
from kedit.editing.provenance import made_by
from kedit.editing.spared import settings_of, spared
from kedit.editing.values import Slot, Training, first_rows, train
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.models.prompts import KeyPosition
from kedit.models.sites import has_post_norms


@dataclass(frozen=True)
class MEMIT:
    """Trains where the residual stream shall go behind the last of `layers`; each of them brings
    its share, in order, seeing what those below brought.

    Behind a post-norm (Gemma 3) an MLP cannot write whatever the residual stream
    lacks, for what it writes is scaled to one length. There the raw outputs of all `layers` are
    trained together, and each layer is made to write its own.

    Each request's value is trained by itself, but requests may have one key: at the subject's last
    token all do whose prompts are alike up to there, as of two facts of one subject. One key cannot
    write two values, so what is written for it is their mean, which may serve neither request, and
    nothing warns of it; the published code does the same. With `batch=1` the later request is
    trained on the model with the earlier one's edit; at where="last" both have keys of their own.

    Args:
        layers: whose W_out are changed.
        weight: λ, of C against the keys: the larger, the less other texts are disturbed.
        training: of z.
        where: the token whose key is taken.
        relation: "right", or "upstream" for what RaKE's code does: one value for both demands, the
            removal's target "None" without a blank and divided by the length of the relation's
            name, and the key of the prompt that adds.
        batch: so many requests are inserted together, one batch on top of the other; 0 for all, 1
            for one by one.
        contexts: put before the prompts; none: the model makes them up by `seed`.
        moments, text, n_tokens: of C, as `ROME` has them; one moment for each of `layers`.
    """

    layers: tuple[int, ...]
    weight: float = 15000.0
    training: Training = Training(clamp=0.75)
    where: KeyPosition = "subject_last"
    relation: RelationEdit = "right"
    batch: int = 0
    contexts: tuple[str, ...] = ()
    moments: tuple[Moment | str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds, and unless the layers go up:
        each sees what those below it brought.
        """
        require_in_bounds(self)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise InputError(f"layers: distinct ones from below are wanted, got {self.layers}")

    @property
    def groups(self) -> list[list[WriteSite]]:
        """What it needs moments of, layer by layer (kedit.editing.spared.Sparing)."""
        return [[WriteSite(layer)] for layer in self.layers]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Reads the moments and draws the contexts, once for many edits.

        Raises:
            InputError: the family cannot be edited, or its moments are not to be had
                (`kedit.editing.spared.spared`); later: a prompt has no token at the key position.
        """
        seconds = spared(model, self)
        of_site = {second.sites[0]: second for second in seconds}
        contexts = bare_first(self.contexts or memit_contexts(model, seed=self.seed))
        settings = settings_of(self, contexts, seconds)

        def edit(requests: Sequence[EditRequest]) -> Edit:
            deltas = self._deltas(model, requests, of_site, contexts)
            return Edit(deltas, made_by("memit", settings, requests, model))

        def edits(requests: Sequence[EditRequest]) -> Edit:
            size = self.batch or max(1, len(requests))
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            return edit_in_turn(model, batches, edit)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests, in batches."""
        return self.on(model)(requests)

    def _deltas(
        self,
        model: HookedTransformer,
        requests: Sequence[EditRequest],
        seconds: Mapping[WriteSite, Moment],
        contexts: Sequence[str],
    ) -> dict[str, Delta]:
        slots = [Slot(layer, "mlp") for layer in self.layers]
        if not has_post_norms(model):
            slots = [Slot(self.layers[-1], "resid")]
        goals = [goal for one in requests for goal in self._goals(model, one, contexts, slots)]
        deltas: dict[str, Delta] = {}
        with contextlib.ExitStack() as below:
            for n_done, (site, second) in enumerate(seconds.items()):
                n_left = len(seconds) - n_done
                each = [self._key(model, site, goal.demand, contexts) for goal in goals]
                stacked = torch.stack(each)
                lacking = [
                    self._lacking(model, site, goal, key, n_left)
                    for goal, key in zip(goals, each, strict=True)
                ]
                delta = ridge_insert(stacked, torch.stack(lacking), second.solve, self.weight)
                deltas[site.parameter] = delta
                step = Edit({site.parameter: delta}, made_by("memit", {}, requests, model))
                below.enter_context(step.applied(model))
        return deltas

    def _goals(
        self,
        model: HookedTransformer,
        request: EditRequest,
        contexts: Sequence[str],
        slots: Sequence[Slot],
    ) -> list["_Goal"]:
        upstream = self.relation == "upstream" and request.removal is not None
        removals = len(contexts) if upstream else None
        rows = training_rows(model, request, contexts, self.where, removals)
        trained = train(model, rows, slots, self.training)
        firsts = first_rows(rows)
        return [
            _Goal(
                demand,
                {
                    slot: trained.written[slot][firsts[group]] + trained.deltas[slot][group]
                    for slot in slots
                },
            )
            for group, demand in enumerate(written_for(model, request, self.where, upstream))
        ]

    def _key(
        self,
        model: HookedTransformer,
        site: WriteSite,
        demand: Demand,
        contexts: Sequence[str],
    ) -> Float[Tensor, " d_key"]:
        """Half of it the bare prompt's, half of it the mean over the contexts, as in their code."""
        found = keys(model, [site], demand, contexts, self.where)[site]
        return found[0] if len(found) == 1 else (found[0] + found[1:].mean(0)) / 2

    def _lacking(
        self,
        model: HookedTransformer,
        site: WriteSite,
        goal: "_Goal",
        key: Float[Tensor, " d_key"],
        n_left: int,
    ) -> Float[Tensor, " d_model"]:
        """What `site` is to add for `goal`, as the model stands."""
        own = goal.values.get(Slot(site.layer, "mlp"))
        if own is not None:
            return own - (key @ site.weight(model) + site.bias(model))
        ((slot, wanted),) = goal.values.items()
        return (wanted - residual(model, slot.layer, goal.demand, self.where)) / n_left


class _Goal(NamedTuple):
    """What shall be written, or stand in the residual stream, at a demand's key position."""

    demand: Demand
    values: Mapping[Slot, Float[Tensor, " d_model"]]
