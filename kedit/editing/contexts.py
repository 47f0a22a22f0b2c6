"""Texts to put before a prompt while a key or a value is sought, lest they hang on its start.

The model makes them up itself, by seed, and an editor keeps them with its settings: upstream's code
draws them unseeded, once a process, so that no two runs of it make the same edit.
"""

from collections.abc import Sequence

from transformer_lens import HookedTransformer

from kedit.forward.generation import sampled
from kedit.models.prompts import bos_ids, decoded, end_ids, plain_ids
from kedit.progress import working

TOP_K = 5
ROME_LENGTHS = ((5, 10), (10, 10))  # tokens, the opening one counted, and how many (Meng et al.)
MEMIT_WORDS = ("The", "Therefore", "Because", "I", "You")
MEMIT_LENGTH = 10
WRITTEN_BY_MODEL = "writing texts to put before prompts"  # what goes on, if it takes its time


def rome_contexts(
    model: HookedTransformer, lengths: Sequence[tuple[int, int]] = ROME_LENGTHS, seed: int = 0
) -> tuple[str, ...]:
    """Nothing, then as many openings of each length as asked for."""
    opening = tuple(bos_ids(model)) or end_ids(model)
    texts = [""]
    for length, how_many in lengths:
        with working(WRITTEN_BY_MODEL):
            drawn = sampled(model, [opening] * how_many, length, TOP_K, seed)
        texts += [_opened(decoded(model, *tokens)) for tokens in drawn]
    return tuple(texts)


def memit_contexts(model: HookedTransformer, seed: int = 0) -> tuple[str, ...]:
    """Nothing, then one opening from each of MEMIT_WORDS."""
    openings = [(*bos_ids(model), *plain_ids(model, word)) for word in MEMIT_WORDS]
    with working(WRITTEN_BY_MODEL):
        drawn = sampled(model, openings, MEMIT_LENGTH, TOP_K, seed)
    told = zip(MEMIT_WORDS, drawn, strict=True)
    return ("", *(_opened(word + decoded(model, *tokens)) for word, tokens in told))


def bare_first(contexts: Sequence[str]) -> tuple[str, ...]:
    """`contexts` behind none at all: what is written for the bare prompt is what values add to."""
    return ("", *(text for text in contexts if text))


def _opened(text: str) -> str:
    """A sentence to stand before a prompt; braces would be taken for the subject's place."""
    return f"{text.replace('{', ' ').replace('}', ' ').strip()}. "
