"""The raw output that each write site should produce at the last token of each text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.frozen import Slot
from kedit.editing.keys import target_rows, training_rows
from kedit.editing.values import Trained, Training, train_all
from kedit.editing.wordings import reworded
from kedit.editing.write_sites import WriteSite
from kedit.facts import EditRequest
from kedit.forward.reading import Tokens
from kedit.models.prompts import KeyPosition
from kedit.models.sites import has_post_norms


class Goal(NamedTuple):
    """A text and the raw outputs that write sites should produce at its last token.

    Args:
        text: token ids up to the key position.
        raw: by slot, the target for the raw output (before a post-norm).
    """

    text: Tokens
    raw: Mapping[Slot, Float[Tensor, " d_model"]]

    def of(self, site: WriteSite) -> Float[Tensor, " d_model"]:
        """Returns the target for the output of `site`."""
        return self.raw[slot(site)]


def slot(site: WriteSite) -> Slot:
    """Returns the slot of a write site: where a trained delta is added to what the site writes."""
    return Slot(site.layer, site.half)


def goals(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    where: KeyPosition,
    sites: Sequence[WriteSite],
    training: Training,
    wordings: int = 0,
    balance: float = 0.0,
) -> list[Goal]:
    """Trains the outputs of `sites` together; returns a goal for each distinct key to edit.

    Each demand of a request has its own value wherever its key differs from the other's. Requests
    are trained independently of each other and have their own goals, even at the same key.

    Args:
        contexts: prefixes; "" is the bare prompt.
        where: the key position.
        training: settings of the training.
        wordings: number of other wordings in which a relation request is also edited.
        balance: 0, or attention's share of the change (see `balanced`).

    Raises:
        InputError: a prompt has no token at the key position, or see `kedit.editing.values.train`.
    """
    problems = []
    for request in requests:
        rows = training_rows(model, request, contexts, where)
        for demand in reworded(request, wordings):
            group = 1 + max(row.group for row in rows)
            rows += target_rows(model, demand, [""], where, group)
        problems.append(rows)
    found: list[Goal] = []
    all_trained = train_all(model, problems, [slot(site) for site in sites], training)
    for rows, trained in zip(problems, all_trained, strict=True):
        targets = balanced(trained, balance, has_post_norms(model)) if balance else trained.wanted
        by_text: dict[Tokens, Goal] = {}
        for number, row in enumerate(rows):
            text = row.tokens[: row.pos + 1]
            if row.targets:
                raw = {slot: output[number] for slot, output in targets.items()}
                by_text.setdefault(text, Goal(text, raw))
        found += by_text.values()
    return found


def balanced(
    trained: Trained, balance: float, apart: bool
) -> Mapping[Slot, Float[Tensor, "row d_model"]]:
    """Returns the trained outputs, with attention's share of each layer's change set to `balance`.

    Without post-norms, both halves of a layer add to the residual stream. Their total change r is
    kept, and split:

        attn + balance · r,  mlp + (1 − balance) · r

    With post-norms (`apart`), neither half can write the other's change. There the half with the
    larger share keeps its full change, and the change of the other is scaled by the ratio of the
    shares. Layers with only one half stay unchanged.

    This is kedit's formula. IntAttn-Edit (arXiv 2510.27400) splits by a factor from causal tracing,
    but its formula is not available.

    Args:
        balance: attention's share, at least 0 and below 1.
        apart: whether the model has post-norms.
    """
    targets = dict(trained.wanted)
    for attn in [slot for slot in targets if slot.part == "attn"]:
        mlp = Slot(attn.layer, "mlp")
        if mlp not in targets:
            continue
        total = sum(trained.wanted[half] - trained.written[half] for half in (attn, mlp))
        for half, share in ((attn, balance), (mlp, 1 - balance)):
            clean = trained.written[half]
            change = trained.wanted[half] - clean
            targets[half] = clean + (
                min(1.0, share / (1 - share)) * change if apart else share * total
            )
    return targets
