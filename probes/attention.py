"""Measures which tokens heads attend to, by the tokens' roles in the prompt.

If a head carries a relation, one expects its last token to attend to the subject or the relation's
words. Attention weights alone can mislead: a head at rest puts its weight on BOS, whose value is
small, so that little is moved. Weights can therefore be multiplied by the norms of what is written
(Kobayashi et al. 2020, "Attention is Not Only a Weight").
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, TransformerLensKeyValueCache
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.models.prompts import ROLES, Prompt
from kedit.models.split import block_device

Roles = str | tuple[str, ...]  # a role of ROLES, or several roles as one group


def positions_of(prompt: Prompt, roles: Roles) -> tuple[int, ...]:
    """The prompt's positions that have one of these roles, ascending.

    Raises:
        InputError: there is no such role, or the prompt has no token of these roles.
    """
    group = (roles,) if isinstance(roles, str) else roles
    unknown = [role for role in group if role not in ROLES]
    if unknown:
        raise InputError(f"role {unknown[0]!r}: must be one of {', '.join(ROLES)}")
    found = tuple(pos for pos, role in enumerate(prompt.roles) if role in group)
    if not found:
        named = " or ".join(group) or "(no role given)"
        raise InputError(
            f"{''.join(prompt.labels)!r} has no token of the role {named}: its tokens' roles are "
            f"{', '.join(prompt.roles)}"
        )
    return found


@torch.no_grad()
def attention_from(
    model: HookedTransformer, prompt: Prompt, query: int = -1
) -> Float[Tensor, "layer head pos"]:
    """Returns each head's attention from one token of the prompt to all tokens.

    Args:
        query: the position of the attending token.
    """
    patterns, _ = _read(model, prompt)
    return torch.stack([pattern[:, query].float() for pattern in patterns]).cpu()


@torch.no_grad()
def attention_to_roles(
    model: HookedTransformer, prompt: Prompt, query: Roles = "last"
) -> Float[Tensor, "layer head role"]:
    """The share of each head's attention that goes to each of ROLES, summed over its positions.

    A head's shares sum to 1, or to less in models with attention sinks, which absorb the rest. A
    role without positions gets 0.

    Args:
        query: roles of the attending tokens; the shares are averaged over their positions.

    Raises:
        InputError: the prompt has no token of the roles in `query`.
    """
    patterns, _ = _read(model, prompt)
    return _by_role(prompt, query, patterns)


@torch.no_grad()
def weighted_attention_to_roles(
    model: HookedTransformer, prompt: Prompt, query: Roles = "last"
) -> Float[Tensor, "layer head role"]:
    """The share of each head's output that comes from each of ROLES, summed over its positions.

        α_qk ‖v_k W_O‖ / Σ_k' α_qk' ‖v_k' W_O‖               Kobayashi et al. 2020, section 3

    A head at rest attends to a position with a small value, often BOS: there its attention is large
    but this share is small. Norms are taken before the post-norm in models that have one. The
    shares are normalised for each attending token before they are averaged, so that all of them
    count the same. A head that writes nothing has shares of NaN.

    Args, Raises: see `attention_to_roles`.
    """
    moved = []
    for block, pattern, values in zip(model.blocks, *_read(model, prompt), strict=True):
        here = values.to(block_device(block))
        written = torch.einsum("khd,hdm->hkm", here, block.attn.W_O).float().norm(dim=-1)
        parts = pattern.float() * written[:, None].to(pattern.device)
        moved.append(parts / parts.sum(-1, keepdim=True))
    return _by_role(prompt, query, moved)


Patterns = Sequence[Float[Tensor, "head query key"]]  # by layer
Values = Sequence[Float[Tensor, "key head d_head"]]


def _read(model: HookedTransformer, prompt: Prompt) -> tuple[Patterns, Values]:
    """Reads each layer's attention pattern and values, with grouped values repeated per head."""
    rows, n_heads = prompt.tokens[None], model.cfg.n_heads
    names = [get_act_name("pattern", layer) for layer in range(model.cfg.n_layers)]
    # values come from the cache and not from hook_v, because OLMo clips them after this hook
    past = TransformerLensKeyValueCache.init_cache(model.cfg, rows.device, batch_size=1)
    _, cache = model.run_with_cache(
        rows,
        return_cache_object=False,
        names_filter=names,
        device=rows.device,
        stop_at_layer=model.cfg.n_layers,
        past_kv_cache=past,
        attention_mask=torch.ones_like(rows),  # else guessed from padding tokens
    )
    values = [entry.past_values[0] for entry in past.entries]
    return (
        [cache[name][0] for name in names],
        [value.repeat_interleave(n_heads // value.shape[1], dim=1) for value in values],
    )


def _by_role(prompt: Prompt, query: Roles, shares: Patterns) -> Float[Tensor, "layer head role"]:
    """Averages shares over the positions of `query`, and sums them over each role's positions."""
    queries = list(positions_of(prompt, query))
    mean = torch.stack([share[:, queries].float().mean(1) for share in shares]).cpu()
    has_role = torch.tensor([[role == column for column in ROLES] for role in prompt.roles])
    return mean @ has_role.float()
