"""Tells masked models from decoders: BERT and T5 fill in a masked object, decoders continue a text.

TransformerLens has classes of their own for both: `HookedEncoder` (BERT) and `HookedEncoderDecoder`
(T5 v1.0). They have the weights and hook points of `HookedTransformer`, but not its other methods.
"""

from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedEncoder, HookedEncoderDecoder, HookedTransformer
from transformer_lens.components.embed import Embed
from typing_extensions import TypeIs

from kedit.errors import InputError

Masked: TypeAlias = HookedEncoder | HookedEncoderDecoder
AnyModel: TypeAlias = HookedTransformer | Masked
Model = TypeVar("Model", bound=AnyModel)


def is_masked(model: AnyModel) -> TypeIs[Masked]:
    """Whether the model fills in masks (BERT, T5)."""
    return isinstance(model, Masked)


def token_embedding(model: AnyModel) -> Embed:
    """Returns the module with the token embeddings W_E."""
    return model.embed.embed if isinstance(model, HookedEncoder) else model.embed


def embedding_hook(model: AnyModel) -> str:
    """Returns the name of the hook point at the token embeddings, before positions are added.

    T5's hook point is at the encoder's embeddings only.
    """
    return "embed.hook_embed" if isinstance(model, HookedEncoder) else "hook_embed"


def require_decoder(model: AnyModel, what: str) -> None:
    """Checks that the model continues texts, which `what` needs.

    Raises:
        InputError: it is a masked model.
    """
    if is_masked(model):
        kind = "BERT" if isinstance(model, HookedEncoder) else "T5"
        raise InputError(f"{what} needs a model that continues texts, not {kind}")


def moved(model: Model, to: torch.device | torch.dtype) -> Model:
    """Moves a model to a device, or changes the type of its weights, and prints nothing."""
    if isinstance(model, HookedEncoderDecoder):
        model.to(to)
    else:
        model.to(to, print_details=False)
    if isinstance(to, torch.device):
        # forwards move tensors to this device, and TransformerLens leaves out its number
        model.cfg.device = str(to)
    return model


def final_resid(
    model: Masked,
    tokens: Int[Tensor, "row pos"],
    decoder: Int[Tensor, "row decoder_pos"],
    there: Int[Tensor, "row pos"],
) -> Float[Tensor, "row read_pos d_model"]:
    """Computes the residuals that are unembedded: of BERT's tokens, or of those of T5's decoder.

    Args:
        tokens: of BERT or of T5's encoder.
        decoder: of T5's decoder; BERT ignores them.
        there: 1 for tokens, 0 for padding.
    """
    if isinstance(model, HookedEncoder):
        return model.encoder_output(tokens, one_zero_attention_mask=there)
    kept: list[Tensor] = []

    def keep(resid: Tensor, hook: object) -> None:
        kept.append(resid)

    last = f"decoder.{model.cfg.n_layers - 1}.hook_resid_post"
    model.run_with_hooks(tokens, decoder, one_zero_attention_mask=there, fwd_hooks=[(last, keep)])
    return kept[0]
