"""KN: changes what the neurons write that make an object likely (Dai et al. 2022)."""

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

# lengths and numbers of sampled contexts: few, because neurons are searched after each of them
FEW = ((5, 3), (10, 2))
# The length of what is written into a row, relative to the rows of W_out, where KN's factor is
# None. On Gemma 3 270M it gives the factor that was tuned there, 0.03.
NUDGE = 0.076


@dataclass(frozen=True)
class KN:
    """Finds the neurons that make a fact's object likely, and changes what each of them writes by

        write · e_target − erase · e_said                     Dai et al. 2022, section 5.1

    This is added for neurons with a positive activation after the fact's prompt, and subtracted for
    neurons with a negative one. e are rows of the unembedding (in the paper word embeddings, with
    which its models unembed), and e_said is that of the currently likeliest token.

    By default kedit departs from the published code as described under `method`. RaKE's code undoes
    its KN edit before it returns the model, so its results for relation edits by KN are those of
    the unedited model.

    Args:
        halves: whose neurons: the MLP's, all heads' z (each number has a row of W_O), or both.
        steps: number of steps of integrated gradients.
        threshold: neurons are selected if their attribution exceeds this share of the largest one.
        agreement: neurons are kept if they are selected in more than this share of the prompt's
            wordings; 0: only the prompt itself is used, as in the published settings.
        wordings: templates of other wordings, with a {} for the subject and, if they name the
            object that a relation edit's prompt mentions, a second {} for it.
        contexts: put before the prompt, for further wordings. If there are neither wordings nor
            contexts, the model samples contexts with `seed`.
        erase: factor of e_said; 2 in the published code, 1 in the paper; None: `nudge_for` the
            model.
        write: factor of e_target; 2 in the published code, 8 in the paper; None: as for `erase`.
        removal: whether a relation edit's removal is written too; no published code does this.
        method: "upstream" does what the published code does: objects and targets have no blank
            before them; neurons are taken before the nonlinearity; each token of an object is read
            directly after the prompt; all tokens of the target are written, once each, whatever
            `write` is; and negative neurons write the same as positive ones, which is the opposite
            of what is needed.
        seed: of the contexts.
    """

    halves: tuple[Half, ...] = ("mlp",)
    steps: int = 20
    threshold: float = 0.2
    agreement: float = 0.0
    wordings: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    erase: float | None = 2.0
    write: float | None = 2.0
    removal: bool = False
    method: Literal["right", "upstream"] = "right"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares the editor for a model: samples the contexts, if any are needed.

        The returned function makes one edit after the other, each on the model with the edits
        before it.

        Raises:
            InputError: there are wordings or contexts but no agreement; later: models of this
                family cannot be edited, or no neuron makes the object likelier.
        """
        if (self.wordings or self.contexts) and not self.agreement:
            raise InputError(
                "kn: wordings and contexts are only used if agreement is above 0: set agreement, "
                "or leave them out"
            )
        contexts = self.contexts
        if self.agreement and not (self.wordings or self.contexts):
            contexts = rome_contexts(model, FEW, self.seed)[1:]  # without the empty one

        unset = [name for name in ("erase", "write") if getattr(self, name) is None]
        nudge = nudge_for(model) if unset else 0.0
        resolved = dataclasses.replace(self, **dict.fromkeys(unset, nudge))

        def edit(request: EditRequest) -> Edit:
            demands = request.demands if self.removal else request.demands[:1]
            deltas = resolved._deltas(model, demands, contexts)
            settings = dataclasses.asdict(resolved) | {"contexts": list(contexts)}
            return Edit(deltas, made_by("kn", settings, [request], model))

        return lambda requests: edit_in_turn(model, requests, edit)

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit per request, on the model with the edits before it; combines them."""
        return self.on(model)(requests)

    def _deltas(
        self, model: HookedTransformer, demands: Sequence[Demand], contexts: Sequence[str]
    ) -> dict[str, Delta]:
        """Returns the deltas that add each demand's change to the rows of its neurons."""
        found = [self._neurons(model, demand, contexts) for demand in demands]
        log.info("kn: changes %s neurons", " + ".join(str(len(neurons)) for neurons in found))
        sites = sorted({neuron.site for neurons in found for neuron in neurons})
        signs = [self._signs(model, demand, sites) for demand in demands]
        rows = torch.stack([self._row(model, demand) for demand in demands])
        deltas: dict[str, Delta] = {}
        for site in sites:
            left = rows.new_zeros(site.d_key(model), len(demands))
            for number, neurons in enumerate(found):
                index = [neuron.index for neuron in neurons if neuron.site == site]
                left[index, number] = signs[number][site][index]
            deltas[site.parameter] = LowRank(left, rows)
        return deltas

    def _neurons(
        self, model: HookedTransformer, demand: Demand, contexts: Sequence[str]
    ) -> frozenset[Neuron]:
        """Returns the neurons that make the object of the demand's fact likely."""
        fact, upstream = demand.fact, self.method == "upstream"
        texts = [fact.prompt, *(context + fact.prompt for context in contexts)]
        texts += [_worded(template, demand) for template in self.wordings]
        answer, sets = self._ids(model, fact.prompt, fact.object), []
        for text in texts:
            tokens = prompt_ids(model, text)
            require_room(model, text, len(tokens) + len(answer) - 1)
            activation = "pre" if upstream else "post"
            attributed = attributions(
                model, tokens, answer, self.halves, self.steps, activation, extend=not upstream
            )
            sets.append(above(attributed, self.threshold))
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
        """Returns the sign with which a demand's change is added to each row of each site.

        With a negative activation, the row has to be changed by the negative of what should be
        written.
        """
        tokens = torch.tensor([prompt_ids(model, demand.fact.prompt)], device=device(model))
        keys = {site: key[0, -1] for site, key in read_keys(model, tokens, list(sites)).items()}
        if self.method == "upstream":
            return {site: torch.ones_like(key) for site, key in keys.items()}
        return {site: torch.where(key < 0, -1.0, 1.0).to(key) for site, key in keys.items()}

    @torch.no_grad()
    def _row(self, model: HookedTransformer, demand: Demand) -> Float[Tensor, " d_model"]:
        """Returns what a neuron should write in addition: write · e_target − erase · e_said."""
        assert self.erase is not None and self.write is not None  # `on` has replaced them
        embeddings = model.unembed.W_U.T
        text = demand.fact.prompt
        target, object_ids = (
            self._ids(model, text, answer) for answer in (demand.target, demand.fact.object)
        )
        # the first token in which target and object differ: numbers, for example, share a blank
        first = 0 if self.method == "upstream" else first_difference(target, object_ids)
        prompt = (*prompt_ids(model, text), *target[:first])
        said = int(last_logits(model, read(model, [prompt]).last).argmax())
        if self.method == "upstream":
            return embeddings[list(target)].sum(0) - self.erase * embeddings[said]
        # only this token: at this position, the target's later tokens should not become likelier
        return self.write * embeddings[target[first]] - self.erase * embeddings[said]

    def _ids(self, model: HookedTransformer, prompt: str, answer: str) -> Tokens:
        """Returns an answer's token ids as it follows the prompt (upstream: without a blank)."""
        if self.method == "upstream":
            return plain_ids(model, answer)
        return answer_ids(model, prompt, answer)


def nudge_for(model: HookedTransformer) -> float:
    """Returns the factor that makes an unembedding NUDGE times as long as a row of W_out.

    Both lengths are means: over the vocabulary, and over all layers' rows.

    Raises:
        InputError: the model has no MLPs.
    """
    sites = [WriteSite(layer) for layer in range(model.cfg.n_layers)]
    rows = torch.stack([site.weight(model).norm(dim=1).mean() for site in sites])
    return float(NUDGE * rows.mean() / model.unembed.W_U.norm(dim=0).mean())


def _worded(template: str, demand: Demand) -> str:
    """Fills the demand's subject, and its mentioned object, into another template.

    Raises:
        InputError: the template has no {}, or more of them than there are names.
    """
    words = (demand.fact.subject, demand.mentioned) if demand.mentioned else (demand.fact.subject,)
    n_blanks = template.count("{}")
    if not 1 <= n_blanks <= len(words):
        needed = "once or twice" if len(words) == 2 else "exactly once"
        raise InputError(f"wordings: {template!r} must contain {{}} {needed}, got {n_blanks}")
    for word in words[:n_blanks]:
        template = template.replace("{}", word, 1)
    return template
