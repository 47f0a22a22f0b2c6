"""The losses of values in training: what should be said, and what should stay as it was.

Problems that are trained together share a product of final residuals and unembedding, which is most
of the work with a large vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.frozen import Row
from kedit.forward.metrics import HELD, Vocabulary, likeliest, losses_and_slope
from kedit.models.prompts import device


@dataclass
class LossPart:
    """Where final residuals are read for the losses of problems, which share a product of logits.

    Args:
        at: rows of the batch, and positions relative to the row's `pos`: first one per target
            token, then one per row whose distribution should stay the same.
        problem: for each of these, the number of its problem.
        targets, shares: the target tokens, and their weights in their problem's loss.
        stay_shares: the weights of the KL of the rows that should stay.
        among, stay: see `losses_and_slope`; None before the first evaluation.
    """

    at: Int[Tensor, "2 read"]
    problem: Int[Tensor, " read"]
    targets: Int[Tensor, " target"]
    shares: Float[Tensor, " target"]
    stay_shares: Float[Tensor, " staying"]
    among: Vocabulary | None = None
    stay: Float[Tensor, "staying vocab"] | None = None

    def only(self, kept: Bool[Tensor, " row"]) -> "LossPart":
        """Returns the same for a batch of only those rows at which `kept` is true."""
        read, n_targets = kept[self.at[0]], len(self.targets)
        rows, positions = self.at[:, read]
        said, stays = read[:n_targets], read[n_targets:]
        return replace(
            self,
            at=torch.stack([kept.cumsum(0)[rows] - 1, positions]),
            problem=self.problem[read],
            targets=self.targets[said],
            shares=self.shares[said],
            stay_shares=self.stay_shares[stays],
            stay=None if self.stay is None else self.stay[stays],
        )


def loss_parts(
    model: HookedTransformer, problems: Sequence[Sequence[Row]], kl: float, words: int
) -> list[LossPart]:
    """Returns where final residuals are read for the losses of a batch.

    With `words`, each problem has a vocabulary of its own and so is a part of its own. Otherwise a
    part has at most HELD logits, or one problem.

    Args:
        kl, words: see `kedit.editing.values.Training`.
    """
    most = 0 if words else HELD // model.cfg.d_vocab
    grouped: list[list[tuple[int, int, Row]]] = []
    n_read, number = 0, 0
    for problem, rows in enumerate(problems):
        n_own = sum(max(1, len(row.targets)) for row in rows)
        if not grouped or n_read + n_own > most:
            grouped.append([])
            n_read = 0
        grouped[-1] += [(problem, number + index, row) for index, row in enumerate(rows)]
        n_read += n_own
        number += len(rows)
    return [_part(rows, kl, device(model)) for rows in grouped]


def _part(rows: Sequence[tuple[int, int, Row]], kl: float, on: torch.device) -> LossPart:
    """Returns where the final residuals of some rows are read.

    Args:
        rows: the number of the problem, the index in the batch, and the row.
        kl: weight of a problem's mean KL.
    """
    positions, problems, targets, shares, stay_shares = [], [], [], [], []
    n_rows = Counter((problem, bool(row.targets)) for problem, _, row in rows)
    for problem, index, row in rows:
        for position, target in enumerate(row.targets, len(row.tokens) - len(row.targets)):
            positions.append((index, position - row.pos))
            problems.append(problem)
            targets.append(target)
            shares.append(row.weight / len(row.targets) / n_rows[problem, True])
    for problem, index, row in rows:
        if not row.targets:
            positions.append((index, 0 if row.staying is None else row.staying - row.pos))
            problems.append(problem)
            stay_shares.append(kl / n_rows[problem, False])
    return LossPart(
        torch.tensor(positions, device=on).T,
        torch.tensor(problems, device=on),
        torch.tensor(targets, device=on),
        torch.tensor(shares, device=on),
        torch.tensor(stay_shares, device=on),
    )


def losses_of(
    model: HookedTransformer,
    parts: Sequence[LossPart],
    normed: Float[Tensor, "read d_model"],
    n_problems: int,
    words: int,
) -> tuple[Float[Tensor, " problem"], Float[Tensor, " problem"], Float[Tensor, "read d_model"]]:
    """Computes each problem's negative log-likelihood and weighted KL, and their gradient.

    Args:
        words: see `kedit.editing.values.Training`.
    """
    nll, kl = torch.zeros(2, n_problems, device=normed.device)
    slopes = []
    for part, read in zip(parts, normed.split([len(part.problem) for part in parts]), strict=True):
        if words and part.among is None:
            part.among = likeliest(model, read, part.targets, words)
        each, drifted, part.stay, slope = losses_and_slope(
            model, read, part.targets, part.shares, part.stay_shares, part.stay, among=part.among
        )
        said, stays = part.problem.split([len(each), len(drifted)])
        nll.index_add_(0, said, part.shares * each)
        kl.index_add_(0, stays, part.stay_shares * drifted)
        slopes.append(slope)
    return nll, kl, torch.cat(slopes)
