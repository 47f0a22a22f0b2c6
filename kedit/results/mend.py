"""The result of training MEND: losses, and success rates on held-out requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedit.results.base import Result
from kedit.stats import Interval
from kedit.tables import Table, percent

NOTE = (
    "Percent, with Wilson's 95 % intervals over requests. Own prompt, other wordings: the target "
    "is likelier than the old object (on the relation side: the relation's name is likelier than "
    "None). Neighbours: the likeliest next token does not change. One request is edited at a time."
)


class Loss(NamedTuple):
    """Losses at one step of the training, in nats.

    Training losses are means over the steps since the last entry.

    Args:
        step: the training step.
        edit: negative log-likelihood of the targets after the edit.
        before: negative log-likelihood of the targets without an edit.
        kl: KL(unedited ‖ edited) of the next token in text that should not change.
    """

    step: int
    edit: float
    before: float
    kl: float


@dataclass(frozen=True)
class HeldOutRate:
    """How often one kind of prompts of held-out requests is answered as expected.

    Args:
        side: the side from which the requests edit.
        prompts: "own prompt", "other wordings" or "neighbours".
        before, after: rate before and after the edit, as a fraction.
        n: number of requests.
    """

    side: str
    prompts: str
    before: Interval
    after: Interval
    n: int


@dataclass(frozen=True)
class TrainedMend(Result):
    """The training of a MEND network for a model.

    Args:
        model: name of the model.
        seed: seed of the training.
        n_train: number of requests that the network was trained on.
        n_held_out: number of requests that it was validated with.
        best: the step whose network was saved: the best one in validation.
        n_steps: number of training steps.
        training: training losses, one entry for each validation.
        validation: validation losses by side, one entry for each validation.
        rates: success rates of the saved network on the held-out requests.
        skipped: why other records could not be used, by their positions in the file.
        file: path of the network, for `kedit.editors.mend.MEND`; "" if the result was loaded.
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
        """How often held-out requests are answered as expected, before and after the edit."""
        rows = tuple(
            (rate.side, rate.prompts, percent(rate.before), percent(rate.after), str(rate.n))
            for rate in self.rates
        )
        title = f"MEND for {self.model} after {self.best} of {self.n_steps} steps"
        columns = ("side", "prompts", "before", "after", "requests")
        return Table(f"{title}, on held-out requests", columns, rows, NOTE)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "side": rate.side,
                "prompts": rate.prompts,
                **rate.before.named("before"),
                **rate.after.named("after"),
                "n": rate.n,
            }
            for rate in self.rates
        ]
