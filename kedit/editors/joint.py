"""Joint: W_out and W_O written together, for relation edits and entity edits."""

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
    """A family, and its keys as each stack spares them."""

    family: Family
    spared: Mapping[Stack, Spared]


@dataclass(frozen=True)
class Joint:
    """Trains what attention and MLP of `layers` write at the key position, all together, and makes
    their matrices write it: layer by layer from below, each seeing what those below it brought.

    A site's target is its raw output with everything that was trained in place, behind each
    context. A relation edit's two demands have values of their own wherever their keys differ.

    Ablations and rivals are settings: W_out alone (halves=("mlp",)) or W_O alone; PMET (Li et al.
    2023, arXiv 2308.08742), which trains both halves and writes W_out (trained=("mlp", "attn"),
    halves=("mlp",)) or both (solve="in_turn"); EMMET's equality (insert="exact"); AlphaEdit's
    projection (null_space); a split by causal effect, as IntAttn-Edit has one (balance).

    Args:
        layers: whose matrices are written.
        halves: which of them: W_out ("mlp"), W_O ("attn") or both.
        trained: halves whose outputs are trained; none: those that are written.
        heads: (layer, head): W_O's rows of these alone are written, and of no other layer's; none:
            those of all heads of `layers`.
        training: of the values.
        where: the token whose keys are taken. At the last one, and at the object's, a relation
            edit's two demands have different keys; at the subject's, if it comes first, one key.
        values: "own", or "shared" for one value for all demands (RaKE's code).
        solve: "stacked" solves for a layer's sites at once, in the metric of the moment of both
            keys, cross block and all (`kedit.editing.stacked`), and then has W_out write for its
            keys, as W_O has moved them, what it was to write for those before, instead; "in_turn"
            solves for each site by itself, its keys read under the edits before it.
        insert: "ridge" weighs errors against disturbance (MEMIT); "exact" has no errors (ROME, and
            in batches EMMET, Gupta et al. 2024, arXiv 2403.14236).
        weight: λ, of C against the keys.
        wordings: a relation request is made in so many other wordings too (kedit.editing.wordings).
        neighbours: so many prompts a request, about other pairs, whose outputs shall stay.
        family: the same of so many pairs in each wording, read once for all requests with these
            words (kedit.editing.reference_prompts), on the unedited model.
        keep: what each of these weighs; a demand behind one context weighs 1.
        shrink: share of the mean of each site's keys' energies that every direction is taken to
            have besides (`kedit.editing.moments.Moment.shrunk`).
        null_space: 0; or the share of the keys' energy that the directions may hold in which alone
            deltas are made (`kedit.editing.closed_form.null_space`), instead of weighing all by C.
        balance: 0; or attention's share of what a layer's halves bring
            (`kedit.editing.targets.balanced`); ours, after IntAttn-Edit (Liu et al. 2025, arXiv
            2510.27400).
        batch: so many requests are inserted together, as `MEMIT` has it.
        contexts, text, n_tokens: as `MEMIT` has them.
        moments: as `MEMIT` has them, one for each of `groups`: with both halves and
            solve="stacked" they are of W_O and W_out together, which no file of statistics is.
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
        """Raises InputError for a number that is out of its bounds, and unless the layers go up:
        each sees what those below it brought.
        """
        require_in_bounds(self)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise InputError(f"layers: distinct ones from below are wanted, got {self.layers}")

    @property
    def groups(self) -> list[list[WriteSite]]:
        """What it needs moments of: the sites of each solve (kedit.editing.spared.Sparing)."""
        sites = self._sites(self.halves)
        if self.solve == "in_turn":
            return [[site] for site in sites]
        return [list(own) for _, own in groupby(sites, key=attrgetter("layer"))]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Reads the moments and draws the contexts, once for many edits.

        Raises:
            InputError: settings that contradict each other or the model, or a family that cannot be
                edited; later: a prompt has no token at the key position, or an exact insert has
                keys that cannot be told apart.
        """
        self._require_possible(model)
        seconds = spared(model, self)
        contexts = bare_first(self.contexts or memit_contexts(model, seed=self.seed))
        settings = settings_of(self, contexts, seconds)

        stacks = [self._stack(model, second) for second in seconds]
        families: dict[tuple[str, ...], _Strangers] = {}  # by the wordings of their requests

        def edit(requests: Sequence[EditRequest]) -> Edit:
            made = made_by("joint", settings, requests, model)
            wanted = [goal for one in requests for goal in self._goals(model, one, contexts)]
            near = self._near(model, requests, wanted)
            strangers = self._strangers(model, stacks, requests, families)
            texts = LastTokens(model, [*(goal.text for goal in wanted), *near], self.layers[0])
            deltas: dict[str, Delta] = {}
            with contextlib.ExitStack() as below:
                for stack in stacks:
                    step = self._step(model, stack, wanted, texts, strangers, made)
                    deltas |= step.deltas
                    below.enter_context(step.applied(model))
            return Edit(deltas, made)

        def edits(requests: Sequence[EditRequest]) -> Edit:
            size = self.batch or max(1, len(requests))
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            return edit_in_turn(model, batches, edit)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests, in batches."""
        return self.on(model)(requests)

    def _goals(
        self, model: HookedTransformer, request: EditRequest, contexts: Sequence[str]
    ) -> list[Goal]:
        rows = training_rows(model, request, contexts, self.where)
        for demand in reworded(request, self.wordings):
            group = 1 + max(row.group for row in rows)
            rows += target_rows(model, demand, [""], self.where, group)
        if self.values == "shared":
            rows = [dataclasses.replace(row, group=0) for row in rows]
        sites = self._sites(self.trained or self.halves)
        return goals(model, rows, sites, self.training, self.balance)

    def _strangers(
        self,
        model: HookedTransformer,
        stacks: Sequence[Stack],
        requests: Sequence[EditRequest],
        families: "dict[tuple[str, ...], _Strangers]",
    ) -> Mapping[Stack, Spared]:
        """The family of the requests' wordings, without pairs that are no strangers to them."""
        if not self.family:
            return {}
        demands = [
            demand for one in requests for demand in (*one.demands, *reworded(one, self.wordings))
        ]
        worded = skeletons(demands)
        if worded not in families:
            sites = sorted({site for stack in stacks for site in stack.sites})
            found = family(model, demands, sites, self.where, self.family, self.seed)
            every = [*stacks, *(stack.moved for stack in stacks if stack.moved)]
            families[worded] = _Strangers(found, {one: one.spared(found.keys) for one in every})
        found, spared = families[worded]
        known = torch.stack([found.mentioning(one) for one in requests]).any(0)
        return {stack: one.but(stack.rows_of(known)) for stack, one in spared.items()}

    def _near(
        self, model: HookedTransformer, requests: Sequence[EditRequest], wanted: Sequence[Goal]
    ) -> list[Tokens]:
        """The neighbours' prompts up to their key positions, those apart that open as an edit does:
        at the subject (S, another object) has the very key that is to be given a value.
        """
        found: dict[Tokens, None] = {}
        for request in requests:
            for one in neighbours(request, self.neighbours, self.seed):
                with contextlib.suppress(InputError):  # longer than the context: one less
                    tokens, pos = located(model, one.fact, self.where, one.mentioned)
                    found[tokens[: pos + 1]] = None
        return [text for text in found if text not in {goal.text for goal in wanted}]

    def _step(
        self,
        model: HookedTransformer,
        stack: Stack,
        wanted: Sequence[Goal],
        texts: LastTokens,
        strangers: Mapping[Stack, Spared],
        made: Provenance,
    ) -> Edit:
        """What the stack's sites are to add, as the model stands.

        Args:
            texts: of what is wanted, then those whose outputs shall stay.
        """
        read, n_wanted = texts.keys(stack.sites), len(wanted)
        lacking = {
            site: torch.stack([goal.of(site) for goal in wanted]) - site.raw(model, keys[:n_wanted])
            for site, keys in read.items()
        }
        deltas = self._inserted(stack, read, lacking, strangers)
        if stack.moved is None:
            return Edit(deltas, made)
        # what W_out was to write for keys that it will not meet again is dropped, not mended: it
        # would be written for others' keys, which are like those
        due = {}
        for site in stack.moved.sites:
            keys, dropped = read[site][:n_wanted], deltas.pop(site.parameter)
            due[site] = keys @ site.weight(model) + keys @ dropped.left @ dropped.right
        step = Edit(deltas, made)
        with step.applied(model):
            moved = texts.keys(stack.moved.sites)
        lacking = {
            site: due[site] - keys[:n_wanted] @ site.weight(model) for site, keys in moved.items()
        }
        second = self._inserted(stack.moved, moved, lacking, strangers)
        return combined([step, Edit(second, made)])

    def _inserted(
        self,
        stack: Stack,
        read: Mapping[WriteSite, Tensor],
        lacking: Residuals,
        strangers: Mapping[Stack, Spared],
    ) -> dict[str, LowRank]:
        """Deltas that bring what is lacking at the first keys and spare all those behind them."""
        n_wanted = len(next(iter(lacking.values())))
        keys = {site: each[:n_wanted] for site, each in read.items()}
        spared = stack.spared({site: each[n_wanted:] for site, each in read.items()})
        if stack in strangers:
            spared = spared.beside(strangers[stack])
        solve = sparing(stack.solve, spared, self.keep / self.weight)
        insert = partial(exact_insert, solve=solve)
        if self.insert == "ridge":
            insert = partial(ridge_insert, solve=solve, weight=self.weight)
        deltas = stack.inserted(keys, lacking, insert)
        return {site.parameter: delta for site, delta in deltas.items()}

    def _sites(self, halves: Sequence[Half]) -> list[WriteSite]:
        """In the order in which a forward meets them."""
        sites = sorted({WriteSite(layer, half) for layer in self.layers for half in halves})
        chosen = {layer for layer, _ in self.heads} if self.heads else set(self.layers)
        return [site for site in sites if site.half == "mlp" or site.layer in chosen]

    def _stack(self, model: HookedTransformer, second: Moment) -> Stack:
        rows = {
            site: site.rows(model, [head for layer, head in self.heads if layer == site.layer])
            for site in second.sites
        }
        own = (second.at(rows) if self.heads else second).shrunk(self.shrink)
        solve = null_space(own.matrix, self.null_space) if self.null_space else own.solve
        *others, last = second.sites
        moves = others and not is_parallel(model.blocks[last.layer])
        moved = self._stack(model, second.of(last)) if moves else None
        return Stack(rows, solve, has_post_norms(model), moved)

    def _require_possible(self, model: HookedTransformer) -> None:
        trained, n_heads = self.trained or self.halves, model.cfg.n_heads
        strange = [
            (layer, head)
            for layer, head in self.heads
            if layer not in self.layers or not 0 <= head < n_heads
        ]
        for impossible, told in (
            (not self.halves, "halves: mlp, attn or both are wanted, got none"),
            (
                not set(self.halves) <= set(trained),
                f"trained: it is {trained}, halves {self.halves}: what is not trained cannot be "
                "written",
            ),
            (
                self.heads and "attn" not in self.halves,
                f"heads: they are rows of W_O, and halves, {self.halves}, has no attn",
            ),
            (
                strange,
                f"heads: there is no {', '.join(map(str, strange))} among the heads 0 to "
                f"{n_heads - 1} of layers {self.layers}",
            ),
            (
                self.balance and (len(set(self.halves)) < 2 or self.solve == "stacked"),
                "balance: it is one between both halves, with solve=in_turn",
            ),
            (self.balance == 1, "balance: below 1 is wanted, got 1"),
            (self.null_space == 1, "null_space: below 1 is wanted, got 1"),
        ):
            if impossible:
                raise InputError(told)
        for site in self._sites(trained):
            site.weight(model)  # raises where there is none
