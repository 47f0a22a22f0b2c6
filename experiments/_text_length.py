"""Whether a text is long enough for what is to be read of it: by its bytes before the weights are
read, by its tokens before anything else is done with the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._early import editors_of
from kedit.data.named import kind_of
from kedit.models.outline import Outline, outline_of

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.data.text_length import TextNeed


def require_bytes(config: Any) -> None:
    """Raises InputError for a text with fewer bytes than tokens are wanted."""
    from kedit.data import text_length

    if outline := outline_of(config.model):
        text_length.require_bytes(_needs(config, outline))


def require_tokens(config: Any, model: "HookedTransformer") -> None:
    """Raises InputError for a text with fewer tokens than are wanted."""
    from kedit.data import text_length

    cfg = model.cfg
    outline = Outline(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp or 0, cfg.n_ctx)
    text_length.require_tokens(_needs(config, outline), model)


def _needs(config: Any, outline: Outline) -> "Iterator[TextNeed]":
    """What a run reads of the files that its options name."""
    from kedit.data.text_length import TextNeed

    held_out = getattr(config, "held_out", "")
    # what the others need is imported where it is asked for: editors take a second
    if editors := list(editors_of(config)):
        from kedit.editors.text_needs import text_needs
        from kedit.results.before_after import WINDOW as PRICE

        yield from text_needs(editors, config.model, outline, config.text, config.tokens_per_dim)
        tokens = getattr(config, "chunk_tokens", PRICE)
        read = ("--held-out", held_out, tokens, "a chunk of perplexity's")
    elif locality := getattr(config, "locality_text", ""):
        from kedit.studies.mend_practice import EXCERPT

        read = ("--locality-text", locality, EXCERPT, "an excerpt")
    elif held_out:
        from kedit.scoring.drift import WINDOW

        read = ("--held-out", held_out, WINDOW, "a chunk of perplexity's")
    else:
        return
    option, source, tokens, why = read
    if kind_of(source) == "file":
        yield TextNeed(f"{option} {source}", Path(source), min(tokens, outline.n_ctx - 1), why)
