"""Ablation: heads' outputs give way to a stand-in, and the model is asked again.

A stand-in keeps what the prompt's layout brings and drops what its words do: the mean over other
prompts (Wang et al. 2022, arXiv 2211.00593), or the run of another prompt (resampling, Chan et al.
2022, "Causal Scrubbing"). Zero is here to compare with: no text brings a head there, so that what
is lost may be lost because the layers above have never seen the like.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, answer_scores
from kedit.forward.runs import Run
from kedit.heads import Head
from kedit.models.prompts import Prompt
from probes.patch import AnswerMetric

ROWS = 64  # of a batch

StandIn = Float[Tensor, "layer pos head d_head"]


@torch.no_grad()
def ablate(
    model: HookedTransformer,
    prompt: Prompt,
    question: AnswerMetric,
    sets: Sequence[frozenset[Head]],
    stand_in: StandIn,
    positions: Sequence[int] | None = None,
) -> Float[Tensor, "metric set"]:
    """The answer's scores with each set of heads ablated by itself, all of its heads together.

    Args:
        sets: the empty one is the untouched model.
        stand_in: what takes the place of the heads' z: `mean_z`, `other_z` or `zero_z`.
        positions: where it does; at all of the prompt's if None.

    Raises:
        InputError: a head or a position that is not there, or another prompt's stand-in.
    """
    n_pos = len(prompt.tokens)
    wanted = (model.cfg.n_layers, n_pos, model.cfg.n_heads, model.cfg.d_head)
    if stand_in.shape != wanted:
        raise InputError(
            f"a stand-in of {tuple(stand_in.shape)} (layer, pos, head, d_head), "
            f"where this prompt takes one of {wanted}"
        )
    for layer, head in sorted(frozenset().union(*sets)):
        if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
            raise InputError(
                f"no head {Head(layer, head)}: the model has {model.cfg.n_layers} layers of "
                f"{model.cfg.n_heads} heads"
            )
    where = range(n_pos) if positions is None else positions
    if not all(0 <= pos < n_pos for pos in where):
        raise InputError(f"positions {list(where)}: the prompt has {n_pos} tokens, from 0 on")
    scores = torch.empty(len(METRICS), len(sets))
    for start in range(0, len(sets), ROWS):
        part = sets[start : start + ROWS]
        rows = prompt.tokens.expand(len(part), -1)
        resid = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(part, stand_in, where),
            stop_at_layer=model.cfg.n_layers,
            attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
        )
        found = answer_scores(model, resid[:, -1], question.answer, question.foil)
        scores[:, start : start + len(part)] = found.cpu()
    return scores


def own_z(model: HookedTransformer, prompt: Prompt) -> StandIn:
    """What the heads put out when the model reads `prompt`: as a stand-in, it changes nothing."""
    return torch.stack(Run(prompt.tokens[None]).states(model).z)[:, 0]


def mean_z(model: HookedTransformer, references: Sequence[Prompt], prompt: Prompt) -> StandIn:
    """At each position, the heads' mean over all tokens of the references that have its role.

    Prompts of one relation, say, differ in length: roles (`Prompt.roles`) tell which of their
    tokens stand for each other. A reference with three subject tokens counts three times there.

    Raises:
        InputError: no reference has a token of some role that the prompt has.
    """
    sums: dict[str, Tensor] = {}
    counts = Counter(role for reference in references for role in reference.roles)
    for role in prompt.roles:
        if role not in counts:
            raise InputError(
                f"none of {len(references)} references has a token of the role {role!r}, "
                f"as {' '.join(prompt.labels)!r} has"
            )
    for reference in references:
        z = own_z(model, reference).double()  # hundreds are summed, of a type that may be short
        for pos, role in enumerate(reference.roles):
            sums[role] = sums[role] + z[:, pos] if role in sums else z[:, pos]
    return torch.stack([(sums[role] / counts[role]).float() for role in prompt.roles], dim=1)


def other_z(model: HookedTransformer, other: Prompt, prompt: Prompt) -> StandIn:
    """The heads' outputs on `other`, position by position.

    Raises:
        InputError: the two differ in length, or in the roles of their tokens.
    """
    if other.roles != prompt.roles:
        raise InputError(
            f"the other prompt's tokens are {', '.join(other.roles)}; those of the one to ablate "
            f"are {', '.join(prompt.roles)}: they must be the same to stand for each other"
        )
    return own_z(model, other)


def zero_z(model: HookedTransformer, prompt: Prompt) -> StandIn:
    """Nothing at all, at every position."""
    cfg = model.cfg
    shape = (cfg.n_layers, len(prompt.tokens), cfg.n_heads, cfg.d_head)
    return torch.zeros(shape, device=prompt.tokens.device)


def _hooks(sets: Sequence[frozenset[Head]], stand_in: StandIn, positions: Sequence[int]) -> list:
    """One hook a layer: each row's own heads are replaced."""
    n_layers, n_pos, n_heads, _ = stand_in.shape
    chosen = torch.zeros(n_layers, len(sets), n_pos, n_heads, 1, dtype=torch.bool)
    for row, heads in enumerate(sets):
        for layer, head in heads:
            chosen[layer, row, list(positions), head] = True

    def replaced(layer: int):
        here = chosen[layer].to(stand_in.device)

        def hook(z: Tensor, hook: object) -> Tensor:
            return torch.where(here, stand_in[layer].to(z), z)

        return hook

    return [
        (get_act_name("z", layer), replaced(layer))
        for layer in range(n_layers)
        if chosen[layer].any()
    ]
