"""How an edit was made: its requests, how far it moved the weights, and its perplexity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.records import to_record
from kedit.results.verdict import Verdict


@dataclass(frozen=True)
class WeightChange:
    """How far an edit moved one parameter.

    Args:
        norm: Frobenius norm of the delta.
        relative: norm of the delta divided by the norm of the weight.
        n_moved: how many entries of the parameter changed.
        n: how many entries the parameter has.
    """

    norm: float
    relative: float
    n_moved: int
    n: int


# field: its key in report.json; kept because older runs have these keys
NAMES = {"norm": "norm", "relative": "of its own", "n_moved": "numbers moved", "n": "of"}


@dataclass(frozen=True)
class EditMade:
    """Facts about an edit as a whole.

    Args:
        requests, editor, settings: see `kedit.editing.provenance`.
        seconds: time to make the edit, in seconds.
        changes: how far each parameter was moved, by the parameter's name.
        held_out: name of the held-out text, whose perplexity should not rise.
        perplexity: perplexity of that text before and after the edit; None without such a text.
    """

    requests: tuple[Mapping[str, str], ...]
    editor: str
    settings: Mapping[str, Any]
    seconds: float
    changes: Mapping[str, WeightChange]
    held_out: str
    perplexity: tuple[float, float] | None

    @property
    def largest_norm(self) -> float:
        """The largest ratio of a delta's norm to its weight's norm, over all matrices.

        Biases are left out unless nothing else was changed: some of them are almost zero, so that
        the ratio says little.
        """
        matrices = [
            change.relative
            for name, change in self.changes.items()
            if not name.rpartition(".")[2].startswith("b_")
        ]
        return max(matrices or [change.relative for change in self.changes.values()])

    def in_words(self, editor: str) -> str:
        """A sentence with what `editor` changed, and how long it took."""
        changes = [
            f"{name} by a delta of norm {change.norm:.3g} ({_percent(change.relative)} of the "
            f"weight's norm; {change.n_moved:,} of {change.n:,} entries)"
            for name, change in self.changes.items()
        ]
        return f"{editor} changed {', '.join(changes)}, in {self.seconds:.1f} s."

    def to_record(self, verdict: Verdict, ending: str) -> dict[str, Any]:
        """The record for JSON, with the verdict.

        Args:
            ending: the verdict in words.
        """
        changed = {
            parameter: {key: getattr(change, name) for name, key in NAMES.items()}
            for parameter, change in self.changes.items()
        }
        both = self.perplexity or (None, None)
        record = {
            "request": self.requests,
            "editor": self.editor,
            "settings": self.settings,
            "seconds": self.seconds,
            "changed": changed,
            "held-out text": self.held_out,
            "perplexity": dict(zip(("before", "after"), both, strict=True)),
            "outcome": verdict.outcome,
            "prices": verdict.prices,
            "verdict": ending,
        }
        return to_record(record)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "EditMade":
        """The inverse of `to_record`. The verdict is not read: it follows from the numbers."""
        changes = {
            parameter: WeightChange(**{name: change[key] for name, key in NAMES.items()})
            for parameter, change in record["changed"].items()
        }
        before, after = (record["perplexity"][when] for when in ("before", "after"))
        # a perplexity that overflowed is saved as null; only without a held-out text is it None
        both = None if not record["held-out text"] else (_number(before), _number(after))
        return cls(
            tuple(record["request"]), record["editor"], record["settings"], record["seconds"],
            changes, record["held-out text"], both,
        )  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.095 else f"{100 * share:.2g} %"
