"""Attribution patching: estimates every cell's indirect effect from one backward pass per metric.

A sweep runs the model once per cell, which is slow for large models and for single heads. To first
order, restoring a cell changes the score by (clean − corrupted) · ∂score/∂activation, with the
gradient taken at the corrupted run. One backward pass thus estimates the effects of all cells at
once, and a screen (`probes.screen`) then restores only the most promising ones. The estimate is
poor where the score is far from linear in the activation, as in saturated softmaxes. Papers: Nanda
2023 (neelnanda.io/attribution-patching); Kramár et al. 2024, arXiv 2403.00745.

The gradient can also be averaged over points between the corrupted and the clean embeddings, as
in integrated gradients (Hanna et al. 2024, arXiv 2403.17806). That need not help: on Gemma 3 270M,
the mean of five gradients ranks the effects of heads, attention and MLPs worse than the single
gradient does (benchmarks/attribution.py).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, last_logits
from kedit.forward.patched import require_patchable
from kedit.forward.runs import States
from kedit.models.sites import require_gradients
from probes.patch import AnswerMetric, Patch

Gradients = Mapping[str, tuple[Float[Tensor, "metric sample pos *width"], ...]]  # by site and layer


def attributed(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patches: Sequence[Patch],
    question: AnswerMetric,
    metrics: Sequence[str] = METRICS,
    steps: int = 1,
) -> dict[str, Float[Tensor, "metric layer pos *head"]]:
    """Estimates the indirect effects that `probes.patch.sweep` measures; the result is by site.

    The effect of a window is estimated by the sum of its layers' effects. All positions of the
    prompt are covered.

    Args:
        clean: states of the clean run, which has one row.
        corrupted: states of the corrupted run, one row per sample.
        patches: what would be restored, at most one patch per site.
        question: the answer and the foil.
        metrics: the metrics to estimate effects in; each needs a backward pass.
        steps: number of points, from the corrupted embeddings towards the clean ones, over which
            the gradient is averaged. The first is the corrupted run. Each costs as much as the
            first.

    Raises:
        InputError: a patch is severed (the gradient would run through the paths that it cuts),
            `steps` is below 1, the runs differ in length, or the model has live hooks.
    """
    require_patchable(model)
    require_gradients(model)
    if cut := [patch for patch in patches if patch.severed]:
        raise InputError(f"{cut[0]}: severed effects cannot be estimated by gradients; sweep them")
    if steps < 1:
        raise InputError(f"steps {steps}: must be at least 1")
    n_pos = (clean.resid[0].shape[1], corrupted.resid[0].shape[1])
    if n_pos[0] != n_pos[1]:
        raise InputError(
            f"the clean run has {n_pos[0]} tokens, the corrupted run {n_pos[1]}: they must have "
            "the same number"
        )
    without_effect = {"mlp_out"} if model.cfg.attn_only else set()  # the model has no MLPs
    sites = [
        site
        for site in dict.fromkeys(patch.site for patch in patches)
        if site not in without_effect
    ]
    grads = _mean_gradients(model, clean, corrupted, sites, question, metrics, steps)
    shape = (len(metrics), model.cfg.n_layers, n_pos[0])
    found = {site: torch.zeros(shape) for site in without_effect}
    for patch in (patch for patch in patches if patch.site in sites):
        pairs = zip(_by_layer(clean, patch.site), _by_layer(corrupted, patch.site), strict=True)
        single = torch.stack(  # each layer alone: (metric, layer, pos[, head])
            [
                ((clean_act - corrupted_act) * grad).sum(-1).mean(1)
                for (clean_act, corrupted_act), grad in zip(pairs, grads[patch.site], strict=True)
            ],
            dim=1,
        )
        windows = (patch.layers(layer, single.shape[1]) for layer in range(single.shape[1]))
        sums = [single[:, window[0] : window[-1] + 1].sum(1) for window in windows]
        found[patch.site] = torch.stack(sums, dim=1).cpu()
    return found


def _mean_gradients(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    sites: Sequence[str],
    question: AnswerMetric,
    metrics: Sequence[str],
    steps: int,
) -> Gradients:
    """Computes each sample's gradients of the score, averaged over the steps."""
    total: dict[str, tuple[Tensor, ...]] = {}
    for step in range(steps):
        start = corrupted.resid[0] + (clean.resid[0] - corrupted.resid[0]) * (step / steps)
        for site, grads in _gradients(model, start, sites, question, metrics).items():
            before = total.get(site) or tuple(torch.zeros_like(grad) for grad in grads)
            total[site] = tuple(a + b / steps for a, b in zip(before, grads, strict=True))
    return total


@torch.enable_grad()
def _gradients(
    model: HookedTransformer,
    start: Float[Tensor, "sample pos d_model"],
    sites: Sequence[str],
    question: AnswerMetric,
    metrics: Sequence[str],
) -> Gradients:
    """Computes gradients of the run whose first residual is `start`, which has one row per sample.

    Rows do not interact, so the gradient of the summed score gives each row its own gradient.
    """
    layers = range(model.cfg.n_layers)
    names = {site: [get_act_name(site, layer) for layer in layers] for site in sites}
    acts: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: object) -> None:
        acts[hook.name] = act  # pyright: ignore[reportAttributeAccessIssue]

    start = start.detach().requires_grad_()
    tokens = torch.ones(start.shape[:2], dtype=torch.long, device=start.device)
    last = model.run_with_hooks(
        start,
        start_at_layer=0,
        stop_at_layer=len(layers),
        fwd_hooks=[(name, keep) for by_layer in names.values() for name in by_layer],
        attention_mask=tokens,
    )
    inputs = [acts[name] for by_layer in names.values() for name in by_layer]
    logits = last_logits(model, last[:, -1])
    by_metric = [
        torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True)
        for score in _scores(logits, question, metrics)
    ]
    # None: the score does not depend on this activation
    by_input = [
        torch.stack([torch.zeros_like(act) if grad is None else grad for grad in grads]).to(
            start.device
        )
        for act, grads in zip(inputs, zip(*by_metric, strict=True), strict=True)
    ]
    found = iter(by_input)
    return {site: tuple(next(found) for _ in by_layer) for site, by_layer in names.items()}


def _scores(
    logits: Float[Tensor, "sample vocab"], question: AnswerMetric, metrics: Sequence[str]
) -> list[Float[Tensor, ""]]:
    """Sums each metric over samples."""
    logprob = logits.log_softmax(-1)[:, question.answer]
    scores = {
        "prob": logprob.exp(),
        "logprob": logprob,
        "logit_diff": logits[:, question.answer] - logits[:, question.foil],
    }
    return [scores[metric].sum() for metric in metrics]


def _by_layer(states: States, site: str) -> tuple[Tensor, ...]:
    """The run's activations at `site`, layer by layer."""
    if site == "resid_post":
        return states.resid[1:]
    return states.z if site == "z" else states.written(site)  # pyright: ignore[reportArgumentType]
