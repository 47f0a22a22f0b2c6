"""Attribution patching: every site's indirect effect from a forward and a backward pass.

Nanda 2023 (neelnanda.io/attribution-patching); Kramár et al. 2024, arXiv 2403.00745. To first
order, restoring a site changes the score by (clean − corrupted) · ∂score/∂site, taken at the
corrupted run. The gradient may also be averaged on the way to the clean run, as integrated
gradients are (Hanna et al. 2024, 2403.17806). That need not help: on Gemma 3 270M the mean of five
ranks heads', attention's and MLPs' effects worse than the single gradient (benchmarks.attribution).
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
    """Estimates of what `probes.patch.sweep` measures, by the patch's site: indirect effects.

    A window's effect is the sum of its layers'. Positions are all of the prompt's.

    Args:
        clean, corrupted: as `sweep` has them.
        metrics: a backward pass each.
        steps: points on the way from the corrupted embeddings to the clean ones, the corrupted
            ones the first, whose gradients are averaged; each costs as much as the first.

    Raises:
        InputError: a severed patch (its paths are cut, and gradients run through all of them), no
            step, runs of different lengths, or a model with live hooks.
    """
    require_patchable(model)
    require_gradients(model)
    if cut := [patch for patch in patches if patch.severed]:
        raise InputError(f"{cut[0]}: severed effects have no gradient; sweep them")
    if steps < 1:
        raise InputError(f"{steps} steps: at least one is wanted")
    n_pos = (clean.resid[0].shape[1], corrupted.resid[0].shape[1])
    if n_pos[0] != n_pos[1]:
        raise InputError(f"the clean run has {n_pos[0]} tokens, the corrupted one {n_pos[1]}")
    nothing = {"mlp_out"} if model.cfg.attn_only else set()
    sites = [site for site in dict.fromkeys(patch.site for patch in patches) if site not in nothing]
    grads = _mean_gradients(model, clean, corrupted, sites, question, metrics, steps)
    shape = (len(metrics), model.cfg.n_layers, n_pos[0])
    found = {site: torch.zeros(shape) for site in nothing}
    for patch in (patch for patch in patches if patch.site in sites):
        pairs = zip(_kept(clean, patch.site), _kept(corrupted, patch.site), strict=True)
        alone = torch.stack(
            [
                ((now - then) * slope).sum(-1).mean(1)
                for (now, then), slope in zip(pairs, grads[patch.site], strict=True)
            ],
            dim=1,
        )
        windows = (patch.layers(layer, alone.shape[1]) for layer in range(alone.shape[1]))
        together = [alone[:, window[0] : window[-1] + 1].sum(1) for window in windows]
        found[patch.site] = torch.stack(together, dim=1).cpu()
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
    """∂score/∂site of each sample, averaged over the steps."""
    total: dict[str, tuple[Tensor, ...]] = {}
    for step in range(steps):
        start = corrupted.resid[0] + (clean.resid[0] - corrupted.resid[0]) * (step / steps)
        for site, slopes in _gradients(model, start, sites, question, metrics).items():
            before = total.get(site) or tuple(torch.zeros_like(slope) for slope in slopes)
            total[site] = tuple(a + b / steps for a, b in zip(before, slopes, strict=True))
    return total


@torch.enable_grad()
def _gradients(
    model: HookedTransformer,
    start: Float[Tensor, "sample pos d_model"],
    sites: Sequence[str],
    question: AnswerMetric,
    metrics: Sequence[str],
) -> Gradients:
    """Of the run whose first residual is `start`; one row a sample, none of which sees another."""
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
        fwd_hooks=[(name, keep) for own in names.values() for name in own],
        attention_mask=tokens,
    )
    wanted = [acts[name] for own in names.values() for name in own]
    logits = last_logits(model, last[:, -1])
    slopes = [
        torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True)
        for score in _scores(logits, question, metrics)
    ]
    by_metric = [
        torch.stack([torch.zeros_like(act) if one is None else one for one in ones])
        for act, ones in zip(wanted, zip(*slopes, strict=True), strict=True)
    ]
    found = iter(by_metric)
    return {site: tuple(next(found) for _ in own) for site, own in names.items()}


def _scores(
    logits: Float[Tensor, "sample vocab"], question: AnswerMetric, metrics: Sequence[str]
) -> list[Float[Tensor, ""]]:
    """Each metric's sum over samples."""
    logprob = logits.log_softmax(-1)[:, question.answer]
    scores = {
        "prob": logprob.exp(),
        "logprob": logprob,
        "logit_diff": logits[:, question.answer] - logits[:, question.foil],
    }
    return [scores[metric].sum() for metric in metrics]


def _kept(states: States, site: str) -> tuple[Tensor, ...]:
    """What the run left at `site`, layer by layer."""
    if site == "resid_post":
        return states.resid[1:]
    return states.z if site == "z" else states.written(site)  # pyright: ignore[reportArgumentType]
