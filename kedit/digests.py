"""Digests of files and of tensors, at the speed of memory: xxHash, 128 bits.

They tell what has changed by accident; nobody who wants to deceive is kept from it.
"""

from pathlib import Path

import torch
import xxhash
from torch import Tensor

PIECE = 1 << 22  # numbers that are converted at once, so that a digest takes no memory to speak of


def of_file(path: Path) -> str:
    """Of all bytes of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as raw:
        while chunk := raw.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def of_files(folder: Path, endings: tuple[str, ...]) -> str:
    """Of the names and bytes of the files of a folder, not of those below it, with such endings."""
    digest = xxhash.xxh3_128()
    for file in sorted(folder.iterdir()):
        if file.name.endswith(endings) and file.is_file():
            digest.update(f"{file.name} {of_file(file)}\n".encode())
    return digest.hexdigest()


def of_tensor(tensor: Tensor, order: tuple[int, ...] = ()) -> str:
    """Of a tensor's shape, and of all its numbers as float32, on whatever device they are.

    Args:
        order: in which the axes are read, the slowest first; without it as they come. Where the
            numbers lie in memory in this order, none of them is moved.
    """
    digest = xxhash.xxh3_128(f"{tuple(tensor.shape)}".encode())
    numbers = tensor.detach().permute(order or tuple(range(tensor.ndim))).reshape(-1)
    for piece in numbers.split(PIECE):
        digest.update(piece.to(torch.float32).cpu().numpy().data)
    return digest.hexdigest()
