"""A penalty on attention drift: heads that attend to the edited token more than before an edit.

An edit at the subject can make heads attend to it more, whatever is asked of it. While a value is
trained, the loss of a row is the sum, over all heads above the edited layer that attend to the
edited token more than before, of KL(attention before ‖ now), from the last token of the prompt.
After SADR (arXiv 2502.14838), which also leaves the other heads free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kedit.editing.frozen import Row, Watched


@dataclass
class AttentionDrift:
    """The attention that should stay, in a batch of rows.

    Args:
        at: the tokens whose attention is read.
        problem: for each of them, the number of its problem.
        shares: its weight in its problem's loss.
        before: the logarithms of the attention without deltas; None before the first evaluation.
    """

    at: Watched
    problem: Int[Tensor, " watched"]
    shares: Float[Tensor, " watched"]
    before: Float[Tensor, "layer watched head pos"] | None = None

    def only(self, kept: Bool[Tensor, " row"]) -> "AttentionDrift":
        """Returns the same for a batch of only those rows at which `kept` is true."""
        read = kept[self.at.rows]
        return AttentionDrift(
            Watched(kept.cumsum(0)[self.at.rows[read]] - 1, self.at.columns[read]),
            self.problem[read],
            self.shares[read],
            None if self.before is None else self.before[:, read],
        )

    def losses(
        self, now: Float[Tensor, "layer watched head pos"], edited: int, n_problems: int
    ) -> Float[Tensor, " problem"]:
        """Computes each problem's weighted KL; the first call keeps the attention `before`.

        Args:
            now: the logarithms of the attention now.
            edited: the position at which the deltas are added.
            n_problems: number of problems.
        """
        if self.before is None:
            self.before = now.detach()
        more = (now[..., edited] > self.before[..., edited]).float()
        kl = (self.before.exp() * (self.before - now)).sum(-1)
        each = self.shares * (more * kl).sum((0, 2))
        return each.new_zeros(n_problems).index_add(0, self.problem, each)


def attention_drift(
    problems: Sequence[Sequence[Row]], weight: float, on: torch.device
) -> AttentionDrift:
    """Returns the attention that should stay: that from the last token of each row's prompt.

    A problem's loss is the mean over its rows with targets.

    Args:
        problems: the rows of each.
        weight: of the loss.
    """
    rows, columns, problem, shares = [], [], [], []
    first = 0  # index in the batch of the problem's first row
    for number, own in enumerate(problems):
        asking = [(first + index, row) for index, row in enumerate(own) if row.targets]
        for index, row in asking:
            rows.append(index)
            columns.append(len(row.tokens) - len(row.targets) - row.pos)
            problem.append(number)
            shares.append(weight / len(asking))
        first += len(own)
    at = Watched(torch.tensor(rows, device=on), torch.tensor(columns, device=on))
    return AttentionDrift(at, torch.tensor(problem, device=on), torch.tensor(shares, device=on))
