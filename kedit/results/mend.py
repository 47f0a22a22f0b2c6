"""What the training of a MEND came to: its losses, and what it does with requests it never saw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, percent

NOTE = (
    "Percent, with 95 % intervals over requests (Wilson's). Own prompt, other wordings: the target "
    "is likelier than what the fact said (the relation's name than None); neighbours: the "
    "likeliest next token is what it was. Each request is edited alone."
)


class Loss(NamedTuple):
    """Losses in nats; of training they are means over the steps since the last ones.

    Args:
        edit: negative log-likelihood of what the edit wants.
        before: the same without an edit.
        kl: of what should stay.
    """

    step: int
    edit: float
    before: float
    kl: float


@dataclass(frozen=True)
class HeldOutRate:
    """How often held-out requests' prompts of one kind have the reply that is wanted.

    Args:
        side: from which the requests edit.
        prompts: "own prompt", "other wordings" or "neighbours".
        n: requests.
    """

    side: str
    prompts: str
    before: Interval
    after: Interval
    n: int


@dataclass(frozen=True)
class TrainedMend(Result):
    """A MEND that was trained for a model.

    Args:
        n_train, n_held_out: requests that were trained on, and validated with.
        best: the step whose network is kept.
        n_steps: that were taken.
        training: losses since the last validation, at each.
        validation: by side, at each validation.
        rates: of the network that is kept, on the held-out requests.
        skipped: why other records could not be used, by their places.
        file: the network, for `kedit.editors.mend.MEND`; "" where it was not trained just now.
    """

    FILE = "validation.json"

    model: str
    seed: int
    n_train: int
    n_held_out: int
    best: int
    n_steps: int
    training: tuple[Loss, ...]
    validation: Mapping[str, tuple[Loss, ...]]
    rates: tuple[HeldOutRate, ...]
    skipped: Mapping[str, str]
    file: str = field(default="", compare=False)

    def table(self) -> Table:
        """How often held-out requests have the reply that is wanted, before and after the edit."""
        rows = tuple(
            (one.side, one.prompts, percent(one.before), percent(one.after), str(one.n))
            for one in self.rates
        )
        title = f"MEND for {self.model} after {self.best} of {self.n_steps} steps"
        columns = ("edits", "prompts", "before", "after", "n")
        return Table(f"{title}, on requests it never saw", columns, rows, NOTE)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "side": one.side,
                "prompts": one.prompts,
                **one.before.named("before"),
                **one.after.named("after"),
                "n": one.n,
            }
            for one in self.rates
        ]
