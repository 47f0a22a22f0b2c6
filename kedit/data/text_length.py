"""Checks whether a text has as many tokens as a run reads, by its bytes or by its tokens.

The bytes can be checked before a model is loaded; tokens need the model's tokenizer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformer_lens import HookedTransformer

from kedit.data.corpus import Corpus
from kedit.errors import InputError

PACKED = (".xz", ".gz")  # compressed files, which may have more tokens than bytes
# bytes per token, more than any tokenizer averages: a longer text has enough tokens uncounted
PLENTY = 16


@dataclass(frozen=True)
class TextNeed:
    """How many tokens of a text file a run reads.

    Args:
        option: option and value as the user gave them, for the message.
        file: the text file.
        n_tokens: number of tokens that the run reads at least.
        why: what reads them, as the subject of a sentence.
        mend: what would help instead of a longer text; "" for nothing.
    """

    option: str
    file: Path
    n_tokens: int
    why: str
    mend: str = ""

    def unmet(self, found: str) -> InputError:
        """Makes the error for a text that is too short.

        Args:
            found: what the text has, as in "5 tokens".
        """
        return InputError(
            f"{self.option}: the text has {found}, but {self.why} needs {self.n_tokens:,} tokens: "
            f"use a longer text{self.mend and f', or {self.mend}'}"
        )


def require_bytes(needs: Iterable[TextNeed]) -> None:
    """Raises InputError for a text with fewer bytes than the tokens that are needed."""
    for need in _longest_first(needs):
        n_bytes = need.file.stat().st_size
        if n_bytes < need.n_tokens and need.file.suffix not in PACKED:
            raise need.unmet(f"{n_bytes:,} bytes, and so at most as many tokens")


def require_tokens(needs: Iterable[TextNeed], model: HookedTransformer) -> None:
    """Raises InputError for a text with fewer tokens than are needed."""
    for need in _longest_first(needs):
        if need.file.stat().st_size >= PLENTY * need.n_tokens:
            continue
        n_tokens = 0
        for ids in Corpus(str(need.file)).token_ids(model):
            n_tokens += len(ids)
            if n_tokens >= need.n_tokens:
                break
        else:
            raise need.unmet(f"{n_tokens:,} tokens")


def _longest_first(needs: Iterable[TextNeed]) -> list[TextNeed]:
    """Sorts the needs, so that the error for a text names the largest number of tokens."""
    return sorted(needs, key=lambda need: -need.n_tokens)
