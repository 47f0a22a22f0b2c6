"""Where heads look: their attention onto each role of a prompt, plain or by what it moves."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.models.prompts import ROLES, Prompt

Roles = str | tuple[str, ...]  # of ROLES: one, or several as one group


def positions_of(prompt: Prompt, roles: Roles) -> tuple[int, ...]:
    """The positions that have one of these roles, ascending.

    Raises:
        InputError: no such role, or none of these in this prompt.
    """
    wanted = (roles,) if isinstance(roles, str) else roles
    unknown = [role for role in wanted if role not in ROLES]
    if unknown:
        raise InputError(f"role {unknown[0]!r}: one of {', '.join(ROLES)} is wanted")
    found = tuple(pos for pos, role in enumerate(prompt.roles) if role in wanted)
    if not found:
        named = " or ".join(wanted) or "named role"
        raise InputError(f"{''.join(prompt.labels)!r} has no {named}: {', '.join(prompt.roles)}")
    return found


@torch.no_grad()
def attention_to_roles(
    model: HookedTransformer, prompt: Prompt, query: Roles = "last"
) -> Float[Tensor, "layer head role"]:
    """The share of each head's attention that goes to each of ROLES, summed over its positions.

    The shares of a head sum to one (less what an attention sink takes, in models that have them);
    a role without positions gets 0.

    Args:
        query: whose attention; the mean over these roles' positions.

    Raises:
        InputError: `query` has no position in this prompt.
    """
    patterns, _ = _read(model, prompt)
    return _by_role(prompt, query, patterns)


@torch.no_grad()
def weighted_attention_to_roles(
    model: HookedTransformer, prompt: Prompt, query: Roles = "last"
) -> Float[Tensor, "layer head role"]:
    """What heads move from each of ROLES, and not only where they look.

        α_qk ‖v_k W_O‖ / Σ_k' α_qk' ‖v_k' W_O‖               Kobayashi et al. 2020, section 3

    A position that heads rest on, as BOS, has much attention but a small value. Norms are those
    before a post-norm, where a family has one. The division is by query, so that each of `query`
    counts the same; a head that writes nothing has no shares (NaN).

    Args, Raises: as `attention_to_roles`.
    """
    moved = []
    for block, pattern, values in zip(model.blocks, *_read(model, prompt), strict=True):
        written = torch.einsum("khd,hdm->hkm", values, block.attn.W_O).float().norm(dim=-1)
        parts = pattern.float() * written[:, None]
        moved.append(parts / parts.sum(-1, keepdim=True))
    return _by_role(prompt, query, moved)


Patterns = Sequence[Float[Tensor, "head query key"]]  # by layer
Values = Sequence[Float[Tensor, "key head d_head"]]


def _read(model: HookedTransformer, prompt: Prompt) -> tuple[Patterns, Values]:
    """Each layer's attention, and the values it is over: a grouped head's own, as often as used."""
    rows, n_heads = prompt.tokens[None], model.cfg.n_heads
    names = [get_act_name("pattern", layer) for layer in range(model.cfg.n_layers)]
    # not from hook_v: OLMo clips its values behind it
    past = TransformerLensKeyValueCache.init_cache(model.cfg, rows.device, batch_size=1)
    _, cache = model.run_with_cache(
        rows,
        return_cache_object=False,
        names_filter=names,
        stop_at_layer=model.cfg.n_layers,
        past_kv_cache=past,
        attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
    )
    values = [entry.past_values[0] for entry in past.entries]
    return (
        [cache[name][0] for name in names],
        [each.repeat_interleave(n_heads // each.shape[1], dim=1) for each in values],
    )


def _by_role(prompt: Prompt, query: Roles, shares: Patterns) -> Float[Tensor, "layer head role"]:
    """The mean over the positions of `query`, summed over those of each role."""
    at = list(positions_of(prompt, query))
    mean = torch.stack([each[:, at].float().mean(1) for each in shares]).cpu()
    has_role = torch.tensor([[role == one for one in ROLES] for role in prompt.roles])
    return mean @ has_role.float()
