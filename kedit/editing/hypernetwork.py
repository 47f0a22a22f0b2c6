"""MEND's hypernetwork: maps a gradient's factors to an edit's factors (Mitchell et al. 2022)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from kedit import cache
from kedit.editing.factors import Factors, LinearMap
from kedit.errors import InputError

FORMAT = "2"  # version of the files; version 1 had no checksum
EPS = 1e-7  # added to standard deviations, as in the published code


class RowChange(NamedTuple):
    """A matrix's delta left.T @ right, with one row per token; `left` includes the learning rate.

    Args:
        row: the row of the lesson that each token belongs to.
    """

    left: Float[Tensor, "token d_read"]
    right: Float[Tensor, "token d_written"]
    row: Int[Tensor, " token"]


@dataclass(frozen=True)
class Origin:
    """What a hypernetwork was trained for and how.

    Args:
        fingerprint, source: of the model it edits (see `kedit.editing.provenance`).
        recipe: plain values: settings, data, steps, and the losses reached.
    """

    fingerprint: str
    source: str
    recipe: Mapping[str, Any]


class Residual(nn.Module):
    """The layer y = x + max(0, scale ⊙ (U V x + b) + shift), equation 3 of the paper.

    Matrices of the same shape share U, V and b. Each matrix has its own scale and shift.
    """

    def __init__(self, width: int, rank: int, n_maps: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(rank, width, generator=generator) / width**0.5
        self.v = nn.Parameter(drawn)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(n_maps, width))
        self.shift = nn.Parameter(torch.zeros(n_maps, width))

    def forward(
        self, x: Float[Tensor, "token width"], map_index: int
    ) -> Float[Tensor, "token width"]:
        inner = x @ self.v.T @ self.u.T + self.b
        # clamp instead of relu: at the start its argument is zero everywhere, where the gradient of
        # relu is zero and that of clamp is one
        return x + (self.scale[map_index] * inner + self.shift[map_index]).clamp(min=0)


class Hypernetwork(nn.Module):
    """One network of two layers for each shape of matrix, and a learned rate for each matrix.

    Before training it is the identity on normalised factors, so its edit is a step of gradient
    descent.

    Args:
        widths: for each editable matrix, the lengths of what it reads and writes.
        rank: rank of the layers.
        rate: initial rate of every matrix.
        seed: of the initial weights.
    """

    def __init__(
        self, widths: Mapping[LinearMap, tuple[int, int]], rank: int, rate: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.widths = dict(sorted(widths.items()))
        self.rank = rank
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleDict()
        for shape in dict.fromkeys(self.widths.values()):
            n_maps = list(self.widths.values()).count(shape)
            self.networks[_shape_name(shape)] = nn.ModuleList(
                Residual(sum(shape), rank, n_maps, generator) for _ in range(2)
            )
        self.rates = nn.Parameter(torch.full((len(self.widths),), rate))
        for number, shape in enumerate(self.widths.values()):
            self.register_buffer(f"mean_{number}", torch.zeros(sum(shape)))
            self.register_buffer(f"std_{number}", torch.ones(sum(shape)))

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        """The matrices that the network edits."""
        return tuple(self.widths)

    def fit(self, seen: Mapping[LinearMap, Sequence[Factors]]) -> None:
        """Sets the means and standard deviations that normalise factors, from examples."""
        for number, matrix in enumerate(self.maps):
            factors_seen = torch.cat(
                [torch.cat(factors[:2], 1) for factors in seen[matrix]]
            ).double()
            getattr(self, f"mean_{number}").copy_(factors_seen.mean(0))
            getattr(self, f"std_{number}").copy_(factors_seen.std(0, correction=0) + EPS)

    def forward(self, factors: Mapping[LinearMap, Factors]) -> dict[LinearMap, RowChange]:
        """Returns the edit for the gradient's factors."""
        changes: dict[LinearMap, RowChange] = {}
        numbers: dict[tuple[int, int], int] = {}
        for number, (matrix, shape) in enumerate(self.widths.items()):
            map_index = numbers[shape] = numbers.get(shape, -1) + 1
            mean, std = getattr(self, f"mean_{number}"), getattr(self, f"std_{number}")
            # the network is float32, whatever the model's dtype is
            z = (torch.cat(factors[matrix][:2], 1).float() - mean) / std
            for layer in self.networks[_shape_name(shape)]:  # pyright: ignore
                z = layer(z, map_index)
            read, slope = z.split(shape, 1)
            # minus, so that the untrained network's edit decreases the loss
            changes[matrix] = RowChange(-self.rates[number] * read, slope, factors[matrix].row)
        return changes

    def save(self, path: str | Path, origin: Origin, dtype: torch.dtype = torch.float32) -> None:
        """Writes all numbers in `dtype`, their origin and a checksum to one safetensors file."""
        metadata = {
            "kedit_mend": FORMAT,
            "maps": json.dumps([[m.layer, m.name, *shape] for m, shape in self.widths.items()]),
            "rank": str(self.rank),
            "origin": json.dumps(vars(origin), ensure_ascii=False),
        }
        tensors = {k: v.to(dtype).contiguous() for k, v in self.state_dict().items()}
        cache.write(Path(path), tensors, metadata)


def read_hypernetwork(path: str | Path) -> tuple[Hypernetwork, Origin]:
    """Reads a file that `Hypernetwork.save` wrote, in float32.

    Raises:
        InputError: the file doesn't exist, is damaged, or was not written by this version of kedit.
    """
    path = Path(path)
    try:
        tensors, metadata = cache.read(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a trained MEND: {error}") from error
    if metadata.get("kedit_mend") == "1":
        raise InputError(
            f"{path} was trained with an earlier kedit, which wrote no checksum: train it again "
            "(python -m experiments.train_mend)"
        )
    if metadata.get("kedit_mend") != FORMAT:
        raise InputError(
            f"{path} holds no MEND that this kedit can read: train one "
            "(python -m experiments.train_mend)"
        )
    if not cache.checksum_of(tensors, metadata):
        raise InputError(
            f"{path} is damaged, its checksum is wrong: use another copy, or train it again"
        )
    try:
        widths = {
            LinearMap(layer, name): (i, o) for layer, name, i, o in json.loads(metadata["maps"])
        }
        network = Hypernetwork(widths, int(metadata["rank"]), 0.0)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return network, Origin(**json.loads(metadata["origin"]))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is a broken MEND: {error!r}") from error


def _shape_name(shape: tuple[int, int]) -> str:
    """Returns the name of the network for matrices of this shape, as in "640x2048"."""
    return f"{shape[0]}x{shape[1]}"
