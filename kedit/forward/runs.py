"""Runs a model once and keeps the activations that patching needs."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache
from transformer_lens.utilities.components_utils import get_act_name

Held = Literal["attn_out", "mlp_out"]


@dataclass(frozen=True)
class States:
    """The activations of one run at every layer, on the model's first device.

    A clean run has one row. A corrupted run has one row per sample of the noise.

    Args:
        resid: resid_pre of each layer, then resid_post of the last layer: n_layers + 1 entries.
        attn_out, mlp_out: what attention and MLP of each layer added to the residual stream.
        z: the outputs of each layer's heads before W_O.
        keys, values: as TransformerLens caches them: before rotary embedding, and once per group
            of heads that share them.
    """

    resid: tuple[Float[Tensor, "batch pos d_model"], ...]
    attn_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    mlp_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    z: tuple[Float[Tensor, "batch pos head d_head"], ...]
    keys: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]
    values: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]

    @property
    def last(self) -> Float[Tensor, "batch d_model"]:
        """The residual that is unembedded: after the last layer, at the last position."""
        return self.resid[-1][:, -1]

    def of(self, rows: slice) -> "States":
        """Returns the activations of some rows."""
        return States(*(tuple(act[rows] for act in getattr(self, name)) for name in _FIELDS))

    def written(self, held: Held) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
        """Returns the outputs of one half of every layer."""
        return self.attn_out if held == "attn_out" else self.mlp_out


_FIELDS = tuple(field.name for field in fields(States))


@dataclass(frozen=True)
class Run:
    """Tokens, and the hooks with which they are run (such as the noise of a corruption)."""

    tokens: Int[Tensor, "batch pos"]
    hooks: tuple[tuple[str, Callable], ...] = ()

    def states(self, model: HookedTransformer) -> States:
        """Runs the model once and keeps the activations that patching needs."""
        return _states(model, [self])[0]


def both_states(model: HookedTransformer, clean: Run, corrupted: Run) -> tuple[States, States]:
    """Runs a clean and a corrupted run as one batch, which reads each weight only once.

    The hooks of a run get the rows of this run only. Both runs must have the same length.
    """
    of_clean, of_corrupted = _states(model, [clean, corrupted])
    return of_clean, of_corrupted


@torch.no_grad()
def _states(model: HookedTransformer, runs: Sequence[Run]) -> list[States]:
    """The activations of each run, computed as one batch."""
    tokens = torch.cat([run.tokens for run in runs])
    ends = list(itertools.accumulate(len(run.tokens) for run in runs))
    rows = [slice(end - len(run.tokens), end) for run, end in zip(runs, ends, strict=True)]
    hooks: list[tuple[str | Callable, Callable]] = [
        (name, on_rows(hook, of_run) if len(runs) > 1 else hook)
        for run, of_run in zip(runs, rows, strict=True)
        for name, hook in run.hooks
    ]
    n_layers = model.cfg.n_layers
    kinds = ["resid_pre", "attn_out", "z"] + ([] if model.cfg.attn_only else ["mlp_out"])
    names = [[get_act_name(kind, layer) for layer in range(n_layers)] for kind in kinds]
    past = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, batch_size=len(tokens))
    with model.hooks(fwd_hooks=hooks):
        last, cache = model.run_with_cache(
            tokens,
            return_cache_object=False,
            names_filter=[name for layers in names for name in layers],
            device=tokens.device,  # home: see `kedit.models.split`
            stop_at_layer=n_layers,
            past_kv_cache=past,
            # otherwise TransformerLens guesses a mask from tokens that equal the padding token
            attention_mask=torch.ones_like(tokens),
        )
    resid, attn, z, *mlp = ([cache[name] for name in layers] for layers in names)
    whole = States(
        resid=(*resid, cast(Tensor, last)),  # with stop_at_layer, the output is a residual
        attn_out=tuple(attn),
        mlp_out=tuple(mlp[0]) if mlp else tuple(torch.zeros_like(out) for out in attn),
        z=tuple(z),
        keys=tuple(entry.past_keys for entry in past.entries),
        values=tuple(entry.past_values for entry in past.entries),
    )
    return [whole.of(of_run) for of_run in rows]


def on_rows(hook: Callable, rows: slice) -> Callable:
    """Returns a hook that applies `hook` to some rows of a batch only."""

    def applied(act: Tensor, **named: object) -> Tensor:
        changed = hook(act[rows], **named)
        if changed is None:  # the hook wrote into its rows
            return act
        act = act.clone()
        act[rows] = changed
        return act

    return applied
