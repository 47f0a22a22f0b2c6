"""Path patching: how much of a head's effect goes directly into one receiver?

Patching tells which heads matter, but not which later components use what they write. Path patching
restores only the direct path from a sender to a receiver, which shows how heads form a circuit
(Wang et al. 2022, arXiv 2211.00593, section 3.1; Goldowsky-Dill et al. 2023, arXiv 2304.05969).

It takes two corrupted runs. In the first, the sender's output is restored and everything between
the sender and the receiver is held at corrupted values; this gives the receiver's input by the
direct path. In the second, only the receiver gets this input, and everything after it is computed.
Wang et al. corrupt a path of a clean run. Here a path of a corrupted run is restored, as in the
sweeps of `probes.patch`.
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
from kedit.forward.runs import Run, States, both_states
from kedit.heads import Head
from kedit.models.sites import is_parallel
from probes.patch import AnswerMetric

ROWS_PER_BATCH = 64  # receivers times samples

Mlps = Literal["held", "recomputed"]


@dataclass(frozen=True)
class Receiver:
    """The end of a path: the only component that sees the sender's restored output.

    Args:
        kind: "q", "k" or "v" of a head, "mlp", or "logits" for the final residual.
        layer: layer of the head or the MLP; -1 for the logits.
        head: index of the head for q. For k and v, it is the index of the key-value head: in models
            with grouped heads, it feeds all heads h with h // group == head, where group is
            n_heads / n_key_value_heads. -1 for an MLP and for the logits.

    Raises:
        InputError: the kind is unknown, or layer and head do not go with the kind.
    """

    kind: Literal["q", "k", "v", "mlp", "logits"]
    layer: int = -1
    head: int = -1

    def __post_init__(self) -> None:
        if self.kind not in ("q", "k", "v", "mlp", "logits"):
            raise InputError(f"receiver {self.kind!r}: must be q, k, v, mlp or logits")
        needed = (self.kind != "logits", self.kind in ("q", "k", "v"))  # (layer, head)
        if (self.layer >= 0, self.head >= 0) != needed or min(self.layer, self.head) < -1:
            raise InputError(
                f"receiver {self.kind} with layer {self.layer} and head {self.head}: q, k and v "
                "need both, mlp needs only the layer, logits neither (-1 for what is not needed)"
            )

    def __str__(self) -> str:
        if self.kind == "logits":
            return "logits"
        component = f"L{self.layer}" if self.kind == "mlp" else str(Head(self.layer, self.head))
        return f"{component}.{self.kind}"

    @property
    def hook(self) -> str:
        """Name of the hook at which the receiver is read and written; the logits have none."""
        return get_act_name("mlp_out" if self.kind == "mlp" else self.kind, self.layer)

    @property
    def part(self) -> tuple[slice | int, ...]:
        """Index of the receiver's part in the hook's activation, after the axis of rows."""
        return () if self.kind == "mlp" else (slice(None), self.head)


@dataclass(frozen=True)
class PathEffects:
    """The scores with each of one head's paths restored, and those of the two runs.

    Args:
        sender: the head at which the paths begin.
        receivers: the ends of the paths.
        positions: the positions at which the sender was restored.
        mlps: "held" if MLPs between sender and receiver kept their corrupted outputs, or
            "recomputed".
        restored: scores with the path restored, averaged over samples; by metric (in the order of
            METRICS) and receiver.
        clean: the clean run's scores, by metric.
        corrupted: the corrupted run's scores, averaged over samples; by metric.
    """

    sender: Head
    receivers: tuple[Receiver, ...]
    positions: tuple[int, ...]
    mlps: str
    restored: Float[Tensor, "metric receiver"]
    clean: Float[Tensor, " metric"]
    corrupted: Float[Tensor, " metric"]

    def indirect_effect(self, metric: str = "prob") -> Float[Tensor, " receiver"]:
        """restored - corrupted, for each path."""
        index = METRICS.index(metric)
        return self.restored[index] - self.corrupted[index]

    def total_effect(self, metric: str = "prob") -> float:
        """clean - corrupted, for the whole prompt."""
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
    """Scores the answer with the path from `sender` to each receiver restored, one at a time.

    All other heads between the two keep their corrupted outputs, so that nothing moves between
    positions. A receiver's input thus changes only at the positions where the sender is restored,
    and the receiver "logits" changes only if the last position is one of them. Norms are computed
    anew.

    Args:
        clean: the clean run, of one row.
        corrupted: the corrupted run, of one row per sample; its hooks may only change embeddings.
        sender: the head at which the paths begin.
        receivers: the ends of the paths.
        question: the answer and the foil.
        positions: where the sender's z is restored; everywhere if None.
        mlps: "held" keeps the MLPs between the two at their corrupted outputs, which leaves the
            direct path only. "recomputed" lets them pass on what they read, as Wang et al. do.

    Raises:
        InputError: the model does not have the sender or a receiver, a receiver does not see the
            sender's output, the runs cannot be patched into each other, or the model has live
            hooks.
    """
    n_samples, n_pos = corrupted.tokens.shape
    restored_at = list(range(n_pos) if positions is None else positions)
    if mlps not in ("held", "recomputed"):
        raise InputError(f"mlps {mlps!r}: must be held or recomputed")
    _require_runs(model, clean, corrupted, restored_at)
    clean_states, base = both_states(model, clean, corrupted)
    for receiver in receivers:
        _require_path(model, sender, receiver, n_kv_heads=base.keys[0].shape[2])

    def score(resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "metric row"]:
        return answer_scores(model, resid, question.answer, question.foil).cpu()

    z = base.z[sender.layer].clone()
    z[:, restored_at, sender.head] = clean_states.z[sender.layer][:, restored_at, sender.head]
    final, received = _first_run(model, base, sender.layer, z, receivers, mlps)
    restored = torch.empty(len(METRICS), len(receivers))
    # the logits need no second run: nothing comes after them
    logits = [index for index, receiver in enumerate(receivers) if receiver.kind == "logits"]
    restored[:, logits] = score(final[:, -1]).mean(1, keepdim=True)
    # by layer, so that each batch of the second run starts as late as it can
    inner = sorted(
        set(range(len(receivers))) - set(logits), key=lambda index: receivers[index].layer
    )
    receivers_per_batch = max(1, ROWS_PER_BATCH // n_samples)
    for start in range(0, len(inner), receivers_per_batch):
        batch = inner[start : start + receivers_per_batch]
        last = _second_run(model, base, [receivers[index] for index in batch], received)
        restored[:, batch] = score(last).unflatten(1, (len(batch), -1)).mean(2)
    return PathEffects(
        sender=sender,
        receivers=tuple(receivers),
        positions=tuple(restored_at),
        mlps=mlps,
        restored=restored,
        clean=score(clean_states.last)[:, 0],
        corrupted=score(base.last).mean(1),
    )


def _first_run(
    model: HookedTransformer,
    base: States,
    layer: int,
    z: Float[Tensor, "sample pos head d_head"],
    receivers: Sequence[Receiver],
    mlps: Mlps,
) -> tuple[Float[Tensor, "sample pos d_model"], dict[str, Tensor]]:
    """The first run: the z of `layer` is as given, all later heads (and MLPs, if held) are held.

    Returns:
        The final residual, and the activation at each receiver's hook.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(act: Tensor, hook: object) -> None:
            found[name] = act

        return hook

    # These hooks come before those that hold. So an MLP that is a receiver is read as computed, and
    # is then overwritten, so that later layers do not see its new output.
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
    return lambda act, hook: value.to(act.device)


