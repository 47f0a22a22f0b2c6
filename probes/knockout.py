"""Attention knockout: what positions see of one another is cut, and the model is asked again.

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models"
(arXiv 2304.14767): the layers where an answer needs an edge are those where information flows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, answer_scores
from kedit.heads import Head
from kedit.models.prompts import Prompt
from probes.attention import Roles, positions_of
from probes.patch import AnswerMetric, Patch

ROWS = 32  # of a batch


@dataclass(frozen=True)
class Cut:
    """Attention edges: all from the positions of `queries`, which look, to those of `keys`.

    Args:
        queries, keys: roles of the prompt (kedit.models.prompts.ROLES): one, or several as one
            group. The paper's "non-subject" is ("bos", "relation", "rest").
        heads: that lose these edges; all of the model if None.
    """

    queries: Roles
    keys: Roles
    heads: frozenset[Head] | None = None

    def __str__(self) -> str:
        ends = ((end,) if isinstance(end, str) else end for end in (self.queries, self.keys))
        return " to ".join("+".join(end) for end in ends)


@dataclass(frozen=True)
class KnockoutCurve:
    """The answer's scores with a cut in a window around each layer, and without one.

    Args:
        cut, window: what was cut, and in how many layers together.
        layers: the windows' centres, which the columns of `scores` stand for.
        scores: by metric (as METRICS has them) and centre.
        uncut: by metric.
    """

    cut: Cut
    window: int
    layers: tuple[int, ...]
    scores: Float[Tensor, "metric layer"]
    uncut: Float[Tensor, " metric"]

    def difference(self, metric: str = "prob") -> Float[Tensor, " layer"]:
        """scores - uncut: below zero where the answer needs the edges."""
        index = METRICS.index(metric)
        return self.scores[index] - self.uncut[index]

    @property
    def relative_change(self) -> Float[Tensor, " layer"]:
        """(p_cut - p) / p, p the answer's probability: the paper's measure, -1 if all is lost."""
        return self.difference("logprob").expm1()  # defined where p is 0 in float32, too


@torch.no_grad()
def knockout(
    model: HookedTransformer,
    prompt: Prompt,
    question: AnswerMetric,
    cut: Cut,
    window: int,
    layers: Sequence[int] | None = None,
) -> KnockoutCurve:
    """Asks `question` with the edges of `cut` gone in `window` layers around each of `layers`.

    Their scores are -inf before the softmax, so that a query's other weights grow to sum to one.

    Args:
        window: layers, [l - w//2, l + (w-1)//2] clipped to the model (`Patch.layers`); 9 in the
            paper. One that holds none of the cut's heads leaves the answer as it is.
        layers: the windows' centres; all of the model's if None.

    Raises:
        InputError: roles without a position in this prompt, a query that would be left without any
            key, layers or heads that the model does not have, or no heads.
    """
    n_layers = model.cfg.n_layers
    centres = tuple(range(n_layers)) if layers is None else tuple(layers)
    if window < 1:
        raise InputError(f"window {window}: at least one layer is wanted")
    if not set(centres) <= set(range(n_layers)):
        raise InputError(f"layers {centres}: the model has 0 to {n_layers - 1}")
    around = Patch("attn_out", window)
    windows = [range(0), *(around.layers(layer, n_layers) for layer in centres)]
    resid = []
    for start in range(0, len(windows), ROWS):
        part = windows[start : start + ROWS]
        rows = prompt.tokens.expand(len(part), -1)
        last = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(model, prompt, cut, part),
            stop_at_layer=n_layers,
            attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
        )
        resid.append(last[:, -1])
    scores = answer_scores(model, torch.cat(resid), question.answer, question.foil).cpu()
    return KnockoutCurve(cut, window, centres, scores[:, 1:], scores[:, 0])


def _hooks(
    model: HookedTransformer, prompt: Prompt, cut: Cut, windows: Sequence[range]
) -> list[tuple[str | Callable, Callable]]:
    """Those that make the cut in one window of layers a row."""
    edges, heads = _edges(prompt, cut), _heads(model, cut)
    hooks: list[tuple[str | Callable, Callable]] = []
    for layer in range(model.cfg.n_layers):
        is_cut = torch.tensor([layer in window for window in windows])
        lost = is_cut[:, None, None, None] & heads[layer, :, None, None] & edges
        if lost.any():
            hide = partial(_hide, lost=lost, told=f"{cut} in layer {layer}", prompt=prompt)
            hooks.append((get_act_name("attn_scores", layer), hide))
    return hooks


def _edges(prompt: Prompt, cut: Cut) -> Bool[Tensor, "query key"]:
    """Which pairs of positions are cut; keys behind their query are no edges and stay none."""
    edges = torch.zeros(len(prompt.labels), len(prompt.labels), dtype=torch.bool)
    queries, keys = positions_of(prompt, cut.queries), positions_of(prompt, cut.keys)
    edges[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
    return edges


def _heads(model: HookedTransformer, cut: Cut) -> Bool[Tensor, "layer head"]:
    """Which heads the cut is made in."""
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    if cut.heads is None:
        return torch.ones(shape, dtype=torch.bool)
    chosen = torch.zeros(shape, dtype=torch.bool)
    for layer, head in cut.heads:
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            last = Head(shape[0] - 1, shape[1] - 1)
            raise InputError(f"{Head(layer, head)}: the model has {Head(0, 0)} to {last}")
        chosen[layer, head] = True
    if not cut.heads:
        raise InputError(f"{cut}: no heads to cut it in; None is wanted for all")
    return chosen


def _hide(
    scores: Float[Tensor, "row head query key"],
    hook: object,
    lost: Bool[Tensor, "row head query key"],
    told: str,
    prompt: Prompt,
) -> Float[Tensor, "row head query key"]:
    """Scores, behind soft cap and causal mask, without the `lost` ones."""
    left = scores.masked_fill(lost.to(scores.device), -torch.inf)
    # found here, for only the scores know how far a local layer sees; a softmax over nothing would
    # pass as zeros
    blind = (left == -torch.inf).all(-1).flatten(0, 1).any(0).nonzero().flatten().tolist()
    if blind:
        named = ", ".join(f"{pos} ({prompt.labels[pos]!r})" for pos in blind)
        raise InputError(f"cutting {told} leaves these positions nothing to look at: {named}")
    return left
