"""The anatomy of edits: what carries the new answer, on average over cases, for each editor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kedit.heads import Head
from kedit.results.base import Result
from kedit.stats import Interval, largest
from kedit.tables import Table, plural, two_digits

SITES = ("resid_post", "mlp_out", "attn_out")
TOKENS = ("subject's last token", "last token")
HEADS_SHOWN = 3
SHOWN = 0.005  # smaller shares round to zero


@dataclass(frozen=True)
class EditorAnatomy:
    """What carries the edits of one editor.

    All shares are of an edit's total effect, which is the change of logit(answer) - logit(foil).
    They are ratios of sums over cases, so that an edit with a small effect has little weight.

    Args:
        editor: name of the editor.
        n: number of edits that are averaged.
        n_failed: number of cases without an edit, or whose edit did not raise the logit difference.
        total: the mean total effect.
        carried: by site and token, the share that one activation of the edited model brings about
            in the unedited one.
        needed: the share that is lost if a head of the edited model gets the z of the unedited one,
            summed over the tokens at which it gets it.
        direct, mlps: the share by which a head's or an MLP's direct effect grows.
        attention_before, attention_after: the share of a head's attention from the last token to
            the subject.
    """

    editor: str
    n: int
    n_failed: int
    total: Interval
    carried: Mapping[str, Mapping[str, Interval]]
    needed: Interval
    direct: Interval
    mlps: Interval
    attention_before: Interval
    attention_after: Interval

    def peak(self, site: str, token: str) -> tuple[int, Interval]:
        """Returns the layer with the largest share, and this share."""
        shares = self.carried[site][token]
        layer = int(np.argmax(shares.mean))
        return layer, shares.at(layer)

    def most_needed(self, n: int = HEADS_SHOWN) -> list[tuple[Head, Interval]]:
        """Returns the heads with the largest shares that are lost without them."""
        loss = np.maximum(self.needed.mean, 0)
        cells = [cell for cell in largest(loss, n) if loss[cell]]
        return [(Head(*cell), self.needed.at(*cell)) for cell in cells]


@dataclass(frozen=True)
class Anatomy(Result):
    """What carries the edits of several editors.

    Args:
        model: name of the model.
        perspective: the side that was edited.
        seed: seed of contexts and bootstrap.
        editors: one entry for each editor.
    """

    FILE: ClassVar[str] = "anatomy.json"

    model: str
    perspective: str
    seed: int
    editors: tuple[EditorAnatomy, ...]

    def table(self) -> Table:
        """Returns the strongest places of each editor, and how attention to the subject changes."""
        rows = []
        for editor in self.editors:
            cells = [
                _peak(editor, "mlp_out", TOKENS[0]),
                _peak(editor, "mlp_out", TOKENS[1]),
                _peak(editor, "attn_out", TOKENS[1]),
            ]
            heads = "; ".join(f"{head} {two_digits(share)}" for head, share in editor.most_needed())
            drift = ", ".join(
                f"{head} {editor.attention_before.at(*head).mean:.2f} to "
                f"{editor.attention_after.at(*head).mean:.2f}"
                for head, _ in editor.most_needed()
            )
            rows.append((editor.editor, str(editor.n), *cells, heads, drift))
        return Table(
            f"What carries an edit from the {self.perspective} side: {self.model}",
            (
                "editor", "edits", "MLP, subject", "MLP, last token", "attention, last token",
                "heads needed most", "their attention to the subject",
            ),
            tuple(rows),
            "Layer with the largest share of the edit's total effect that one activation of the "
            "edited model brings about in the unedited one, with 95 % bootstrap intervals over "
            "cases. Heads: the share that is lost if the head alone gets back its output of the "
            "unedited model. The layers and heads were chosen on the same cases, so their shares "
            f"are a little too high. Seed {self.seed}.",
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each number: editor, measure, layer, head, token, value, interval."""
        return [row for editor in self.editors for row in _rows(editor)]

    @property
    def counts(self) -> str:
        """Returns how many edits of each editor are averaged, as a phrase."""
        return "; ".join(
            f"{editor.editor}: {plural(editor.n, 'edit')}"
            + (f", {editor.n_failed} failed" if editor.n_failed else "")
            for editor in self.editors
        )


def _peak(editor: EditorAnatomy, site: str, token: str) -> str:
    layer, share = editor.peak(site, token)
    return f"L{layer} {two_digits(share)}" if share.mean >= SHOWN else "none"


def _rows(editor: EditorAnatomy) -> Iterator[dict[str, Any]]:
    common = {"editor": editor.editor, "edits": editor.n}
    for site, by_token in editor.carried.items():
        for token, shares in by_token.items():
            for layer in range(len(shares.mean)):
                yield {
                    **common, "measure": f"carried by {site}", "token": token, "layer": layer,
                    "head": None, **shares.at(layer).named("value"),
                }  # fmt: skip
    by_head: dict[str, Interval] = {
        "needed": editor.needed, "direct": editor.direct,
        "attention before": editor.attention_before, "attention after": editor.attention_after,
    }  # fmt: skip
    for measure, values in by_head.items():
        for layer, head in np.ndindex(values.mean.shape):
            yield {
                **common, "measure": measure, "token": None, "layer": layer, "head": head,
                **values.at(layer, head).named("value"),
            }  # fmt: skip
    for layer in range(len(editor.mlps.mean)):
        yield {
            **common, "measure": "direct effect of the MLP", "token": None, "layer": layer,
            "head": None, **editor.mlps.at(layer).named("value"),
        }  # fmt: skip
