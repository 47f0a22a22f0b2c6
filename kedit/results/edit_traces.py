"""The trace of an edit: from which activations the edited model's new answer comes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from kedit.heads import Head
from kedit.results.grids import EffectGrid
from kedit.results.swept import Swept
from kedit.tables import Table, number

HEADS_SHOWN = 8


@dataclass(frozen=True)
class HeadChanges:
    """What each head does before and after an edit, at the prompt's last token.

    Args:
        direct_before, direct_after: each head's direct effect on logit(answer) - logit(foil)
            (`probes.direct`).
        attention_before, attention_after: the share of its attention that goes to the subject.
    """

    direct_before: Float[Tensor, "layer head"]
    direct_after: Float[Tensor, "layer head"]
    attention_before: Float[Tensor, "layer head"]
    attention_after: Float[Tensor, "layer head"]


@dataclass(frozen=True)
class EditTrace(Swept):
    """Where the new answer of an edited model comes from, at one prompt.

    Args:
        editor: name of the editor.
        prompt: the edited prompt.
        labels: the text of each of the prompt's tokens.
        corrupted: positions of the subject's tokens, which figures mark.
        answer, foil: the first token that distinguishes the new answer, and the token that the
            unedited model finds likeliest apart from it.
        grids: the scores of the unedited model with one activation of the edited model put in,
            cell by cell, by `EffectGrid.name`. "clean" is the edited model, "corrupted" the
            unedited one.
        undone: the reverse for single heads: scores of the edited model with one head's z of the
            unedited model put in. A negative effect means that the edit needs the head.
        heads: direct effects and attention of the heads, before and after.
        mlps_before, mlps_after: each MLP's direct effect on logit(answer) - logit(foil).
        given: the answer's tokens before the scored token, which end the prompt.
    """

    RUNS: ClassVar[tuple[str, str]] = ("edited", "unedited")

    editor: str
    prompt: str
    labels: tuple[str, ...]
    corrupted: tuple[int, ...]
    answer: str
    foil: str
    grids: Mapping[str, EffectGrid]
    undone: EffectGrid
    heads: HeadChanges
    mlps_before: Float[Tensor, " layer"]
    mlps_after: Float[Tensor, " layer"]
    given: str = ""

    def __repr__(self) -> str:
        return f"EditTrace({self.editor}, {self.prompt!r} -> {self.answer!r})"

    @property
    def text(self) -> str:
        """The edited prompt."""
        return self.prompt

    @property
    def corrupted_how(self) -> str:
        """What is compared, as a phrase."""
        return f"the model before the edit by {self.editor}; marked are the subject's tokens"

    def head_rows(self, metric: str = "logit_diff") -> list[dict[str, Any]]:
        """A row for each head: what putting it back does, its direct effects and its attention.

        Args:
            metric: of the effect of putting the head's z back, summed over all tokens' cells.
        """
        undone, changes = self.undone.indirect_effect(metric).sum(1), self.heads
        n_layers, n_heads = undone.shape
        return [
            {
                "head": str(Head(layer, head)),
                "layer": layer,
                "put back": float(undone[layer, head]),
                "direct before": float(changes.direct_before[layer, head]),
                "direct after": float(changes.direct_after[layer, head]),
                "attention before": float(changes.attention_before[layer, head]),
                "attention after": float(changes.attention_after[layer, head]),
            }
            for layer in range(n_layers)
            for head in range(n_heads)
        ]

    def head_table(self, n: int = HEADS_SHOWN) -> Table:
        """The heads whose z, put back to what it was, takes most of the new answer away."""
        rows = sorted(self.head_rows(), key=lambda row: row["put back"])[:n]
        columns = tuple(name for name in rows[0] if name != "layer")
        return Table(
            "The heads that the edit needs most",
            columns,
            tuple(
                tuple(row[name] if name == "head" else number(row[name]) for name in columns)
                for row in rows
            ),
            f"{self.prompt!r}, edited by {self.editor}. put back: change of logit({self.answer}) - "
            f"logit({self.foil}) when this head alone gets the z of the unedited model, summed "
            "over the prompt's tokens. direct: what the head itself writes for this difference at "
            "the last token. attention: its share that goes from the last token to the subject.",
        )
