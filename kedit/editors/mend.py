"""MEND: a trained network turns the gradient of a loss into an edit (Mitchell et al. 2022)."""

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
NAME = "mend.safetensors"  # the file that experiments.train_mend writes


@dataclass(frozen=True)
class MEND:
    """Edits by the gradient of the targets' loss, transformed by a trained hypernetwork.

    The network maps rank-one factors of the gradient to factors of the edit (section 3). By
    default kedit departs from the published code as described under `rates`.

    Args:
        file: a file that experiments.train_mend wrote; "": the one that comes with kedit for the
            model, if any.
        scale: factor of the edit (lr_scale in the published code).
        removal: whether a relation edit's removal is included; no published code does this.
        rates: "upstream" gives W_in the rate that was learned for W_out of the same block and vice
            versa, as the published code does with GPT-2.
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
        """Prepares the editor for a model: reads the hypernetwork once for many edits.

        Raises:
            InputError: the file doesn't exist, or was trained for another model; or models of this
                family cannot be edited.
        """
        network = self._network(model)
        lowest = min(matrix.layer for matrix in network.maps)
        settings = dataclasses.asdict(self) | {"digest": _digest(network)}

        def edit(requests: Sequence[EditRequest]) -> Edit:
            texts = demanded(model, requests, self.removal)
            factors, _ = gradient_factors(model, lesson(model, lowest, texts), network.maps)
            with torch.no_grad():
                changes = network(factors)
            deltas = {
                matrix.parameter(model): matrix.delta(
                    model, self.scale * change.left.T, change.right
                )
                for matrix, change in changes.items()
            }
            return Edit(deltas, made_by("mend", settings, requests, model))

        return edit

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests together."""
        return self.on(model)(requests)

    def _network(self, model: HookedTransformer) -> Hypernetwork:
        """Reads the hypernetwork, and checks that it was trained for the model."""
        model_fingerprint = fingerprint(model)
        network, origin = read_hypernetwork(
            self.file or _shipped(model_fingerprint, model.cfg.model_name)
        )
        if origin.fingerprint != model_fingerprint:
            raise InputError(
                f"{self.file} was trained for another model: for "
                f"{origin.source or 'a model without a name'}, not {model.cfg.model_name}"
            )
        network = network.to(model.embed.W_E.device).requires_grad_(False)
        if self.rates == "upstream":
            _swap(network)
        return network


def _shipped(model_fingerprint: str, model: str) -> Path:
    """Returns the file that comes with kedit for the model with this fingerprint.

    Raises:
        InputError: there is none.
    """
    for file in sorted(SHIPPED.glob("*.safetensors")):
        if read_hypernetwork(file)[1].fingerprint == model_fingerprint:
            return file
    raise InputError(
        f"kedit has no trained MEND for {model}: train one (python -m experiments.train_mend "
        f"--model ...) and name its file, as in mend:file=results/train_mend/.../{NAME}"
    )


def _swap(network: Hypernetwork) -> None:
    """Swaps the learned rates of W_in and W_out within each block."""
    numbers = {matrix: number for number, matrix in enumerate(network.maps)}
    learned = network.rates.clone()
    for matrix, number in numbers.items():
        other = {"W_in": "W_out", "W_out": "W_in"}.get(matrix.name)
        twin = dataclasses.replace(matrix, name=other) if other else matrix
        network.rates[number] = learned[numbers.get(twin, number)]


def _digest(network: Hypernetwork) -> str:
    """Returns a hash of the network's numbers, which identifies it wherever its file lies."""
    return hashed(torch.cat([value.flatten() for value in network.state_dict().values()]))[:16]
