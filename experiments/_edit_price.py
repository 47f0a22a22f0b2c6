"""Text that has nothing to do with an edit, to see whether the edit costs it perplexity."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from experiments.edit_fact import Config
    from kedit.editing.edit import Editor

# Enough to tell a tenth of perplexity from nothing, the same tokens being read twice
CHUNKS, WINDOW = 8, 64  # of held-out text, and tokens of each


def perplexity(model: "HookedTransformer", held_out: "Tensor") -> float:
    """Of the text, to the model as it is, edited or not."""
    from kedit.scoring.drift import surprise

    return float(surprise(model, held_out).mean().exp())


def held_out_text(model: "HookedTransformer", config: "Config", chosen: "Editor") -> "Tensor":
    """Text that the editor's statistics are not of.

    Raises:
        InputError: it cannot be read, is too short, or is the very text of the statistics.
    """
    from kedit.data.corpus import corpus_of
    from kedit.editing.spared import Sparing
    from kedit.errors import InputError
    from kedit.scoring.drift import held_out

    seed = _seed(config, chosen)
    text = corpus_of(config.model, config.held_out, seed, held_out=True)
    spared = None
    if isinstance(chosen, Sparing) and not chosen.moments:
        spared = corpus_of(config.model, chosen.text, chosen.seed).digest()
    if spared == text.digest():
        raise InputError(
            f"--held-out {config.held_out}: the edit's statistics are of this very text, which "
            "cannot show what the edit costs other text: give another one, or leave it out"
        )
    return held_out(model, config.held_out, CHUNKS, seed, WINDOW)


def name_of(config: "Config", chosen: "Editor") -> str:
    """What the held-out text is called."""
    from kedit.data.corpus import corpus_of

    return corpus_of(config.model, config.held_out, _seed(config, chosen), held_out=True).name


def _seed(config: "Config", chosen: "Editor") -> int:
    """Of the model's own text, if that is held out: another one than the statistics'."""
    return getattr(chosen, "seed", config.seed) + 1
