"""MEND: a trained network turns the gradient of one edit into the edit (Mitchell et al. 2022)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformer_lens import HookedTransformer

from kedit.bounds import require_in_bounds
from kedit.cache import hashed
from kedit.editing.checks import guarded
from kedit.editing.edit import Edit, PreparedEditor
from kedit.editing.factors import gradient_factors
from kedit.editing.hypernetwork import Hypernetwork, read_hypernetwork
from kedit.editing.provenance import fingerprint, made_by
from kedit.editing.teaching import demanded, lesson
from kedit.errors import InputError
from kedit.facts import EditRequest

SHIPPED = Path(__file__).parent / "trained"
NAME = "mend.safetensors"  # what experiments.train_mend calls it


@dataclass(frozen=True)
class MEND:
    """The gradient of the targets' nll, through a hypernetwork that was trained for the model.

    Args:
        file: what experiments.train_mend wrote; "" for the one that comes with kedit, if it has one
            for the model.
        scale: times which the edit is made (lr_scale of the published code).
        removal: a relation edit's removal is asked for too; no published code does that.
        rates: "upstream" gives W_in the rate that was learned for W_out of the same block, and
            the other way round, as the published code does with GPT-2.
    """

    file: str = ""
    scale: float = 1.0
    removal: bool = False
    rates: Literal["right", "upstream"] = "right"

    def __post_init__(self) -> None:
        """Raises InputError for a number that is out of its bounds."""
        require_in_bounds(self)

    @guarded
    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Reads the hypernetwork once.

        Raises:
            InputError: there is no such file, or it was trained for another model; the family
                cannot be edited.
        """
        network = self._network(model)
        lowest = min(one.layer for one in network.maps)
        settings = dataclasses.asdict(self) | {"digest": _digest(network)}

        def edit(requests: Sequence[EditRequest]) -> Edit:
            wanted = demanded(model, requests, self.removal)
            if not wanted:
                raise InputError("there is no request to edit for")
            factors, _ = gradient_factors(model, lesson(model, lowest, wanted), network.maps)
            with torch.no_grad():
                changes = network(factors)
            deltas = {
                one.parameter(model): one.delta(model, self.scale * change.left.T, change.right)
                for one, change in changes.items()
            }
            return Edit(deltas, made_by("mend", settings, requests, model))

        return edit

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests together."""
        return self.on(model)(requests)

    def _network(self, model: HookedTransformer) -> Hypernetwork:
        own = fingerprint(model)
        network, origin = read_hypernetwork(self.file or _shipped(own, model.cfg.model_name))
        if origin.fingerprint != own:
            raise InputError(
                f"{self.file} was trained for another model: for {origin.source or 'one'}, not "
                f"{model.cfg.model_name}"
            )
        network = network.to(model.embed.W_E.device).requires_grad_(False)
        if self.rates == "upstream":
            _swap(network)
        return network


def _shipped(own: str, model: str) -> Path:
    """The file that comes with kedit for the model with this fingerprint."""
    for file in sorted(SHIPPED.glob("*.safetensors")):
        if read_hypernetwork(file)[1].fingerprint == own:
            return file
    raise InputError(
        f"kedit has no trained MEND for {model}: train one (python -m experiments.train_mend "
        f"--model ...) and tell its file, as in mend:file=results/train_mend/.../{NAME}"
    )


def _swap(network: Hypernetwork) -> None:
    """The rates of W_in and W_out of each block, each for the other."""
    places = {one: number for number, one in enumerate(network.maps)}
    learned = network.rates.clone()
    for one, number in places.items():
        other = {"W_in": "W_out", "W_out": "W_in"}.get(one.name)
        twin = dataclasses.replace(one, name=other) if other else one
        network.rates[number] = learned[places.get(twin, number)]


def _digest(network: Hypernetwork) -> str:
    """Which trained network it was, wherever its file lies."""
    return hashed(torch.cat([value.flatten() for value in network.state_dict().values()]))[:16]
