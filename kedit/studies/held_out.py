"""Provides text that is unrelated to an edit, to measure whether the edit raises its perplexity."""

from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data.corpus import corpus_of
from kedit.editing.edit import Editor
from kedit.editing.spared import Sparing
from kedit.errors import InputError
from kedit.results.before_after import CHUNKS, WINDOW
from kedit.scoring.drift import held_out, surprise


class HeldOut(NamedTuple):
    """Chunks of a text, and the name of the text."""

    tokens: Int[Tensor, "chunk pos"]
    name: str

    def perplexity(self, model: HookedTransformer) -> float:
        """Returns the perplexity of the text under the model as it is, edited or not."""
        return float(surprise(model, self.tokens).mean().exp())


def held_out_text(model: HookedTransformer, source: str, editor: Editor, seed: int = 0) -> HeldOut:
    """Returns held-out text, which must not be the text that the editor spares.

    Args:
        source: the text, see `kedit.data.corpus.corpus_of`; "": the held-out part of kedit's text.
        editor: the editor whose text the held-out text must differ from.
        seed: seed of text that the model writes itself, if the editor has no seed.

    Raises:
        InputError: the text cannot be read, is too short, or is the text that the editor spares.
    """
    # with the editor's own seed, a model would write the text that the editor spares
    seed = getattr(editor, "seed", seed) + 1
    name = str(model.cfg.model_name)
    text = corpus_of(name, source, seed, held_out=True)
    spared = None
    if isinstance(editor, Sparing) and not editor.moments:
        spared = corpus_of(name, editor.text, editor.seed).digest()
    if spared == text.digest():
        raise InputError(
            f"held_out={source!r} (--held-out) is the text that the edit spares, so that it cannot "
            "show what the edit does to other text: give another text, or leave this option out"
        )
    return HeldOut(held_out(model, source, CHUNKS, seed, WINDOW), text.name)
