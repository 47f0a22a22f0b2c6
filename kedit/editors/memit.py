"""MEMIT: edits many facts at once, spread over the MLPs of several layers (Meng et al. 2023)."""

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
from kedit.editing.closed_form import Solve, ridge_insert
from kedit.editing.contexts import bare_first, memit_contexts
from kedit.editing.edit import Delta, Edit, PreparedEditor, edit_in_turn
from kedit.editing.frozen import Slot
from kedit.editing.keys import LastTokens, RelationEdit, key_texts, training_rows, written_for
from kedit.editing.provenance import made_by
from kedit.editing.second_moment import Moment
from kedit.editing.spared import settings_of, spared
from kedit.editing.values import Training, first_rows, train_all
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition
from kedit.models.sites import has_post_norms


@dataclass(frozen=True)
class MEMIT:
    """Trains the residual after the last of `layers`, then has each layer write its share.

    Layers are written from below. Each layer's share is computed with the edits of the layers below
    it in place. λ weighs errors at the keys against the disturbance of other text (Meng et al.
    2023, equation 14).

    With a post-norm (Gemma 3), this is not possible, because an MLP's output is scaled to a fixed
    length, so an MLP cannot write whatever the residual stream lacks. There the raw outputs of all
    `layers` are trained together, and each layer is made to write its own. This is kedit's.

    Each request's value is trained separately, but several requests can have the same key: at the
    subject's last token, this happens to all prompts that are equal up to there, such as prompts
    about two facts of one subject. One key cannot map to two values, so their mean is written,
    which may be right for neither request. No warning is given; the published code does the same.
    With `batch=1` the later request is trained on the model with the earlier edit; with
    where="last" both requests have different keys.

    Further departures from the published code: C (see `ROME`) and relation edits (`relation`).

    Args:
        layers: the layers whose W_out is changed, from below.
        weight: λ, the weight of C relative to the keys: the larger, the less other text changes.
        training: settings for training the residual z.
        where: the token whose key is used.
        relation: "right", or "upstream" for what RaKE's code does: one value for both demands; the
            removal's target "None" without a blank, and its loss divided by the number of tokens in
            the relation's name; and the key of the addition's prompt.
        batch: number of requests that are inserted together, one batch after the other; 0: all.
        contexts: texts put before the prompts; empty: the model samples them with `seed`.
        moments, text, n_tokens: which C to use, see `ROME`; one moment for each of `layers`.
        seed: of contexts and text.
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
        """Raises InputError for a number out of its bounds, or layers that don't ascend."""
        require_in_bounds(self)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise InputError(
                f"layers: must be distinct layers in ascending order, got {self.layers}"
            )

    @property
    def groups(self) -> list[list[WriteSite]]:
        """The sites that need a moment, layer by layer (see `kedit.editing.spared.Sparing`)."""
        return [[WriteSite(layer)] for layer in self.layers]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares the editor for a model: gets the moments and samples the contexts.

        Raises:
            InputError: models of this family cannot be edited, or there is a problem with the
                moments (see `kedit.editing.spared.spared`); later: a prompt has no token at the key
                position.
        """
        seconds = spared(model, self)
        solves = {second.sites[0]: second.inverse() for second in seconds}
        contexts = bare_first(self.contexts or memit_contexts(model, seed=self.seed))
        settings = settings_of(self, contexts, seconds)

        def edit(requests: Sequence[EditRequest]) -> Edit:
            deltas = self._deltas(model, requests, solves, contexts)
            return Edit(deltas, made_by("memit", settings, requests, model))

        def edits(requests: Sequence[EditRequest]) -> Edit:
            size = self.batch or max(1, len(requests))
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            return edit_in_turn(model, batches, edit)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests, in batches."""
        return self.on(model)(requests)

    def _deltas(
        self,
        model: HookedTransformer,
        requests: Sequence[EditRequest],
        solves: Mapping[WriteSite, Solve],
        contexts: Sequence[str],
    ) -> dict[str, Delta]:
        """Trains all requests' values, then solves for the layers' deltas one after the other."""
        slots = [Slot(self.layers[-1], "resid")]
        if has_post_norms(model):
            slots = [Slot(layer, "mlp") for layer in self.layers]
        goals = self._goals(model, requests, contexts, slots)
        values = {slot: torch.stack([goal.values[slot] for goal in goals]) for slot in slots}
        texts = LastTokens(model, [text for goal in goals for text in goal.texts], self.layers[0])
        bare = None  # the prompts whose residual is read, where the residual was trained
        if not has_post_norms(model):
            bare = LastTokens(model, [goal.texts[0] for goal in goals], self.layers[0])
        deltas: dict[str, Delta] = {}
        with contextlib.ExitStack() as below:
            for n_done, (site, solve) in enumerate(solves.items()):
                texts.advance(site.layer)
                goal_keys = _mean_keys(texts.keys([site])[site], len(contexts))
                if bare is None:
                    lacking = values[Slot(site.layer, "mlp")] - site.raw(model, goal_keys)
                else:
                    bare.advance(site.layer)
                    missing = values[slots[0]] - bare.residuals(self.layers[-1])
                    lacking = missing / (len(solves) - n_done)
                delta = ridge_insert(goal_keys, lacking, solve, self.weight)
                deltas[site.parameter] = delta
                step = Edit({site.parameter: delta}, made_by("memit", {}, requests, model))
                below.enter_context(step.applied(model))
        return deltas

    def _goals(
        self,
        model: HookedTransformer,
        requests: Sequence[EditRequest],
        contexts: Sequence[str],
        slots: Sequence[Slot],
    ) -> list["_Goal"]:
        """Trains all requests' values; returns one goal for each demand that gets a value."""
        problems, demands = [], []
        for request in requests:
            upstream = self.relation == "upstream" and request.removal is not None
            removals = len(contexts) if upstream else None
            problems.append(training_rows(model, request, contexts, self.where, removals))
            demands.append(written_for(model, request, self.where, upstream))
        goals = []
        all_trained = train_all(model, problems, slots, self.training)
        for rows, of_request, trained in zip(problems, demands, all_trained, strict=True):
            for group, (first, demand) in enumerate(zip(first_rows(rows), of_request, strict=True)):
                texts = key_texts(model, demand, contexts, self.where)
                wanted = {
                    slot: trained.written[slot][first] + trained.deltas[slot][group]
                    for slot in slots
                }
                goals.append(_Goal(texts, wanted))
        return goals


class _Goal(NamedTuple):
    """What a demand's key should give.

    Args:
        texts: the prompt after each context, up to the key position; the bare prompt first.
        values: by slot, the raw outputs or the residual that should be there.
    """

    texts: list[Tokens]
    values: Mapping[Slot, Float[Tensor, " d_model"]]


def _mean_keys(found: Float[Tensor, "text d_key"], n_contexts: int) -> Float[Tensor, "goal d_key"]:
    """Returns the mean of each goal's bare key and its mean key over contexts, as upstream does."""
    by_goal = found.unflatten(0, (-1, n_contexts))
    bare, others = by_goal[:, 0], by_goal[:, 1:]
    return (bare + others.mean(1)) / 2 if n_contexts > 1 else bare
