"""Random prefixes for computing k* and v*, so that neither depends on the prompt opening the text.

This follows Meng et al. 2022. The model samples the prefixes itself, with a seed, and an editor
keeps them with its settings. Upstream's code samples them without a seed, once per process, so no
two runs of it make the same edit.
"""

from collections.abc import Sequence

from transformer_lens import HookedTransformer

from kedit.forward.generation import sampled
from kedit.models.prompts import bos_ids, decoded, end_ids, plain_ids
from kedit.progress import working

TOP_K = 5
# pairs: tokens per prefix (with the opening token), number of such prefixes (Meng et al. 2022)
ROME_LENGTHS = ((5, 10), (10, 10))
MEMIT_WORDS = ("The", "Therefore", "Because", "I", "You")
MEMIT_LENGTH = 10
SAMPLING = "sampling prefixes for the prompts"  # shown if it takes a while


def rome_contexts(
    model: HookedTransformer, lengths: Sequence[tuple[int, int]] = ROME_LENGTHS, seed: int = 0
) -> tuple[str, ...]:
    """Returns the empty prefix, then the requested number of sampled prefixes of each length.

    Args:
        lengths: pairs of tokens per prefix and number of prefixes.
    """
    opening = tuple(bos_ids(model)) or end_ids(model)
    texts = [""]
    for length, n_texts in lengths:
        with working(SAMPLING):
            drawn = sampled(model, [opening] * n_texts, length, TOP_K, seed)
        texts += [_as_sentence(decoded(model, *tokens)) for tokens in drawn]
    return tuple(texts)


def memit_contexts(model: HookedTransformer, seed: int = 0) -> tuple[str, ...]:
    """Returns the empty prefix, then one sampled prefix that begins with each of MEMIT_WORDS."""
    openings = [(*bos_ids(model), *plain_ids(model, word)) for word in MEMIT_WORDS]
    with working(SAMPLING):
        drawn = sampled(model, openings, MEMIT_LENGTH, TOP_K, seed)
    continued = zip(MEMIT_WORDS, drawn, strict=True)
    return ("", *(_as_sentence(word + decoded(model, *tokens)) for word, tokens in continued))


def bare_first(contexts: Sequence[str]) -> tuple[str, ...]:
    """Puts the empty prefix first: v* is a change to the bare prompt's output."""
    return ("", *(text for text in contexts if text))


def _as_sentence(text: str) -> str:
    """Turns sampled text into a sentence that can be put before a prompt.

    Braces are removed, because a template would read {} as the blank for its subject.
    """
    return f"{text.replace('{', ' ').replace('}', ' ').strip()}. "
