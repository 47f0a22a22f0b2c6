"""Path patching: how much of a head's effect goes straight into one receiver.

Wang et al. 2022 (arXiv 2211.00593, section 3.1) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
Two corrupted runs: in the first the sender's output is restored and all between it and the receiver
is held, which shows what the receiver gets by the direct path; in the second the receiver gets just
that, and everything behind it follows. (Wang et al. corrupt a path of a clean run; we restore one
in a corrupted run, as the sweeps of `probes.patch` do.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, answer_scores
from kedit.forward.patched import require_patchable
from kedit.forward.runs import Run, States
from kedit.heads import Head
from kedit.models.sites import is_parallel
from probes.patch import AnswerMetric

ROWS = 64  # of a batch: receivers times samples

Mlps = Literal["held", "recomputed"]


@dataclass(frozen=True)
class Receiver:
    """Where a path ends.

    Args:
        kind: a head's "q", "k" or "v"; an "mlp"; or "logits": the final residual.
        layer: of the head or the MLP; -1 for the logits.
        head: of q. Of k and v it counts the heads that have keys and values of their own: where
            heads are grouped, the k or v of `head` feeds all heads h with h // group == head,
            group being n_heads / n_key_value_heads. -1 for an MLP and for the logits.

    Raises:
        InputError: an unknown kind, a layer or a head too many or too few.
    """

    kind: Literal["q", "k", "v", "mlp", "logits"]
    layer: int = -1
    head: int = -1

    def __post_init__(self) -> None:
        if self.kind not in ("q", "k", "v", "mlp", "logits"):
            raise InputError(f"receiver {self.kind!r}: q, k, v, mlp or logits is wanted")
        wanted = (self.kind != "logits", self.kind in ("q", "k", "v"))
        if (self.layer >= 0, self.head >= 0) != wanted or min(self.layer, self.head) < -1:
            raise InputError(
                f"receiver {self.kind} with layer {self.layer} and head {self.head}: q, k and v "
                "take both, mlp takes the layer, logits neither (-1)"
            )

    def __str__(self) -> str:
        if self.kind == "logits":
            return "logits"
        place = f"L{self.layer}" if self.kind == "mlp" else str(Head(self.layer, self.head))
        return f"{place}.{self.kind}"

    @property
    def hook(self) -> str:
        """Where it is read and written; not for the logits, which no hook holds."""
        return get_act_name("mlp_out" if self.kind == "mlp" else self.kind, self.layer)

    @property
    def part(self) -> tuple[slice | int, ...]:
        """Which part of what lies there is the receiver's own, behind the rows."""
        return () if self.kind == "mlp" else (slice(None), self.head)


@dataclass(frozen=True)
class PathEffects:
    """The scores with one head's paths restored, and those of the runs they lie between.

    Args:
        sender: the head.
        receivers: where the paths end.
        positions: at which the sender was restored.
        mlps: "held" at their corrupted outputs between the two, or "recomputed".
        restored: mean over samples, by metric (as METRICS has them) and receiver.
        clean, corrupted: by metric; corrupted is the mean over samples.
    """

    sender: Head
    receivers: tuple[Receiver, ...]
    positions: tuple[int, ...]
    mlps: str
    restored: Float[Tensor, "metric receiver"]
    clean: Float[Tensor, " metric"]
    corrupted: Float[Tensor, " metric"]

    def indirect_effect(self, metric: str = "prob") -> Float[Tensor, " receiver"]:
        """restored - corrupted: what the clean output brings by each path."""
        index = METRICS.index(metric)
        return self.restored[index] - self.corrupted[index]

    def total_effect(self, metric: str = "prob") -> float:
        """clean - corrupted: what the corruption costs."""
        index = METRICS.index(metric)
        return float(self.clean[index] - self.corrupted[index])


