"""How many tokens are computed in one batch: as many as memory holds, or fewer if told so.

The numbers that are computed do not depend on it, apart from rounding.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from kedit.errors import InputError

Found = TypeVar("Found")
FEWEST = 64  # tokens of the smallest batch
log = logging.getLogger("kedit")
_most: int | None = None  # as told, or after memory was short
_last = 0  # the size of the last batches


def tokens_per_batch(fitting: int) -> int:
    """Returns how many tokens a batch should have.

    Args:
        fitting: how many fit into the memory that is free.
    """
    global _last
    _last = max(FEWEST, fitting if _most is None else min(fitting, _most))
    return _last


def most() -> int | None:
    """Returns the largest number of tokens in a batch; None: what memory holds."""
    return _most


@contextlib.contextmanager
def at_most(tokens: int | None) -> Iterator[None]:
    """Computes at most so many tokens in a batch within the block; None: what memory holds."""
    global _most
    before, _most = _most, tokens
    try:
        yield
    finally:
        _most = before


def with_less_memory(work: Callable[[], Found]) -> Found:
    """Does `work`; if memory runs out, again with batches of half the size, until it is done.

    The smaller batches stay for what is done afterwards. A message says so.

    Raises:
        InputError: memory runs out with the smallest batches, too.
    """
    global _most, _last
    before, _last = _most, 0
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # not in the handler, where the error's traceback would keep the tensors of the batch
        if _last <= FEWEST:
            _most = before
            raise InputError(f"memory runs out, whatever the size of its batches: {reason}")
        _most = max(FEWEST, _last // 2)
        _empty_cuda_cache()
        log.warning(
            "Memory ran out (%s): batches have at most %d tokens from now on", reason, _most
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out, on a GPU or on a CPU."""
    texts = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
    )


def _empty_cuda_cache() -> None:
    """Gives back what torch holds of the GPU's memory without using it."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
