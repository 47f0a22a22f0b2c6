"""Joint: writes W_out and W_O together, for relation and entity edits. The method is kedit's."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import Spared, exact_insert, null_space, ridge_insert, sparing
from kedit.editing.contexts import bare_first, memit_contexts
from kedit.editing.edit import Delta, Edit, LowRank, PreparedEditor, combined, edit_in_turn
from kedit.editing.keys import LastTokens, target_rows, training_rows
from kedit.editing.moments import Moment
from kedit.editing.neighbours import neighbours
from kedit.editing.provenance import Provenance, made_by
from kedit.editing.reference_prompts import Family, family, skeletons
from kedit.editing.spared import settings_of, spared
from kedit.editing.stacked import Residuals, Stack
from kedit.editing.targets import Goal, goals
from kedit.editing.values import Training
from kedit.editing.wordings import reworded
from kedit.editing.write_sites import Half, WriteSite
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, located
from kedit.models.sites import has_post_norms, is_parallel


class _Strangers(NamedTuple):
    """The reference prompts of a set of templates, with the keys to spare.

    `family` holds them (see `kedit.editing.reference_prompts`), `spared` the keys in the form in
    which each stack spares them.

    "Strangers" are the pairs of a family that share neither subject nor object with a request. An
    edit should leave their outputs as they are.
    """

    family: Family
    spared: Mapping[Stack, Spared]


@dataclass(frozen=True)
class Joint:
    """Trains outputs of attention and MLP together, then makes their matrices write them.

    The outputs are trained at the key position. A site's target is its raw output with all trained
    deltas in place, after each context. The matrices are written layer by layer from below, so each
    layer sees what the layers below it now add. The two demands of a relation edit have separate
    values wherever their keys differ.

    Some published methods and ablations are settings. Only W_out (halves=("mlp",)) or only W_O.
    PMET (Li et al. 2023, arXiv 2308.08742) trains both halves and writes W_out (trained=("mlp",
    "attn"), halves=("mlp",)) or both (solve="in_turn"). EMMET has equality constraints
    (insert="exact"), AlphaEdit a projection (null_space), and IntAttn-Edit a split by causal effect
    (balance). For their papers and departures see `kedit.editors.variants`.

    Args:
        layers: the layers whose matrices are written, from below.
        halves: which matrices: W_out ("mlp"), W_O ("attn") or both.
        trained: halves whose outputs are trained; empty: those that are written.
        heads: pairs (layer, head): only W_O's rows of these heads are written; empty: those of all
            heads of `layers`.
        training: settings for training the values.
        where: the token whose keys are used. At the last token and at the object's, the two demands
            of a relation edit have different keys; at the subject's they share one key, if the
            subject comes first.
        values: "own": a value per demand; "shared": one value for all demands (RaKE's code).
        solve: "stacked" solves for all sites of a layer at once, with the joint moment of both keys
            including its cross block (`kedit.editing.stacked`), then solves W_out again for the
            keys that the new W_O gives. "in_turn" solves for one site at a time, with keys read
            under the edits before it.
        insert: "ridge" weighs errors against disturbance (MEMIT); "exact" allows no errors (ROME;
            in batches EMMET, Gupta et al. 2024, arXiv 2403.14236).
        weight: λ, the weight of C relative to the keys.
        wordings: number of other wordings in which a relation request is also edited
            (`kedit.editing.wordings`).
        neighbours: number of prompts per request, about other pairs, whose outputs should stay the
            same.
        family: number of reference pairs per template whose outputs should stay the same
            (`kedit.editing.reference_prompts`). Their keys are read on the unedited model, once for
            all requests with these templates.
        keep: weight of each key whose output should stay; a demand after one context has weight 1.
        shrink: added to the diagonal of C, as a share of each site's mean diagonal
            (`kedit.editing.moments.Moment.shrunk`).
        null_space: 0: deltas are weighed by C. Above 0: they are confined to directions that
            together hold at most this share of the keys' energy
            (`kedit.editing.closed_form.null_space`).
        balance: 0, or attention's share of the change in a layer's outputs
            (`kedit.editing.targets.balanced`); kedit's, after IntAttn-Edit (Liu et al. 2025, arXiv
            2510.27400).
        batch: number of requests that are inserted together; 0: all (see `MEMIT`).
        contexts, text, n_tokens: see `MEMIT`.
        moments: see `MEMIT`; one for each of `groups`. With both halves and solve="stacked" these
            are joint moments of W_O's and W_out's keys, which no published file of statistics
            contains.
        seed: of contexts, neighbours and reference pairs.
    """

    layers: tuple[int, ...]
    halves: tuple[Half, ...] = ("mlp", "attn")
    trained: tuple[Half, ...] = ()
    heads: tuple[tuple[int, int], ...] = ()
    training: Training = Training(clamp=1.0)
    where: KeyPosition = "last"
    values: Literal["own", "shared"] = "own"
    solve: Literal["stacked", "in_turn"] = "stacked"
    insert: Literal["ridge", "exact"] = "ridge"
    weight: float = 1.0
    wordings: int = 0
    neighbours: int = 0
    family: int = 0
    keep: float = 1.0
    shrink: float = 0.0
    null_space: float = 0.0
    balance: float = 0.0
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
        """The sites of each solve, which need a moment (see `kedit.editing.spared.Sparing`)."""
        sites = self._sites(self.halves)
        if self.solve == "in_turn":
            return [[site] for site in sites]
        return [list(group) for _, group in groupby(sites, key=attrgetter("layer"))]

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

        stacks = [self._stack(model, second) for second in seconds]
        families: dict[tuple[str, ...], _Strangers] = {}  # by the templates of the requests

        def edit(requests: Sequence[EditRequest]) -> Edit:
            made = made_by("joint", settings, requests, model)
            targets = self._goals(model, requests, contexts)
            near = self._near(model, requests, targets)
            strangers = self._strangers(model, stacks, requests, families)
            texts = LastTokens(model, [*(goal.text for goal in targets), *near], self.layers[0])
            deltas: dict[str, Delta] = {}
            with contextlib.ExitStack() as below:
                for stack in stacks:
                    texts.advance(stack.sites[0].layer)
                    step = self._step(model, stack, targets, texts, strangers, made)
                    deltas |= step.deltas
                    below.enter_context(step.applied(model))
            return Edit(deltas, made)

        def edits(requests: Sequence[EditRequest]) -> Edit:
            size = self.batch or max(1, len(requests))
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            return edit_in_turn(model, batches, edit)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests, in batches."""
        return self.on(model)(requests)

    def _goals(
        self, model: HookedTransformer, requests: Sequence[EditRequest], contexts: Sequence[str]
    ) -> list[Goal]:
        """Trains the requests' values; returns them with the texts at which to write them."""
        problems = []
        for request in requests:
            rows = training_rows(model, request, contexts, self.where)
            for demand in reworded(request, self.wordings):
                group = 1 + max(row.group for row in rows)
                rows += target_rows(model, demand, [""], self.where, group)
            if self.values == "shared":
                rows = [dataclasses.replace(row, group=0) for row in rows]
            problems.append(rows)
        sites = self._sites(self.trained or self.halves)
        return goals(model, problems, sites, self.training, self.balance)

    def _strangers(
        self,
        model: HookedTransformer,
        stacks: Sequence[Stack],
        requests: Sequence[EditRequest],
        families: "dict[tuple[str, ...], _Strangers]",
    ) -> Mapping[Stack, Spared]:
        """Returns the reference keys of the requests' templates, without mentioned pairs.

        `families` caches them by templates.
        """
        if not self.family:
            return {}
        demands = [
            demand
            for request in requests
            for demand in (*request.demands, *reworded(request, self.wordings))
        ]
        templates = skeletons(demands)
        if templates not in families:
            sites = sorted({site for stack in stacks for site in stack.sites})
            found = family(model, demands, sites, self.where, self.family, self.seed)
            solved = [*stacks, *(stack.moved for stack in stacks if stack.moved)]
            spared = {stack: stack.spared(found.keys) for stack in solved}
            families[templates] = _Strangers(found, spared)
        found, spared = families[templates]
        mentioned = torch.stack([found.mentioning(request) for request in requests]).any(0)
        return {stack: keys.but(stack.rows_of(mentioned)) for stack, keys in spared.items()}

    def _near(
        self, model: HookedTransformer, requests: Sequence[EditRequest], targets: Sequence[Goal]
    ) -> list[Tokens]:
        """Returns neighbour prompts up to the key position, except texts that are edited.

        For example, with the key at the subject, (S, another object) has the very key that gets a
        new value, so this key cannot be spared.
        """
        found: dict[Tokens, None] = {}
        for request in requests:
            for demand in neighbours(request, self.neighbours, self.seed):
                with contextlib.suppress(InputError):  # longer than the context: left out
                    tokens, pos = located(model, demand.fact, self.where, demand.mentioned)
                    found[tokens[: pos + 1]] = None
        return [text for text in found if text not in {goal.text for goal in targets}]

    def _step(
        self,
        model: HookedTransformer,
        stack: Stack,
        targets: Sequence[Goal],
        texts: LastTokens,
        strangers: Mapping[Stack, Spared],
        made: Provenance,
    ) -> Edit:
        """Solves for the deltas of one stack, in the model's present state.

        In a block that is not parallel, the stack has `moved` and there are two solves. W_O is
        written first. This shifts W_out's keys, so W_out is solved again for the shifted keys with
        the old target: the output that the first solve gives at the old keys. The first solve's
        delta of W_out is dropped, not corrected. It maps keys that no longer occur at the edited
        texts, but that resemble keys of other texts, so keeping it would change those.

        Args:
            targets: the goals.
            texts: those of the goals, then those whose outputs should stay the same.
            strangers: the reference keys to spare, by stack.
            made: provenance of the edit.
        """
        read, n_targets = texts.keys(stack.sites), len(targets)
        lacking = {
            site: torch.stack([goal.of(site) for goal in targets])
            - site.raw(model, keys[:n_targets])
            for site, keys in read.items()
        }
        deltas = self._inserted(stack, read, lacking, strangers)
        if stack.moved is None:
            return Edit(deltas, made)
        # The second solve. Biases cancel, so targets and outputs leave them out.
        old_targets = {}
        for site in stack.moved.sites:
            keys, first_solve = read[site][:n_targets], deltas.pop(site.parameter)
            old_targets[site] = (
                keys @ site.weight(model) + keys @ first_solve.left @ first_solve.right
            )
        step = Edit(deltas, made)
        with step.applied(model):
            shifted = texts.keys(stack.moved.sites)
        lacking = {
            site: old_targets[site] - keys[:n_targets] @ site.weight(model)
            for site, keys in shifted.items()
        }
        second = self._inserted(stack.moved, shifted, lacking, strangers)
        return combined([step, Edit(second, made)])

    def _inserted(
        self,
        stack: Stack,
        read: Mapping[WriteSite, Tensor],
        lacking: Residuals,
        strangers: Mapping[Stack, Spared],
    ) -> dict[str, LowRank]:
        """Returns deltas that add what is lacking at the first keys and spare the others."""
        n_targets = len(next(iter(lacking.values())))
        keys = {site: site_keys[:n_targets] for site, site_keys in read.items()}
        spared = stack.spared({site: site_keys[n_targets:] for site, site_keys in read.items()})
        if stack in strangers:
            spared = spared.beside(strangers[stack])
        solve = sparing(stack.solve, spared, self.keep / self.weight)
        insert = partial(exact_insert, solve=solve)
        if self.insert == "ridge":
            insert = partial(ridge_insert, solve=solve, weight=self.weight)
        deltas = stack.inserted(keys, lacking, insert)
        return {site.parameter: delta for site, delta in deltas.items()}

    def _sites(self, halves: Sequence[Half]) -> list[WriteSite]:
        """Returns the sites of `layers` in the order in which a forward pass reaches them."""
        sites = sorted({WriteSite(layer, half) for layer in self.layers for half in halves})
        chosen = {layer for layer, _ in self.heads} if self.heads else set(self.layers)
        return [site for site in sites if site.half == "mlp" or site.layer in chosen]

    def _stack(self, model: HookedTransformer, second: Moment) -> Stack:
        """Returns the sites of a moment as a stack, with the rows that may change and the solve."""
        rows = {
            site: site.rows(model, [head for layer, head in self.heads if layer == site.layer])
            for site in second.sites
        }
        row_moment = second.at(rows) if self.heads else second
        if self.null_space:
            solve = null_space(row_moment.shrunk(self.shrink).matrix, self.null_space)
        else:
            solve = row_moment.inverse(self.shrink)
        *others, last = second.sites
        # sites are sorted, so with both halves the last is the MLP, whose input depends on W_O
        moves = others and not is_parallel(model.blocks[last.layer])
        moved = self._stack(model, second.of(last)) if moves else None
        return Stack(rows, solve, has_post_norms(model), moved)

    def _require_possible(self, model: HookedTransformer) -> None:
        """Raises InputError if settings contradict each other or the model."""
        trained, n_heads = self.trained or self.halves, model.cfg.n_heads
        missing = [
            (layer, head)
            for layer, head in self.heads
            if layer not in self.layers or not 0 <= head < n_heads
        ]
        for impossible, message in (
            (not self.halves, "halves: must be mlp, attn or both, got none"),
            (
                not set(self.halves) <= set(trained),
                f"trained: must include all of halves, {self.halves}, got {trained}: only outputs "
                "that are trained can be written",
            ),
            (
                self.heads and "attn" not in self.halves,
                f"heads: these are rows of W_O, so halves must include attn, got {self.halves}",
            ),
            (
                missing,
                f"heads: there is no {', '.join(map(str, missing))} among the heads 0 to "
                f"{n_heads - 1} of layers {self.layers}",
            ),
            (
                self.balance and (len(set(self.halves)) < 2 or self.solve == "stacked"),
                "balance: needs both halves and solve=in_turn",
            ),
            (self.balance == 1, "balance: must be below 1, got 1"),
            (self.null_space == 1, "null_space: must be below 1, got 1"),
        ):
            if impossible:
                raise InputError(message)
        for site in self._sites(trained):
            site.weight(model)  # raises InputError if the layer doesn't exist