def _second_run(
    model: HookedTransformer,
    base: States,
    receivers: Sequence[Receiver],
    received: dict[str, Tensor],
) -> Float[Tensor, "receiver_sample d_model"]:
    """The second run: each receiver gets what it received in the first; later layers follow.

    Each receiver has its own rows in the batch, one per sample.

    Args:
        receivers: ascending by layer; all rows start at the layer of the first.
    """
    n_samples = len(base.resid[0])

    def give(index: int, receiver: Receiver) -> Callable:
        rows = slice(index * n_samples, (index + 1) * n_samples)
        value = received[receiver.hook]

        def hook(act: Tensor, hook: object) -> Tensor:
            act = act.clone()
            act[(rows, *receiver.part)] = value[(slice(None), *receiver.part)]
            return act

        return hook

    layer = receivers[0].layer
    return model.run_with_hooks(
        base.resid[layer].repeat(len(receivers), 1, 1),
        fwd_hooks=[
            (receiver.hook, give(index, receiver)) for index, receiver in enumerate(receivers)
        ],
        start_at_layer=layer,
        stop_at_layer=model.cfg.n_layers,
    )[:, -1]


def _require_runs(
    model: HookedTransformer, clean: Run, corrupted: Run, positions: Sequence[int]
) -> None:
    """Raises InputError if the two runs cannot be patched into each other at these positions."""
    require_patchable(model)
    n_pos = corrupted.tokens.shape[1]
    if clean.tokens.shape != (1, n_pos):
        raise InputError(
            f"the clean run has shape {tuple(clean.tokens.shape)} (row, token): it must have one "
            f"row of {n_pos} tokens, the corrupted run's number"
        )
    if not all(0 <= pos < n_pos for pos in positions):
        raise InputError(f"positions {list(positions)}: the runs have positions 0 to {n_pos - 1}")
    # Patched runs start at the residual before some block, and the corruption's hooks are not run
    # again: only changes of the embeddings are already contained in that residual.
    early = (get_act_name("embed"), get_act_name("pos_embed"))
    late = sorted({name for name, _ in corrupted.hooks if name not in early})
    if late:
        raise InputError(
            f"the corrupted run has hooks at {', '.join(late)}: only embeddings may be corrupted"
        )


def _require_path(
    model: HookedTransformer, sender: Head, receiver: Receiver, n_kv_heads: int
) -> None:
    """Raises InputError if an end of the path does not exist, or one cannot see the other."""
    cfg = model.cfg
    if not (0 <= sender.layer < cfg.n_layers and 0 <= sender.head < cfg.n_heads):
        raise InputError(
            f"no head {sender}: the model has {cfg.n_layers} layers of {cfg.n_heads} heads"
        )
    if receiver.kind == "logits":
        return
    if receiver.kind == "mlp" and cfg.attn_only:
        raise InputError(f"no receiver {receiver}: the model has no MLPs")
    reads_own_layer = receiver.kind == "mlp" and not is_parallel(model.blocks[sender.layer])
    lowest = sender.layer if reads_own_layer else sender.layer + 1
    if not lowest <= receiver.layer < cfg.n_layers:
        raise InputError(
            f"{receiver} does not read what {sender} writes: a receiver {receiver.kind} must be in "
            f"layer {lowest} or above, of {cfg.n_layers} layers"
        )
    n_heads = cfg.n_heads if receiver.kind == "q" else n_kv_heads
    if receiver.head >= n_heads:
        raise InputError(
            f"no receiver {receiver}: the model has {n_heads} heads with a {receiver.kind}"
        )
