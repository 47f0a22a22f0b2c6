"""Attention knockout: cuts attention edges in some layers, and scores the answer again.

Which tokens does information about the answer come from, and in which layers does it move? If
cutting the edges from the last token to the subject in a few layers lowers the answer's
probability, then information from the subject's positions flows to the last token in these layers.
Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models"
(arXiv 2304.14767).
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

ROWS_PER_BATCH = 32


@dataclass(frozen=True)
class Cut:
    """The attention edges to cut: from all positions of `queries` to all positions of `keys`.

    Args:
        queries: role or roles of the attending tokens (kedit.models.prompts.ROLES).
        keys: role or roles of the tokens that are attended to. The paper's "non-subject" is
            ("bos", "relation", "rest").
        heads: heads in which the edges are cut; all of the model's if None.
    """

    queries: Roles
    keys: Roles
    heads: frozenset[Head] | None = None

    def __str__(self) -> str:
        ends = ((end,) if isinstance(end, str) else end for end in (self.queries, self.keys))
        return " to ".join("+".join(end) for end in ends)


@dataclass(frozen=True)
class KnockoutCurve:
    """The answer's scores with edges cut in a window around each layer, and without any cut.

    Args:
        cut: the edges that were cut.
        window: number of layers in which they were cut together.
        layers: the windows' centres, one per column of `scores`.
        scores: scores with the cut, by metric (in the order of METRICS) and centre.
        uncut: scores without it, by metric.
    """

    cut: Cut
    window: int
    layers: tuple[int, ...]
    scores: Float[Tensor, "metric layer"]
    uncut: Float[Tensor, " metric"]

    def difference(self, metric: str = "prob") -> Float[Tensor, " layer"]:
        """scores - uncut, which is below zero where the answer needs the edges."""
        index = METRICS.index(metric)
        return self.scores[index] - self.uncut[index]

    @property
    def relative_change(self) -> Float[Tensor, " layer"]:
        """The answer's relative change of probability, (p_cut - p) / p, which the paper reports.

        It is -1 if the cut removes all of the probability.
        """
        # from log-probabilities, so that it is defined even if p is 0 in float32
        return self.difference("logprob").expm1()


@torch.no_grad()
def knockout(
    model: HookedTransformer,
    prompt: Prompt,
    question: AnswerMetric,
    cut: Cut,
    window: int,
    layers: Sequence[int] | None = None,
) -> KnockoutCurve:
    """Scores the answer with the edges of `cut` removed in `window` layers around each layer.

    The edges' attention scores become -inf before the softmax, so the query's remaining weights
    still sum to 1.

    Args:
        prompt: the prompt that the model reads.
        question: the answer and the foil.
        cut: the edges to cut.
        window: number w of layers: [l - w//2, l + (w-1)//2], clipped to the model (see
            `Patch.layers`); 9 in the paper. A window without any of the cut's heads changes
            nothing.
        layers: the windows' centres; all of the model's layers if None.

    Raises:
        InputError: the prompt has no token of a role, a query would be left without any key, the
            model does not have a layer or a head, or `cut.heads` is empty.
    """
    n_layers = model.cfg.n_layers
    centres = tuple(range(n_layers)) if layers is None else tuple(layers)
    if window < 1:
        raise InputError(f"window {window}: must be at least 1")
    if not set(centres) <= set(range(n_layers)):
        raise InputError(f"layers {centres}: the model has layers 0 to {n_layers - 1}")
    around = Patch("attn_out", window)
    # the first window is empty: the uncut run
    windows = [range(0), *(around.layers(layer, n_layers) for layer in centres)]
    resid = []
    for start in range(0, len(windows), ROWS_PER_BATCH):
        batch = windows[start : start + ROWS_PER_BATCH]
        rows = prompt.tokens.expand(len(batch), -1)
        last = model.run_with_hooks(
            rows,
            fwd_hooks=_hooks(model, prompt, cut, batch),
            stop_at_layer=n_layers,
            attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
        )
        resid.append(last[:, -1])
    scores = answer_scores(model, torch.cat(resid), question.answer, question.foil).cpu()
    return KnockoutCurve(cut, window, centres, scores[:, 1:], scores[:, 0])


def _hooks(
    model: HookedTransformer, prompt: Prompt, cut: Cut, windows: Sequence[range]
) -> list[tuple[str | Callable, Callable]]:
    """Makes the hooks that cut the edges, in one window of layers per row of the batch."""
    edges, heads = _edges(prompt, cut), _heads(model, cut)
    hooks: list[tuple[str | Callable, Callable]] = []
    for layer in range(model.cfg.n_layers):
        is_cut = torch.tensor([layer in window for window in windows])
        lost = is_cut[:, None, None, None] & heads[layer, :, None, None] & edges
        if lost.any():
            hide = partial(_hide, lost=lost, name=f"{cut} in layer {layer}", prompt=prompt)
            hooks.append((get_act_name("attn_scores", layer), hide))
    return hooks


def _edges(prompt: Prompt, cut: Cut) -> Bool[Tensor, "query key"]:
    """Which pairs of positions are cut; pairs whose key follows the query have no edge anyway."""
    edges = torch.zeros(len(prompt.labels), len(prompt.labels), dtype=torch.bool)
    queries, keys = positions_of(prompt, cut.queries), positions_of(prompt, cut.keys)
    edges[torch.tensor(queries)[:, None], torch.tensor(keys)] = True
    return edges


def _heads(model: HookedTransformer, cut: Cut) -> Bool[Tensor, "layer head"]:
    """Which heads lose the edges.

    Raises:
        InputError: the model does not have a head, or `cut.heads` is empty.
    """
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    if cut.heads is None:
        return torch.ones(shape, dtype=torch.bool)
    chosen = torch.zeros(shape, dtype=torch.bool)
    for layer, head in cut.heads:
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            last = Head(shape[0] - 1, shape[1] - 1)
            raise InputError(f"head {Head(layer, head)}: the model has {Head(0, 0)} to {last}")
        chosen[layer, head] = True
    if not cut.heads:
        raise InputError(f"cut {cut}: heads is empty; give some heads, or None for all")
    return chosen


def _hide(
    scores: Float[Tensor, "row head query key"],
    hook: object,
    lost: Bool[Tensor, "row head query key"],
    name: str,
    prompt: Prompt,
) -> Float[Tensor, "row head query key"]:
    """Removes the `lost` edges from attention scores that are already capped and masked.

    Raises:
        InputError: a query has no key left.
    """
    left = scores.masked_fill(lost.to(scores.device), -torch.inf)
    # Checked here and not before the run, because only the masked scores show how far a layer with
    # local attention sees. Unchecked, a softmax over nothing would silently give zeros.
    blind = (left == -torch.inf).all(-1).flatten(0, 1).any(0).nonzero().flatten().tolist()
    if blind:
        named = ", ".join(f"{pos} ({prompt.labels[pos]!r})" for pos in blind)
        raise InputError(f"cutting {name} leaves these positions nothing to attend to: {named}")
    return left
