"""Checks that a text is long enough for what a run reads of it.

The number of bytes is checked before the weights are read, the number of tokens as soon as the
model is loaded.
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
    """Raises InputError for a text that has fewer bytes than the run reads tokens."""
    from kedit.data import text_length

    if outline := outline_of(config.model):
        text_length.require_bytes(_needs(config, outline))


def require_tokens(config: Any, model: "HookedTransformer") -> None:
    """Raises InputError for a text that has fewer tokens than the run reads."""
    from kedit.data import text_length

    cfg = model.cfg
    outline = Outline(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp or 0, cfg.n_ctx)
    text_length.require_tokens(_needs(config, outline), model)


def _needs(config: Any, outline: Outline) -> "Iterator[TextNeed]":
    """How many tokens a run reads of each text file that its options name."""
    from kedit.data.text_length import TextNeed

    held_out = getattr(config, "held_out", "")
    # imported only where they are needed: importing the editors takes a second
    if editors := list(editors_of(config)):
        from kedit.editors.text_needs import text_needs
        from kedit.results.before_after import WINDOW as CHUNK_OF_ONE_EDIT

        yield from text_needs(editors, config.model, outline, config.text, config.tokens_per_dim)
        n_tokens = getattr(config, "chunk_tokens", CHUNK_OF_ONE_EDIT)
        need = ("--held-out", held_out, n_tokens, "a chunk for perplexity")
    elif locality := getattr(config, "locality_text", ""):
        from kedit.studies.mend_practice import EXCERPT

        need = ("--locality-text", locality, EXCERPT, "an excerpt")
    elif held_out:
        from kedit.scoring.drift import WINDOW

        need = ("--held-out", held_out, WINDOW, "a chunk for perplexity")
    else:
        return
    option, source, n_tokens, use = need
    if kind_of(source) == "file":
        yield TextNeed(f"{option} {source}", Path(source), min(n_tokens, outline.n_ctx - 1), use)
