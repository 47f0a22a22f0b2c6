"""Separate: solves for one matrix at a time. Other authors' methods are settings of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import Solve, exact_insert, null_space, ridge_insert
from kedit.editing.contexts import bare_first, memit_contexts
from kedit.editing.edit import Edit, PreparedEditor
from kedit.editing.layered import spared_texts, write_layers
from kedit.editing.provenance import made_by
from kedit.editing.second_moment import Moment
from kedit.editing.spared import settings_of, spared
from kedit.editing.stacked import Stack
from kedit.editing.targets import goals
from kedit.editing.values import Training
from kedit.editing.write_sites import Half, WriteSite
from kedit.editors.joint import Joint, require_ascending
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.prompts import KeyPosition
from kedit.models.sites import has_post_norms


@dataclass(frozen=True)
class Separate:
    """Trains outputs together as `Joint` does, then solves for each matrix by itself.

    The keys of a matrix are read with the matrices before it written. `Joint` solves for the
    matrices of a layer together; for a single matrix per layer the two are the same.

    Methods of other authors are settings. PMET (Li et al. 2023, arXiv 2308.08742) trains both
    halves and writes W_out (trained=("mlp", "attn"), halves=("mlp",)). EMMET has equality
    constraints (insert="exact"; Gupta et al. 2024, arXiv 2403.14236), AlphaEdit a projection
    (null_space), RETS one MLP at the last token, and IntAttn-Edit a split by causal effect
    (balance). `kedit.editors.variants` has them, with what they leave out.

    Args:
        halves: which matrices: W_out ("mlp"), W_O ("attn") or both.
        trained: halves whose outputs are trained; empty: those that are written.
        insert: "ridge" weighs errors against disturbance (MEMIT); "exact" allows no errors (ROME).
        null_space: 0: deltas are weighed by C. Above 0: they are confined to directions that
            together hold at most this share of the keys' energy
            (`kedit.editing.closed_form.null_space`).
        balance: 0, or attention's share of the change in a layer's outputs
            (`kedit.editing.targets.balanced`); kedit's, after IntAttn-Edit (Liu et al. 2025, arXiv
            2510.27400).
        moments: see `MEMIT`; one for each of `groups`.
        layers, training, where, weight, wordings, neighbours, keep, shrink, contexts, text,
            n_tokens, seed: see `Joint`.
    """

    layers: tuple[int, ...]
    halves: tuple[Half, ...] = ("mlp",)
    trained: tuple[Half, ...] = ()
    training: Training = Training(clamp=1.0)
    where: KeyPosition = "last"
    insert: Literal["ridge", "exact"] = "ridge"
    weight: float = 1.0
    null_space: float = 0.0
    balance: float = 0.0
    wordings: int = 0
    neighbours: int = 0
    keep: float = 1.0
    shrink: float = 0.0
    contexts: tuple[str, ...] = ()
    moments: tuple[Moment | str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number out of its bounds, or layers that don't ascend."""
        require_in_bounds(self)
        require_ascending(self.layers)

    @property
    def groups(self) -> list[list[WriteSite]]:
        """The matrices, which need a moment each (see `kedit.editing.spared.Sparing`)."""
        return [[site] for site in self._sites(self.halves)]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares the editor for a model: gets the moments and samples the contexts.

        Raises:
            InputError: the settings contradict each other or the model, or models of this family
                cannot be edited; later: a prompt has no token at the key position, or an exact
                insert has keys that are linearly dependent.
        """
        self._require_possible(model)
        seconds = spared(model, self)
        contexts = bare_first(self.contexts or memit_contexts(model, seed=self.seed))
        settings = settings_of(self, contexts, seconds)
        stacks = [
            Stack({site: site.rows(model, [])}, self._solve(second), has_post_norms(model))
            for second in seconds
            for site in second.sites
        ]
        insert = exact_insert
        if self.insert == "ridge":
            insert = partial(ridge_insert, weight=self.weight)

        def edits(requests: Sequence[EditRequest]) -> Edit:
            made = made_by("separate", settings, requests, model)
            wanted = goals(
                model, requests, contexts, self.where, self._sites(self.trained or self.halves),
                self.training, self.wordings, self.balance,
            )  # fmt: skip
            spare = spared_texts(
                model, requests, wanted, self.where, self.neighbours, seed=self.seed
            )
            return write_layers(model, stacks, wanted, spare, insert, self.keep / self.weight, made)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests together."""
        return self.on(model)(requests)

    def _sites(self, halves: Sequence[Half]) -> list[WriteSite]:
        """Returns the sites of `layers` in the order in which a forward pass reaches them."""
        return sorted({WriteSite(layer, half) for layer in self.layers for half in halves})

    def _solve(self, second: Moment) -> Solve:
        if self.null_space:
            return null_space(second.shrunk(self.shrink).matrix, self.null_space)
        return second.inverse(self.shrink)

    def _require_possible(self, model: HookedTransformer) -> None:
        """Raises InputError if settings contradict each other or the model."""
        trained = self.trained or self.halves
        if not self.halves:
            raise InputError("halves: must be mlp, attn or both, got none")
        if not set(self.halves) <= set(trained):
            raise InputError(
                f"trained: must include all of halves, {self.halves}, got {trained}: only outputs "
                "that are trained can be written"
            )
        if self.balance and len(set(self.halves)) < 2:
            raise InputError(f"balance: needs both halves, got {self.halves}")
        for site in self._sites(trained):
            site.weight(model)  # raises InputError if the layer doesn't exist


def separated(joint: Joint) -> Separate:
    """Returns `Separate` with the settings of a `Joint`, except its choice of heads."""
    same = {field.name for field in fields(Joint)} & {field.name for field in fields(Separate)}
    return Separate(**{name: getattr(joint, name) for name in same})