@torch.no_grad()
def path_patch(
    model: HookedTransformer,
    clean: Run,
    corrupted: Run,
    sender: Head,
    receivers: Sequence[Receiver],
    question: AnswerMetric,
    positions: Sequence[int] | None = None,
    mlps: Mlps = "held",
) -> PathEffects:
    """The answer's scores with the path from `sender` to each receiver restored, by itself.

    Between the two every other head keeps its corrupted output, so that nothing moves from one
    position to another: a receiver changes where the sender is restored and nowhere else, and
    "logits" only if the last position is among these. Norms are always computed anew.

    Args:
        clean: one row.
        corrupted: one row a sample; its hooks act on embeddings.
        positions: at which the sender's z is restored; all of the prompt's if None.
        mlps: "held": MLPs between keep their corrupted outputs too (what is left is the direct
            path alone); "recomputed": they pass on what they read, as Wang et al. have it.

    Raises:
        InputError: a sender or receiver that is not there, a receiver that cannot see the sender,
            runs that do not fit each other, or a model with live hooks.
    """
    n_samples, n_pos = corrupted.tokens.shape
    where = list(range(n_pos) if positions is None else positions)
    if mlps not in ("held", "recomputed"):
        raise InputError(f"mlps {mlps!r}: held or recomputed is wanted")
    _require_runs(model, clean, corrupted, where)
    before, base = clean.states(model), corrupted.states(model)
    for receiver in receivers:
        _require_path(model, sender, receiver, n_kv_heads=base.keys[0].shape[2])

    def score(resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "metric row"]:
        return answer_scores(model, resid, question.answer, question.foil).cpu()

    z = base.z[sender.layer].clone()
    z[:, where, sender.head] = before.z[sender.layer][:, where, sender.head]
    final, reached = _received(model, base, sender.layer, z, receivers, mlps)
    restored = torch.empty(len(METRICS), len(receivers))
    ends = [number for number, receiver in enumerate(receivers) if receiver.kind == "logits"]
    restored[:, ends] = score(final[:, -1]).mean(1, keepdim=True)
    inside = sorted(set(range(len(receivers))) - set(ends), key=lambda one: receivers[one].layer)
    together = max(1, ROWS // n_samples)
    for start in range(0, len(inside), together):
        numbers = inside[start : start + together]
        last = _given(model, base, [receivers[number] for number in numbers], reached)
        restored[:, numbers] = score(last).unflatten(1, (len(numbers), -1)).mean(2)
    return PathEffects(
        sender=sender,
        receivers=tuple(receivers),
        positions=tuple(where),
        mlps=mlps,
        restored=restored,
        clean=score(before.last)[:, 0],
        corrupted=score(base.last).mean(1),
    )


def _received(
    model: HookedTransformer,
    base: States,
    layer: int,
    z: Float[Tensor, "sample pos head d_head"],
    receivers: Sequence[Receiver],
    mlps: Mlps,
) -> tuple[Float[Tensor, "sample pos d_model"], dict[str, Tensor]]:
    """The first run, with the z of `layer` as given and all else that mixes or moves held.

    Returns:
        The final residual, and what lay at each receiver's hook.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(act: Tensor, hook: object) -> None:
            found[name] = act

        return hook

    # read before held: an MLP that receives is computed, and those above it do not see what it says
    names = {receiver.hook for receiver in receivers if receiver.kind != "logits"}
    hooks: list = [(name, keep(name)) for name in sorted(names)]
    for above in range(layer, model.cfg.n_layers):
        hooks.append((get_act_name("z", above), _held(z if above == layer else base.z[above])))
        if mlps == "held":
            hooks.append((get_act_name("mlp_out", above), _held(base.mlp_out[above])))
    final = model.run_with_hooks(
        base.resid[layer], fwd_hooks=hooks, start_at_layer=layer, stop_at_layer=model.cfg.n_layers
    )
    return final, found


def _held(value: Tensor) -> Callable:
    return lambda act, hook: value


def _given(
    model: HookedTransformer,
    base: States,
    receivers: Sequence[Receiver],
    reached: dict[str, Tensor],
) -> Float[Tensor, "receiver_sample d_model"]:
    """The second run: each receiver gets what reached it, in rows of its own.

    Args:
        receivers: ascending by layer; all rows begin at the lowest.
    """
    n_samples = len(base.resid[0])

    def give(number: int, receiver: Receiver) -> Callable:
        own = slice(number * n_samples, (number + 1) * n_samples)
        value = reached[receiver.hook]

        def hook(act: Tensor, hook: object) -> Tensor:
            act = act.clone()
            act[(own, *receiver.part)] = value[(slice(None), *receiver.part)]
            return act

        return hook

    layer = receivers[0].layer
    return model.run_with_hooks(
        base.resid[layer].repeat(len(receivers), 1, 1),
        fwd_hooks=[(one.hook, give(number, one)) for number, one in enumerate(receivers)],
        start_at_layer=layer,
        stop_at_layer=model.cfg.n_layers,
    )[:, -1]


def _require_runs(
    model: HookedTransformer, clean: Run, corrupted: Run, positions: Sequence[int]
) -> None:
    """The two runs can be patched into each other, at these positions."""
    require_patchable(model)
    n_pos = corrupted.tokens.shape[1]
    if clean.tokens.shape != (1, n_pos):
        raise InputError(
            f"a clean run of {tuple(clean.tokens.shape)} (row, token): one row of {n_pos} tokens "
            "is wanted, as many as the corrupted run has"
        )
    if not all(0 <= pos < n_pos for pos in positions):
        raise InputError(f"positions {list(positions)}: the runs have {n_pos} tokens, from 0 on")
    # patched runs begin between the blocks, at states that the corruption's hooks have made
    early = (get_act_name("embed"), get_act_name("pos_embed"))
    late = sorted({name for name, _ in corrupted.hooks if name not in early})
    if late:
        raise InputError(f"a corruption at {', '.join(late)}: only embeddings can be corrupted")


def _require_path(
    model: HookedTransformer, sender: Head, receiver: Receiver, n_kv_heads: int
) -> None:
    """Both ends are there, and the one reads what the other writes."""
    cfg = model.cfg
    if not (0 <= sender.layer < cfg.n_layers and 0 <= sender.head < cfg.n_heads):
        raise InputError(f"no head {sender}: there are {cfg.n_layers} layers of {cfg.n_heads}")
    if receiver.kind == "logits":
        return
    if receiver.kind == "mlp" and cfg.attn_only:
        raise InputError(f"no receiver {receiver}: the model has no MLPs")
    reads_own_layer = receiver.kind == "mlp" and not is_parallel(model.blocks[sender.layer])
    lowest = sender.layer if reads_own_layer else sender.layer + 1
    if not lowest <= receiver.layer < cfg.n_layers:
        raise InputError(
            f"{receiver} reads nothing that {sender} writes: a {receiver.kind} from layer {lowest} "
            f"on is wanted, of {cfg.n_layers} layers"
        )
    n_heads = cfg.n_heads if receiver.kind == "q" else n_kv_heads
    if receiver.head >= n_heads:
        raise InputError(f"no receiver {receiver}: {n_heads} heads have a {receiver.kind}")
