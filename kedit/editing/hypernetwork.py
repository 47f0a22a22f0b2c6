"""MEND's networks: from a gradient's factors to an edit's (Mitchell et al. 2022)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from kedit import cache as kept
from kedit.editing.factors import Factors, LinearMap
from kedit.errors import InputError

FORMAT = "2"  # of the files: 1 had no checksum
EPS = 1e-7  # beside a standard deviation, as in the published code


class RowChange(NamedTuple):
    """left.T @ right, a matrix's delta by the tokens it comes from; the rate is in `left`.

    Args:
        row: of the lesson, that the token is in.
    """

    left: Float[Tensor, "token d_read"]
    right: Float[Tensor, "token d_written"]
    row: Int[Tensor, " token"]


@dataclass(frozen=True)
class Origin:
    """Where a trained hypernetwork comes from.

    Args:
        fingerprint, source: of the model it edits (kedit.editing.provenance).
        recipe: plain values: settings, data, steps, what it reached.
    """

    fingerprint: str
    source: str
    recipe: Mapping[str, Any]


class Residual(nn.Module):
    """y = x + max(0, scale ⊙ (U V x + b) + shift): equation 3 of the paper.

    Matrices of one shape share U, V and b; each has a scale and a shift of its own.
    """

    def __init__(self, width: int, rank: int, n_maps: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(rank, width, generator=generator) / width**0.5
        self.v = nn.Parameter(drawn)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(n_maps, width))
        self.shift = nn.Parameter(torch.zeros(n_maps, width))

    def forward(self, x: Float[Tensor, "token width"], number: int) -> Float[Tensor, "token width"]:
        inner = x @ self.v.T @ self.u.T + self.b
        # not relu: at the start all is zero, where relu has no gradient and clamp has one
        return x + (self.scale[number] * inner + self.shift[number]).clamp(min=0)


class Hypernetwork(nn.Module):
    """One network of two layers for every shape of matrix, and a learned rate for every matrix.

    Before any training it is the identity on normalised factors: a step of gradient descent.

    Args:
        widths: of each editable matrix: what it reads and what it writes.
        rank: of the layers.
        rate: of every matrix at the start.
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
            self.networks[_named(shape)] = nn.ModuleList(
                Residual(sum(shape), rank, n_maps, generator) for _ in range(2)
            )
        self.rates = nn.Parameter(torch.full((len(self.widths),), rate))
        for number, shape in enumerate(self.widths.values()):
            self.register_buffer(f"mean_{number}", torch.zeros(sum(shape)))
            self.register_buffer(f"std_{number}", torch.ones(sum(shape)))

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        """The matrices that it edits."""
        return tuple(self.widths)

    def fit(self, seen: Mapping[LinearMap, Sequence[Factors]]) -> None:
        """Takes means and standard deviations of the factors from examples, once."""
        for number, one in enumerate(self.maps):
            both = torch.cat([torch.cat(factors[:2], 1) for factors in seen[one]]).double()
            getattr(self, f"mean_{number}").copy_(both.mean(0))
            getattr(self, f"std_{number}").copy_(both.std(0, correction=0) + EPS)

    def forward(self, factors: Mapping[LinearMap, Factors]) -> dict[LinearMap, RowChange]:
        """The edit that the gradient's factors ask for."""
        changes: dict[LinearMap, RowChange] = {}
        numbers: dict[tuple[int, int], int] = {}
        for place, (one, shape) in enumerate(self.widths.items()):
            own = numbers[shape] = numbers.get(shape, -1) + 1
            mean, std = getattr(self, f"mean_{place}"), getattr(self, f"std_{place}")
            z = (torch.cat(factors[one][:2], 1) - mean) / std
            for layer in self.networks[_named(shape)]:  # pyright: ignore
                z = layer(z, own)
            read, slope = z.split(shape, 1)
            # minus: so that the untrained network goes down the loss
            changes[one] = RowChange(-self.rates[place] * read, slope, factors[one].row)
        return changes

    def save(self, path: str | Path, origin: Origin, dtype: torch.dtype = torch.float32) -> None:
        """One safetensors file: all numbers in `dtype`, where they come from, and a checksum."""
        told = {
            "kedit_mend": FORMAT,
            "maps": json.dumps([[m.layer, m.name, *shape] for m, shape in self.widths.items()]),
            "rank": str(self.rank),
            "origin": json.dumps(vars(origin), ensure_ascii=False),
        }
        tensors = {k: v.to(dtype).contiguous() for k, v in self.state_dict().items()}
        kept.write(Path(path), tensors, told)


def read_hypernetwork(path: str | Path) -> tuple[Hypernetwork, Origin]:
    """What `Hypernetwork.save` wrote, in float32.

    Raises:
        InputError: no such file, a damaged one, or one that this kedit did not write.
    """
    path = Path(path)
    try:
        tensors, told = kept.read(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a trained MEND: {error}") from error
    if told.get("kedit_mend") == "1":
        raise InputError(
            f"{path} was trained with an earlier kedit, which wrote no checksum: train it again "
            "(python -m experiments.train_mend)"
        )
    if told.get("kedit_mend") != FORMAT:
        raise InputError(f"{path} holds no MEND that this kedit can read: make one by train_mend")
    if not kept.checksum_of(tensors, told):
        raise InputError(
            f"{path} is damaged, its checksum is wrong: take another copy of it, or train it again"
        )
    try:
        widths = {LinearMap(layer, name): (i, o) for layer, name, i, o in json.loads(told["maps"])}
        network = Hypernetwork(widths, int(told["rank"]), 0.0)
        network.load_state_dict({name: one.float() for name, one in tensors.items()})
        return network, Origin(**json.loads(told["origin"]))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is a broken MEND: {error!r}") from error


def _named(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
