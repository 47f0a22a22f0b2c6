"""Text that has nothing to do with an edit, to see whether the edit costs it perplexity."""

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
    """Chunks of a text, and what it is called."""

    tokens: Int[Tensor, "chunk pos"]
    name: str

    def perplexity(self, model: HookedTransformer) -> float:
        """To the model as it is, edited or not."""
        return float(surprise(model, self.tokens).mean().exp())


def held_out_text(model: HookedTransformer, source: str, editor: Editor, seed: int = 0) -> HeldOut:
    """Text that the editor's statistics are not of.

    Args:
        source: as `kedit.data.corpus.corpus_of` has it; "" for what kedit holds out.
        seed: of the model's own text, if the editor has no seed.

    Raises:
        InputError: it cannot be read, is too short, or is the very text of the statistics.
    """
    # another one than the statistics'
    seed = getattr(editor, "seed", seed) + 1
    name = str(model.cfg.model_name)
    text = corpus_of(name, source, seed, held_out=True)
    spared = None
    if isinstance(editor, Sparing) and not editor.moments:
        spared = corpus_of(name, editor.text, editor.seed).digest()
    if spared == text.digest():
        raise InputError(
            f"--held-out {source}: the edit's statistics are of this very text, which cannot show "
            "what the edit costs other text: give another one, or leave it out"
        )
    return HeldOut(held_out(model, source, CHUNKS, seed, WINDOW), text.name)
