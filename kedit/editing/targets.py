"""Goals: what write sites are to write, raw, at the last token of which texts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.values import Row, Slot, Trained, Training, train
from kedit.editing.write_sites import WriteSite
from kedit.forward.reading import Tokens
from kedit.models.sites import has_post_norms


class Goal(NamedTuple):
    """`raw` is to be written at the last token of `text`."""

    text: Tokens
    raw: Mapping[Slot, Float[Tensor, " d_model"]]

    def of(self, site: WriteSite) -> Float[Tensor, " d_model"]:
        return self.raw[slot(site)]


def slot(site: WriteSite) -> Slot:
    """Where a delta of what the site writes enters."""
    return Slot(site.layer, site.half)


def goals(
    model: HookedTransformer,
    rows: Sequence[Row],
    sites: Sequence[WriteSite],
    training: Training,
    balance: float = 0.0,
) -> list[Goal]:
    """A goal for each distinct key of the rows that have targets, `sites` being trained together.

    Raises:
        InputError: as `train`.
    """
    trained = train(model, rows, [slot(site) for site in sites], training)
    wanted = balanced(trained, balance, has_post_norms(model)) if balance else trained.wanted
    found: dict[Tokens, Goal] = {}
    for number, row in enumerate(rows):
        text = row.tokens[: row.pos + 1]
        if row.targets:
            raw = {where: written[number] for where, written in wanted.items()}
            found.setdefault(text, Goal(text, raw))
    return list(found.values())


def balanced(
    trained: Trained, balance: float, apart: bool
) -> Mapping[Slot, Float[Tensor, "row d_model"]]:
    """`trained.wanted` with attention's share of what a layer's halves bring set to `balance`.

    Where they add up in the residual stream they still bring the same together:

        attn + balance · r,  mlp + (1 − balance) · r              r: what both bring

    Behind post-norms (`apart`) neither can bring what the other was to. There the half with the
    larger share brings all of its own, the other so much less of its own as their shares differ.
    Layers with one half only stay as they are.

    Ours: IntAttn-Edit (arXiv 2510.27400) splits by a factor from tracing; its formula was not to be
    had.
    """
    wanted = dict(trained.wanted)
    for attn in [slot for slot in wanted if slot.part == "attn"]:
        mlp = Slot(attn.layer, "mlp")
        if mlp not in wanted:
            continue
        both = sum(trained.wanted[half] - trained.written[half] for half in (attn, mlp))
        for half, share in ((attn, balance), (mlp, 1 - balance)):
            clean = trained.written[half]
            own = trained.wanted[half] - clean
            wanted[half] = clean + (min(1.0, share / (1 - share)) * own if apart else share * both)
    return wanted
