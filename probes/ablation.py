"""Ablates heads: replaces their outputs by a stand-in, and scores the answer again.

Patching shows where restoring a head suffices to raise the answer's score. Ablation asks the
opposite question: which heads does the answer need? A good stand-in keeps what a head contributes
to any prompt of this form, and removes what depends on this prompt's words. Such stand-ins are the
mean over other prompts (Wang et al. 2022, arXiv 2211.00593) and the output on another prompt
(resampling, Chan et al. 2022, "Causal Scrubbing"). Zeros are offered for comparison. No text makes
a head put out zeros, so the score may also fall because later layers have never met such an input.
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

ROWS_PER_BATCH = 64

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
    """Scores the answer once per set of heads, with all heads of the set ablated together.

    Args:
        prompt: the prompt that the model reads.
        question: the answer and the foil.
        sets: sets of heads; an empty set gives the unchanged model's scores.
        stand_in: values that replace the heads' z: `mean_z`, `other_z` or `zero_z`.
        positions: where z is replaced; everywhere if None.

    Raises:
        InputError: a head or a position does not exist, or the stand-in has another shape than this
            prompt's z.
    """
    n_pos = len(prompt.tokens)
    shape = (model.cfg.n_layers, n_pos, model.cfg.n_heads, model.cfg.d_head)
    if stand_in.shape != shape:
        raise InputError(
            f"the stand-in has shape {tuple(stand_in.shape)} (layer, pos, head, d_head): this "
            f"prompt needs {shape}"
        )
    for layer, head in sorted(frozenset().union(*sets)):
        if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
            raise InputError(
                f"no head {Head(layer, head)}: the model has {model.cfg.n_layers} layers of "
                f"{model.cfg.n_heads} heads"
            )
    replaced_at = range(n_pos) if positions is None else positions
    if not all(0 <= pos < n_pos for pos in replaced_at):
        raise InputError(
            f"positions {list(replaced_at)}: the prompt has positions 0 to {n_pos - 1}"
        )
    scores = torch.empty(len(METRICS), len(sets))
    for start in range(0, len(sets), ROWS_PER_BATCH):
        batch = sets[start : start + ROWS_PER_BATCH]
        rows = prompt.tokens.expand(len(batch), -1)
        resid = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(batch, stand_in, replaced_at),
            stop_at_layer=model.cfg.n_layers,
            attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
        )
        found = answer_scores(model, resid[:, -1], question.answer, question.foil)
        scores[:, start : start + len(batch)] = found.cpu()
    return scores


def own_z(model: HookedTransformer, prompt: Prompt) -> StandIn:
    """The heads' outputs when the model reads `prompt`; as a stand-in, they change nothing."""
    return torch.stack(Run(prompt.tokens[None]).states(model).z)[:, 0]


def mean_z(model: HookedTransformer, references: Sequence[Prompt], prompt: Prompt) -> StandIn:
    """Averages the heads' outputs over the reference prompts' tokens of each position's role.

    Reference prompts differ in length, so positions cannot be matched. Tokens are matched by their
    role instead (`Prompt.roles`). A reference with three subject tokens counts three times in the
    mean of that role.

    Args:
        references: prompts that are averaged over.
        prompt: the prompt that is ablated, whose positions get the means.

    Raises:
        InputError: the prompt has a token of a role that no reference has.
    """
    sums: dict[str, Tensor] = {}
    counts = Counter(role for reference in references for role in reference.roles)
    for role in prompt.roles:
        if role not in counts:
            raise InputError(
                f"{' '.join(prompt.labels)!r} has a token of the role {role!r}, but none of "
                f"{len(references)} references has: at least one must have"
            )
    for reference in references:
        # in float64: the mean is over hundreds of tokens, and the model may run in bfloat16
        z = own_z(model, reference).double()
        for pos, role in enumerate(reference.roles):
            sums[role] = sums[role] + z[:, pos] if role in sums else z[:, pos]
    return torch.stack([(sums[role] / counts[role]).float() for role in prompt.roles], dim=1)


def other_z(model: HookedTransformer, other: Prompt, prompt: Prompt) -> StandIn:
    """The heads' outputs on another prompt, position by position.

    Raises:
        InputError: the prompts differ in length or in the roles of their tokens.
    """
    if other.roles != prompt.roles:
        raise InputError(
            f"the other prompt's tokens have the roles {', '.join(other.roles)}, the ablated "
            f"prompt's {', '.join(prompt.roles)}: they must have the same roles in the same order"
        )
    return own_z(model, other)


def zero_z(model: HookedTransformer, prompt: Prompt) -> StandIn:
    """Zeros for every head at every position."""
    cfg = model.cfg
    shape = (cfg.n_layers, len(prompt.tokens), cfg.n_heads, cfg.d_head)
    return torch.zeros(shape, device=prompt.tokens.device)


def _hooks(sets: Sequence[frozenset[Head]], stand_in: StandIn, positions: Sequence[int]) -> list:
    """Makes a hook per layer that replaces, in each row, the heads of this row's set."""
    n_layers, n_pos, n_heads, _ = stand_in.shape
    chosen = torch.zeros(n_layers, len(sets), n_pos, n_heads, 1, dtype=torch.bool)
    for row, heads in enumerate(sets):
        for layer, head in heads:
            chosen[layer, row, list(positions), head] = True

    def replaced(layer: int):
        here = chosen[layer].to(stand_in.device)

        def hook(z: Tensor, hook: object) -> Tensor:
            return torch.where(here.to(z.device), stand_in[layer].to(z), z)

        return hook

    return [
        (get_act_name("z", layer), replaced(layer))
        for layer in range(n_layers)
        if chosen[layer].any()
    ]
