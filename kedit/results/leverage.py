"""The result of `kedit.studies.leverage`: what attention's key adds to the MLP's, by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, plural, two_digits

BOTH = "both"  # W_out and W_O, by one solve
HALVES = {"mlp": "W_out", "attn": "W_O", BOTH: "both"}  # with their names in tables


@dataclass(frozen=True)
class LayerLeverage:
    """The leverages of one layer's keys.

    Args:
        leverage: by half (HALVES), the mean of kᵀC⁻¹k over cases, divided by the length of the key:
            1 at a mean token of the text.
        saved: by how much one solve of both halves lowers the square of what the edit writes at
            other tokens, below that of W_out alone.
        saved_by_head: the same if only one head's rows of W_O join W_out.
    """

    layer: int
    leverage: Mapping[str, Interval]
    saved: Interval
    saved_by_head: tuple[float, ...]


@dataclass(frozen=True)
class Leverages(Result):
    """What attention's key adds to the MLP's at the token of an edit, by layer.

    Args:
        model: name of the model.
        where: the key position.
        n_cases: number of cases.
        text: name of the text of C.
        seed: seed of the bootstrap, and of a text that the model writes itself.
        at_mean_token: what attention saves at a mean token: the share of its key in both keys'
            length. Only more than this is due to the edit's token.
        layers: the layers.
    """

    FILE = "leverage.json"

    model: str
    where: str
    n_cases: int
    text: str
    seed: int
    at_mean_token: float
    layers: tuple[LayerLeverage, ...]

    def table(self) -> Table:
        """Returns a row for each layer."""
        rows = []
        for layer in self.layers:
            best = max(range(len(layer.saved_by_head)), key=layer.saved_by_head.__getitem__)
            rows.append(
                (
                    str(layer.layer),
                    *(two_digits(layer.leverage[half]) for half in HALVES),
                    two_digits(layer.saved),
                    f"H{best} {layer.saved_by_head[best]:.2f}",
                )
            )
        return Table(
            f"Leverage of the edit's key, kᵀC⁻¹k: {self.model}, at {self.where}, "
            f"{plural(self.n_cases, 'case')}",
            ("layer", *HALVES.values(), "saved by attention", "by one head"),
            tuple(rows),
            f"Leverages are divided by the key's length: 1 at a mean token ({self.text}). Saved: "
            "by which share one solve of both halves lowers the square of what an edit writes at "
            "other tokens, below that of W_out alone; at a mean token by "
            f"{self.at_mean_token:.2f}. Means over cases with 95 % bootstrap intervals; seed "
            f"{self.seed}.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row for each layer and half, and one for each head."""
        found: list[dict[str, Any]] = []
        for layer in self.layers:
            place = {"layer": layer.layer}
            found += [
                {**place, "half": half, "head": "", **layer.leverage[half].named("leverage")}
                for half in HALVES
            ]
            found.append({**place, "half": BOTH, "head": "", **layer.saved.named("saved")})
            found += [
                {**place, "half": BOTH, "head": head, "saved": saved}
                for head, saved in enumerate(layer.saved_by_head)
            ]
        return found
