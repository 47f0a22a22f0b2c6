"""Joint: writes W_out and W_O together, for relation and entity edits. The method is kedit's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter

from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import ridge_insert
from kedit.editing.contexts import bare_first, memit_contexts
from kedit.editing.edit import Edit, PreparedEditor, edit_in_turn
from kedit.editing.forgetting import forget_then_add
from kedit.editing.layered import spared_texts, write_layers
from kedit.editing.provenance import made_by
from kedit.editing.second_moment import Moment
from kedit.editing.spared import settings_of, spared
from kedit.editing.stacked import Stack
from kedit.editing.targets import goals
from kedit.editing.values import Training
from kedit.editing.write_sites import Half, WriteSite
from kedit.editors.masked import on_masked
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.masked import AnyModel, is_masked
from kedit.models.prompts import KeyPosition
from kedit.models.sites import has_post_norms, is_parallel


@dataclass(frozen=True)
class Joint:
    """Trains outputs of attention and MLP together, then makes their matrices write them.

    The outputs are trained at the key position. A site's target is its raw output with all trained
    deltas in place, after each context. The two demands of a relation edit have separate values
    wherever their keys differ.

    The matrices are written layer by layer from below, so each layer sees what the layers below it
    now add (`kedit.editing.layered`). The sites of a layer share one solve, with the joint moment
    of both keys including its cross block (`kedit.editing.stacked`); then W_out is solved again for
    the keys that the new W_O gives. A solve weighs errors against the disturbance of other text
    (Meng et al. 2023, equation 14).

    BERT and T5 are edited at the mask or at the decoder's last token, with where="last", one matrix
    after the other (see `kedit.editing.masked_inserts`).

    Args:
        layers: the layers whose matrices are written, from below.
        halves: which matrices: W_out ("mlp"), W_O ("attn") or both.
        heads: pairs (layer, head): only W_O's rows of these heads are written; empty: those of all
            heads of `layers`.
        training: settings for training the values.
        where: the token whose keys are used. At the last token and at the object's, the two demands
            of a relation edit have different keys; at the subject's they share one key, if the
            subject comes first.
        weight: λ, the weight of C relative to the keys.
        wordings: number of other wordings in which a relation request is also edited
            (`kedit.editing.wordings`).
        neighbours: number of prompts per request, about other pairs, whose outputs should stay the
            same.
        questions: number of questions for a relation request's object, such as "What is the mother
            tongue of S?", at all of whose tokens outputs should stay the same. With them, a
            relation edit hardly changes what the model says of the fact from the entity side.
        forget: 0: a relation edit asks for "None" after the old pair. Otherwise the number of
            unrelated pairs whose answer the old pair gets, in an edit before the addition
            (`kedit.editing.forgetting`).
        keep: weight of each key whose output should stay; a demand after one context has weight 1.
        shrink: added to the diagonal of C, as a share of each site's mean diagonal
            (`kedit.editing.second_moment.Moment.shrunk`).
        contexts, text, n_tokens: see `MEMIT`.
        moments: see `MEMIT`; one for each of `groups`. With both halves these are joint moments of
            W_O's and W_out's keys, which no published file of statistics contains.
        seed: of contexts and neighbours.
    """

    layers: tuple[int, ...]
    halves: tuple[Half, ...] = ("mlp", "attn")
    heads: tuple[tuple[int, int], ...] = ()
    training: Training = Training(clamp=1.0)
    where: KeyPosition = "last"
    weight: float = 1.0
    wordings: int = 0
    neighbours: int = 0
    questions: int = 0
    forget: int = 0
    keep: float = 1.0
    shrink: float = 0.0
    contexts: tuple[str, ...] = ()
    moments: tuple[Moment | str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    edits_masked = True  # BERT and T5, too; see `kedit.editing.checks.guarded`

    def __post_init__(self) -> None:
        """Raises InputError for a number out of its bounds, or layers that don't ascend."""
        require_in_bounds(self)
        require_ascending(self.layers)

    @property
    def groups(self) -> list[list[WriteSite]]:
        """The sites of each solve, which need a moment (see `kedit.editing.spared.Sparing`)."""
        return [list(group) for _, group in groupby(self._sites(), key=attrgetter("layer"))]

    @guarded
    def on(self, model: AnyModel) -> PreparedEditor:
        """Prepares the editor for a model: gets the moments and samples the contexts.

        Raises:
            InputError: the settings contradict each other or the model, or models of this family
                cannot be edited; later: a prompt has no token at the key position.
        """
        if is_masked(model):
            return on_masked("joint", self, model, self.layers, self.halves, self.weight)
        self._require_possible(model)
        seconds = spared(model, self)
        contexts = bare_first(self.contexts or memit_contexts(model, seed=self.seed))
        settings = settings_of(self, contexts, seconds)
        stacks = [self._stack(model, second) for second in seconds]
        insert, keep = partial(ridge_insert, weight=self.weight), self.keep / self.weight

        def edit(requests: Sequence[EditRequest]) -> Edit:
            made = made_by("joint", settings, requests, model)
            wanted = goals(
                model, requests, contexts, self.where, self._sites(), self.training, self.wordings
            )
            spare = spared_texts(
                model, requests, wanted, self.where, self.neighbours, self.questions, self.seed
            )
            return write_layers(model, stacks, wanted, spare, insert, keep, made)

        def forgetting(requests: Sequence[EditRequest]) -> Edit:
            batches = forget_then_add(model, requests, self.forget, self.seed)
            return edit_in_turn(model, batches, edit)

        return forgetting if self.forget else edit

    def __call__(self, model: AnyModel, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests together."""
        return self.on(model)(requests)

    def _sites(self) -> list[WriteSite]:
        """Returns the sites of `layers` in the order in which a forward pass reaches them."""
        sites = sorted({WriteSite(layer, half) for layer in self.layers for half in self.halves})
        chosen = {layer for layer, _ in self.heads} if self.heads else set(self.layers)
        return [site for site in sites if site.half == "mlp" or site.layer in chosen]

    def _stack(self, model: HookedTransformer, second: Moment) -> Stack:
        """Returns the sites of a moment as a stack, with the rows that may change and the solve."""
        rows = {
            site: site.rows(model, [head for layer, head in self.heads if layer == site.layer])
            for site in second.sites
        }
        row_moment = second.at(rows) if self.heads else second
        *others, last = second.sites
        # sites are sorted, so with both halves the last is the MLP, whose input depends on W_O
        moves = others and not is_parallel(model.blocks[last.layer])
        moved = self._stack(model, second.of(last)) if moves else None
        return Stack(rows, row_moment.inverse(self.shrink), has_post_norms(model), moved)

    def _require_possible(self, model: HookedTransformer) -> None:
        """Raises InputError if settings contradict each other or the model."""
        n_heads = model.cfg.n_heads
        missing = [
            (layer, head)
            for layer, head in self.heads
            if layer not in self.layers or not 0 <= head < n_heads
        ]
        if not self.halves:
            raise InputError("halves: must be mlp, attn or both, got none")
        if self.heads and "attn" not in self.halves:
            raise InputError(
                f"heads: these are rows of W_O, so halves must include attn, got {self.halves}"
            )
        if missing:
            raise InputError(
                f"heads: there is no {', '.join(map(str, missing))} among the heads 0 to "
                f"{n_heads - 1} of layers {self.layers}"
            )
        for site in self._sites():
            site.weight(model)  # raises InputError if the layer doesn't exist


def require_ascending(layers: Sequence[int]) -> None:
    """Raises InputError if there are no layers, or if they are not in ascending order."""
    if not layers or list(layers) != sorted(set(layers)):
        raise InputError(f"layers: must be distinct layers in ascending order, got {layers}")
