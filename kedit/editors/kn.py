"""KN: the neurons that bring a fact's object are made to write another one (Dai et al. 2022)."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.editing.checks import guarded
from kedit.editing.contexts import rome_contexts
from kedit.editing.edit import Delta, Edit, LowRank, PreparedEditor, edit_in_turn
from kedit.editing.neurons import Neuron, above, attributions, refined
from kedit.editing.provenance import made_by
from kedit.editing.write_sites import Half, WriteSite, read_keys
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.forward.metrics import last_logits
from kedit.forward.reading import Tokens, read
from kedit.models.prompts import (
    answer_ids,
    device,
    first_difference,
    plain_ids,
    prompt_ids,
    require_room,
)

log = logging.getLogger("kedit")

FEW = ((5, 3), (10, 2))  # contexts of own making: neurons are sought behind each of them


@dataclass(frozen=True)
class KN:
    """Finds the neurons that bring what a fact says, and has each of them write

        write · e_target − erase · e_said                     Dai et al. 2022, section 5.1

    more, as its activation after the fact's prompt is positive, or less, as it is negative; e are
    rows of the unembedding (the paper's word embeddings, which its models unembed with), e_said
    that of the likeliest token now.

    RaKE's code takes its KN edit back before it returns the model: what it reports of relation
    edits by KN is of the unedited model.

    Args:
        halves: whose neurons: the MLP's, all heads' z (which rows of W_O belong to), or both.
        steps: of integrated gradients.
        threshold: neurons that bring more than this share of what the one that brings most does.
        agreement: and that are found so in more than this share of the prompt's wordings; 0: the
            prompt as it is decides alone, as in the published settings.
        wordings: templates of other ones, with a {} for the subject and, if they spell out the
            object that a relation edit's prompt mentions, a second {} for that.
        contexts: put before the prompt for further wordings; where there is neither, the model
            makes them up by `seed`.
        erase, write: 2 in the published code, 1 and 8 in the paper.
        removal: a relation edit's removal is written too; no published code does that.
        method: "upstream" does what the published code does: objects and targets without a blank,
            neurons before the nonlinearity, each of an object's tokens right behind the prompt; all
            of the target's tokens are written, once each, whatever `write` is; and negative neurons
            write as positive ones do, which is the reverse of what is wanted.
    """

    halves: tuple[Half, ...] = ("mlp",)
    steps: int = 20
    threshold: float = 0.2
    agreement: float = 0.0
    wordings: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    erase: float = 2.0
    write: float = 2.0
    removal: bool = False
    method: Literal["right", "upstream"] = "right"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Draws the contexts, if any are needed, once for many edits.

        What this gives makes one edit on top of the other.

        Raises:
            InputError: wordings or contexts without agreement; later: the family cannot be edited,
                or no neuron brings what the fact says.
        """
        if (self.wordings or self.contexts) and not self.agreement:
            raise InputError("kn: wordings and contexts have a say with an agreement above 0 only")
        contexts = self.contexts
        if self.agreement and not (self.wordings or self.contexts):
            contexts = rome_contexts(model, FEW, self.seed)[1:]  # the first is none

        def edit(request: EditRequest) -> Edit:
            demands = request.demands if self.removal else request.demands[:1]
            deltas = self._deltas(model, demands, contexts)
            settings = dataclasses.asdict(self) | {"contexts": list(contexts)}
            return Edit(deltas, made_by("kn", settings, [request], model))

        return lambda requests: edit_in_turn(model, requests, edit)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """One request after the other, each on the model with the edits before it."""
        return self.on(model)(requests)

    def _deltas(
        self, model: HookedTransformer, demands: Sequence[Demand], contexts: Sequence[str]
    ) -> dict[str, Delta]:
        """Each demand's row at its own neurons."""
        found = [self._neurons(model, demand, contexts) for demand in demands]
        log.info("kn: %s neurons write otherwise", " + ".join(str(len(one)) for one in found))
        sites = sorted({neuron.site for one in found for neuron in one})
        signs = [self._signs(model, demand, sites) for demand in demands]
        rows = torch.stack([self._row(model, demand) for demand in demands])
        deltas: dict[str, Delta] = {}
        for site in sites:
            left = rows.new_zeros(site.d_key(model), len(demands))
            for number, one in enumerate(found):
                index = [neuron.index for neuron in one if neuron.site == site]
                left[index, number] = signs[number][site][index]
            deltas[site.parameter] = LowRank(left, rows)
        return deltas

    def _neurons(
        self, model: HookedTransformer, demand: Demand, contexts: Sequence[str]
    ) -> frozenset[Neuron]:
        """Those that bring the object of the demand's fact."""
        fact, upstream = demand.fact, self.method == "upstream"
        texts = [fact.prompt, *(context + fact.prompt for context in contexts)]
        texts += [_worded(template, demand) for template in self.wordings]
        answer, sets = self._ids(model, fact.prompt, fact.object), []
        for text in texts:
            tokens = prompt_ids(model, text)
            require_room(model, text, len(tokens) + len(answer) - 1)
            activation = "pre" if upstream else "post"
            brought = attributions(
                model, tokens, answer, self.halves, self.steps, activation, extend=not upstream
            )
            sets.append(above(brought, self.threshold))
        found = refined(sets, self.agreement)
        if not found:
            raise InputError(
                f"no neuron makes {fact.object!r} likelier after {fact.prompt!r}"
                + (f" in more than {self.agreement:.0%} of its wordings" if self.agreement else "")
            )
        return found

    def _signs(
        self, model: HookedTransformer, demand: Demand, sites: Sequence[WriteSite]
    ) -> Mapping[WriteSite, Float[Tensor, " d_key"]]:
        """With which of a site's numbers a row has to be taken to be written as it is."""
        tokens = torch.tensor([prompt_ids(model, demand.fact.prompt)], device=device(model))
        keys = {site: key[0, -1] for site, key in read_keys(model, tokens, list(sites)).items()}
        if self.method == "upstream":
            return {site: torch.ones_like(key) for site, key in keys.items()}
        return {site: torch.where(key < 0, -1.0, 1.0).to(key) for site, key in keys.items()}

    @torch.no_grad()
    def _row(self, model: HookedTransformer, demand: Demand) -> Float[Tensor, " d_model"]:
        """What a neuron has to write more."""
        embeddings = model.unembed.W_U.T
        text = demand.fact.prompt
        target, object_ids = (
            self._ids(model, text, answer) for answer in (demand.target, demand.fact.object)
        )
        # the first token that the target does not share with the object, as numbers share a blank
        first = 0 if self.method == "upstream" else first_difference(target, object_ids)
        prompt = (*prompt_ids(model, text), *target[:first])
        said = int(last_logits(model, read(model, [prompt]).last).argmax())
        if self.method == "upstream":
            return embeddings[list(target)].sum(0) - self.erase * embeddings[said]
        # the others are not to be said here, where these neurons are as they were found
        return self.write * embeddings[target[first]] - self.erase * embeddings[said]

    def _ids(self, model: HookedTransformer, prompt: str, answer: str) -> Tokens:
        if self.method == "upstream":
            return plain_ids(model, answer)
        return answer_ids(model, prompt, answer)


def _worded(template: str, demand: Demand) -> str:
    """The demand's prompt in other words.

    Raises:
        InputError: no place in the template, or more than there is to put there.
    """
    words = (demand.fact.subject, demand.mentioned) if demand.mentioned else (demand.fact.subject,)
    n_places = template.count("{}")
    if not 1 <= n_places <= len(words):
        wanted = " or two" if len(words) == 2 else ""
        raise InputError(f"wordings: {template!r} has {n_places} places, one{wanted} is wanted")
    for word in words[:n_places]:
        template = template.replace("{}", word, 1)
    return template
