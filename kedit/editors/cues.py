"""Cues: writes W_out at the subject and W_O at the end of the prompt. The method is kedit's."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.closed_form import Spared, exact_insert, sparing
from kedit.editing.contexts import bare_first, rome_contexts
from kedit.editing.edit import Edit, LowRank, PreparedEditor, edit_in_turn
from kedit.editing.frozen import Row
from kedit.editing.inserted import Insert, fit
from kedit.editing.keys import LastTokens, groups
from kedit.editing.neighbours import neighbours, other_relations
from kedit.editing.provenance import made_by
from kedit.editing.second_moment import Moment
from kedit.editing.spared import settings_of, spared
from kedit.editing.values import Training
from kedit.editing.wordings import in_other_words
from kedit.editing.write_sites import Half, WriteSite
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition, answer_ids, located


class Place(NamedTuple):
    """Where an edit writes: a matrix, and the token whose key it writes at."""

    layer: int
    half: Half
    where: KeyPosition

    @property
    def site(self) -> WriteSite:
        return WriteSite(self.layer, self.half)


class _Text(NamedTuple):
    """A text on which values are trained: a demand after a context, or in other words.

    `number` is the demand's number in its request.
    """

    demand: Demand
    number: int
    context: str = ""


@dataclass(frozen=True)
class Cues:
    """Inserts a value at each of several key positions, and trains all of them together.

    An entity edit is asked by two cues. The key of W_out at the subject's last token names the
    subject, but hardly what is asked of it, so that an edit there changes the subject's other
    relations. The key of W_O at the last token of the prompt has what attention fetched for the
    question that is asked, but hardly the subject, so that an edit there changes neighbours. With
    both, each can be smaller.

    For each matrix, the keys of the request are means over its texts: its prompt after each
    context, and the prompt in other words. A matrix gets them by an exact insert (Meng et al. 2022,
    equation 2), which spares the keys of other prompts beside those of running text. The values are
    trained with the insert in place (`kedit.editing.inserted`), so prompts that should stay can be
    part of the training, too.

    Args:
        places: (layer, half, key position) of each key that is written; the half is "mlp" for W_out
            and "attn" for W_O.
        training: settings for training the values. `kl` is the weight of the prompts that are held.
        clamps: for each of `places`, by what its clamp differs from `training.clamp`, as a factor;
            empty: 1 for all.
        wordings: number of other wordings of each prompt: of those that are trained, spared and
            held. They need the relation's name.
        neighbours: number of prompts about other pairs whose keys are spared, each in all wordings.
        others: number of the subject's other relations whose prompts' keys are spared, each in all
            wordings (entity requests only).
        keep: weight of each spared key against C.
        held: number of neighbours, and of other relations, whose prompts are held in training: what
            the model says after them should stay.
        shrink: see `Joint`.
        contexts, lengths, moments, text, n_tokens, seed: see `ROME`; a moment for each matrix.
    """

    places: tuple[tuple[int, Half, KeyPosition], ...]
    training: Training = Training(clamp=1.0)
    clamps: tuple[float, ...] = ()
    wordings: int = 4
    neighbours: int = 8
    others: int = 4
    keep: float = 10.0
    held: int = 2
    shrink: float = 0.0
    contexts: tuple[str, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ((5, 3), (10, 2))
    moments: tuple[Moment | str, ...] = ()
    text: str = ""
    n_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number out of its bounds, or if no place is given."""
        require_in_bounds(self)
        if self.training.attention_kl:
            raise InputError(
                "training.attention_kl: must be 0 for cues, whose inserts act at all tokens: there "
                "is no single edited token that heads could attend to more than before"
            )
        if not self.places or len(set(self.places)) < len(self.places):
            raise InputError(f"places: must be distinct places to write, got {self.places}")

    @property
    def groups(self) -> list[list[WriteSite]]:
        """The matrices, which need a moment each (see `kedit.editing.spared.Sparing`)."""
        return [[site] for site in sorted({place.site for place in self._places})]

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares the editor for a model: gets the moments and samples the contexts.

        The returned function makes one edit after the other, each on the model with the edits
        before it.

        Raises:
            InputError: see `ROME.on`; later: a prompt has no token at a key position, or two keys
                of one matrix are linearly dependent.
        """
        moments, contexts = self._read_once(model)
        settings = settings_of(self, contexts, [*moments.values()])

        def edit(request: EditRequest) -> Edit:
            texts = list(self._texts(request, contexts))
            inserts = self._inserts(model, request, texts, moments)
            rows = [self._row(model, text, text.demand.target) for text in texts]
            for demand in self._staying(request, self.held, self.held):
                with contextlib.suppress(InputError):  # longer than the context: left out
                    rows.append(self._row(model, _Text(demand, 0), ""))
            values = fit(model, rows, inserts, self.training).values
            deltas = {
                site.parameter: LowRank(insert.shares, values[site])
                for site, insert in inserts.items()
            }
            return Edit(deltas, made_by("cues", settings, [request], model))

        return lambda requests: edit_in_turn(model, requests, edit)

    def inserter(
        self, model: HookedTransformer
    ) -> Callable[[EditRequest], Mapping[WriteSite, Insert]]:
        """Returns a function that gives the keys that an edit of a request would insert.

        They are known without training: see `kedit.studies.leaks`.

        Raises:
            InputError: see `on`.
        """
        moments, contexts = self._read_once(model)
        return lambda request: self._inserts(
            model, request, list(self._texts(request, contexts)), moments
        )

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit per request, on the model with the edits before it; combines them."""
        return self.on(model)(requests)

    @property
    def _places(self) -> list[Place]:
        return [Place(*place) for place in self.places]

    @property
    def _clamps(self) -> tuple[float, ...]:
        factors = self.clamps or (1.0,) * len(self.places)
        return tuple(self.training.clamp * factor for factor in factors)

    def _read_once(
        self, model: HookedTransformer
    ) -> tuple[dict[WriteSite, Moment], tuple[str, ...]]:
        """Returns the moment of each matrix, and the contexts.

        Raises:
            InputError: the clamps do not fit the places, or a moment cannot be had.
        """
        if self.clamps and len(self.clamps) != len(self.places):
            raise InputError(
                f"clamps: must be one for each of {len(self.places)} places, got {self.clamps}"
            )
        moments = {moment.sites[0]: moment for moment in spared(model, self)}
        return moments, bare_first(self.contexts or rome_contexts(model, self.lengths, self.seed))

    def _texts(self, request: EditRequest, contexts: Sequence[str]) -> Iterator[_Text]:
        """Yields the request's demands after each context, and in other words."""
        for number, demand in enumerate(request.demands):
            yield from (_Text(demand, number, context) for context in contexts)
            yield from (_Text(other, number) for other in in_other_words(demand, self.wordings))

    def _staying(self, request: EditRequest, n_neighbours: int, n_others: int) -> Iterator[Demand]:
        """Yields prompts about other pairs and other relations, in all wordings.

        Only their prompts are meaningful (see `kedit.editing.neighbours`).
        """
        for demand in neighbours(request, n_neighbours, self.seed):
            yield from (demand, *in_other_words(demand, self.wordings))
        for demand in other_relations(request, n_others, self.seed):
            yield from in_other_words(demand, self.wordings)

    def _inserts(
        self,
        model: HookedTransformer,
        request: EditRequest,
        texts: Sequence[_Text],
        moments: Mapping[WriteSite, Moment],
    ) -> dict[WriteSite, Insert]:
        """Returns the keys to insert into each matrix, as shares of the values to be trained."""
        inserted: dict[WriteSite, list[Tensor]] = {site: [] for site in moments}
        others: dict[WriteSite, list[Tensor]] = {site: [] for site in moments}
        clamps: dict[WriteSite, list[Tensor]] = {site: [] for site in moments}
        wheres: dict[KeyPosition, None] = dict.fromkeys(place.where for place in self._places)
        for where in wheres:
            clamp_of = {
                place.site: clamp
                for place, clamp in zip(self._places, self._clamps, strict=True)
                if place.where == where
            }
            for site, (own, rest) in self._keys(model, request, texts, where, clamp_of).items():
                inserted[site].append(own)
                others[site].append(rest)
                clamps[site].append(own.new_full((len(own),), clamp_of[site]))
        inserts = {}
        for site, moment in moments.items():
            keys, rest = torch.cat(inserted[site]), torch.cat(others[site]).double()
            solve = moment.inverse(self.shrink)
            if len(rest):
                solve = sparing(solve, Spared(rest, solve(rest.T)), self.keep)
            unit = exact_insert(keys, torch.eye(len(keys)).to(keys), solve)
            norms = site.raw(model, keys).norm(dim=-1)
            inserts[site] = Insert(unit.left @ unit.right, norms, torch.cat(clamps[site]))
        return inserts

    def _keys(
        self,
        model: HookedTransformer,
        request: EditRequest,
        texts: Sequence[_Text],
        where: KeyPosition,
        sites: Collection[WriteSite],
    ) -> Mapping[WriteSite, tuple[Float[Tensor, "n d_key"], Float[Tensor, "n_spared d_key"]]]:
        """Returns the request's mean keys at one key position, and the keys to spare there.

        Demands with the same text up to this position have one key. A text that is edited is not
        spared.
        """
        group = groups(model, request, where)
        own: list[list[Tokens]] = [[] for _ in range(1 + max(group))]
        for text in texts:
            own[group[text.number]].append(_up_to(model, text.demand, where, text.context))
        edited = {tokens for of_key in own for tokens in of_key}
        rest: dict[Tokens, None] = {}
        for demand in self._staying(request, self.neighbours, self.others):
            with contextlib.suppress(InputError):  # longer than the context: left out
                rest[_up_to(model, demand, where)] = None
        spared = [tokens for tokens in rest if tokens not in edited]
        every = [*(tokens for of_key in own for tokens in of_key), *spared]
        found = LastTokens(model, every, min(site.layer for site in sites)).keys([*sites])
        keys = {}
        for site, read in found.items():
            *of_keys, of_spared = read.split([*map(len, own), len(spared)])
            keys[site] = torch.stack([of_key.mean(0) for of_key in of_keys]), of_spared
        return keys

    def _row(self, model: HookedTransformer, text: _Text, target: str) -> Row:
        """Returns the training row of a text; without a target, what the model says should stay.

        The inserts act from the first key position on. What they write before it is nearly nothing.
        """
        fact, mentioned = text.demand.fact, text.demand.mentioned
        found = [
            located(model, fact, place.where, mentioned, text.context) for place in self._places
        ]
        tokens, start = found[0][0], min(pos for _, pos in found)
        if not target:
            return Row(tokens, start, staying=len(tokens) - 1)
        targets = answer_ids(model, fact.prompt, target)
        return Row((*tokens, *targets[:-1]), start, targets=targets)


def _up_to(
    model: HookedTransformer, demand: Demand, where: KeyPosition, context: str = ""
) -> Tokens:
    """Returns the demand's prompt after a context, up to a key position."""
    tokens, pos = located(model, demand.fact, where, demand.mentioned, context)
    return tokens[: pos + 1]
