"""The result of `kedit.studies.leaks`: which share of an edit's value other prompts would get."""

from dataclasses import dataclass
from typing import Any

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, plural, two_digits

# groups of test prompts, with their names in tables
GROUPS = {
    "paraphrase": "paraphrases",
    "neighborhood": "neighbours",
    "other relations": "other relations",
}


@dataclass(frozen=True)
class PlaceLeaks:
    """One place at which an edit can be written.

    Args:
        layer, half, where: the matrix and the token; see `kedit.editors.cues.Cues`.
        shares: by group of test prompts (GROUPS), the mean share of the inserted value.
        n_cases: by group, the number of cases.
    """

    layer: int
    half: str
    where: str
    shares: dict[str, Interval]
    n_cases: dict[str, int]

    @property
    def name(self) -> str:
        """Such as "W_out of layer 5, subject_last"."""
        return f"{'W_out' if self.half == 'mlp' else 'W_O'} of layer {self.layer}, {self.where}"


@dataclass(frozen=True)
class Leaks(Result):
    """Shares of an inserted value at test prompts, by place.

    Args:
        model: name of the model.
        n_cases: number of cases.
        seed: seed of contexts, spared prompts and bootstrap.
        places: the places.
    """

    FILE = "leaks.json"

    model: str
    n_cases: int
    seed: int
    places: tuple[PlaceLeaks, ...]

    def table(self) -> Table:
        """Returns a row for each place."""
        rows = [
            (place.name, *(two_digits(place.shares.get(group)) for group in GROUPS))
            for place in self.places
        ]
        return Table(
            f"Share of an edit's value that test prompts get: {self.model}, "
            f"{plural(self.n_cases, 'case')}",
            ("place", *GROUPS.values()),
            tuple(rows),
            "At the edit's own mean key the share is 1. Means over cases with 95 % bootstrap "
            f"intervals; seed {self.seed}. Paraphrases should get much, the others little.",
        )

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row for each place and group of prompts."""
        return [
            {
                "layer": place.layer, "half": place.half, "where": place.where, "group": group,
                "cases": place.n_cases[group], **share.named("share"),
            }
            for place in self.places
            for group, share in place.shares.items()
        ]  # fmt: skip
