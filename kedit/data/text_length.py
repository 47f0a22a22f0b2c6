"""Whether a text is long enough for what is to be read of it, by its bytes or by its tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformer_lens import HookedTransformer

from kedit.data.corpus import Corpus
from kedit.errors import InputError

PACKED = (".xz", ".gz")  # files that hold more than their bytes
PLENTY = 16  # bytes a token: a text with more of them need not be counted


@dataclass(frozen=True)
class TextNeed:
    """What is to be read of a text in a file.

    Args:
        option: as it was told, for the message.
        n_tokens: that are read at least.
        why: who reads them.
        mend: what else than a longer text would do; "" for nothing.
    """

    option: str
    file: Path
    n_tokens: int
    why: str
    mend: str = ""

    def unmet(self, found: str) -> InputError:
        """What is said where the text has only what was found."""
        return InputError(
            f"{self.option}: it has {found}, and {self.why} reads {self.n_tokens:,}: a longer text "
            f"is wanted{self.mend and f', or {self.mend}'}"
        )


def require_bytes(needs: Iterable[TextNeed]) -> None:
    """Raises InputError for a text with fewer bytes than tokens are wanted."""
    for need in _longest_first(needs):
        n_bytes = need.file.stat().st_size
        if n_bytes < need.n_tokens and need.file.suffix not in PACKED:
            raise need.unmet(f"{n_bytes:,} bytes, and so no more tokens than that")


def require_tokens(needs: Iterable[TextNeed], model: HookedTransformer) -> None:
    """Raises InputError for a text with fewer tokens than are wanted."""
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
    """So that a text that is long enough for the first need is so for all others of it."""
    return sorted(needs, key=lambda need: -need.n_tokens)
