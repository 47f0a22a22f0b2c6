"""Fast digests of files and tensors (xxHash, 128 bits), which detect accidental changes.

xxHash runs at the speed of memory, but is not cryptographic: it does not protect against anybody
who changes a file on purpose.
"""

from pathlib import Path

import torch
import xxhash
from torch import Tensor

PIECE = 1 << 22  # numbers that are converted to float32 at once: a digest needs little memory


def of_file(path: Path) -> str:
    """Returns the digest of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as raw:
        while chunk := raw.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def of_files(folder: Path, endings: tuple[str, ...]) -> str:
    """Returns one digest of the names and bytes of a folder's files whose names have such endings.

    Files in subfolders do not count.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(folder.iterdir()):
        if file.name.endswith(endings) and file.is_file():
            digest.update(f"{file.name} {of_file(file)}\n".encode())
    return digest.hexdigest()


def of_tensor(tensor: Tensor, order: tuple[int, ...] = ()) -> str:
    """Returns the digest of a tensor's shape and of its numbers as float32, on any device.

    Args:
        order: the order in which the axes are read, slowest axis first; empty: their own order.
            If the numbers lie in memory in this order, they are not copied.
    """
    digest = xxhash.xxh3_128(f"{tuple(tensor.shape)}".encode())
    numbers = tensor.detach().permute(order or tuple(range(tensor.ndim))).reshape(-1)
    for piece in numbers.split(PIECE):
        digest.update(piece.to(torch.float32).cpu().numpy().data)
    return digest.hexdigest()
