"""What is known of an edit as a whole: what it was asked, what it moved, and its perplexity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.records import to_record
from kedit.results.verdict import Verdict


@dataclass(frozen=True)
class WeightChange:
    """How far one parameter was moved.

    Args:
        norm: of the delta.
        relative: that over the weight's own norm.
        n_moved: of its `n` numbers, how many are others than before.
    """

    norm: float
    relative: float
    n_moved: int
    n: int


# as report.json has had them from the start
NAMES = {"norm": "norm", "relative": "of its own", "n_moved": "numbers moved", "n": "of"}


@dataclass(frozen=True)
class EditMade:
    """An edit as a whole.

    Args:
        requests, editor, settings: as the edit's provenance has them.
        seconds: that making it took.
        changes: by the name of the parameter.
        held_out: what the text is called whose perplexity should not rise.
        perplexity: of that text, before and after the edit; None where there was none.
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
        """Of a delta over its weight's; of matrices only, since some biases are next to nothing."""
        matrices = [
            one.relative
            for name, one in self.changes.items()
            if not name.rpartition(".")[2].startswith("b_")
        ]
        return max(matrices or [one.relative for one in self.changes.values()])

    def in_words(self, editor: str) -> str:
        """What `editor` changed, and how long it took."""
        each = [
            f"{name} by a norm of {one.norm:.3g} ({_percent(one.relative)} of its own; "
            f"{one.n_moved:,} of {one.n:,} numbers)"
            for name, one in self.changes.items()
        ]
        return f"{editor} changed {', '.join(each)}, in {self.seconds:.1f} s."

    def to_record(self, verdict: Verdict, ending: str) -> dict[str, Any]:
        """For JSON, with the verdict on the edit, in words too."""
        changed = {
            parameter: {told: getattr(one, name) for name, told in NAMES.items()}
            for parameter, one in self.changes.items()
        }
        both = self.perplexity or (None, None)
        told = {
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
        return to_record(told)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "EditMade":
        """The inverse of `to_record`; the verdict follows from the numbers."""
        changes = {
            parameter: WeightChange(**{name: one[told] for name, told in NAMES.items()})
            for parameter, one in record["changed"].items()
        }
        before, after = (record["perplexity"][when] for when in ("before", "after"))
        # a text that is there and whose perplexity has no number has overflowed
        both = None if not record["held-out text"] else (_number(before), _number(after))
        return cls(
            tuple(record["request"]), record["editor"], record["settings"], record["seconds"],
            changes, record["held-out text"], both,
        )  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.095 else f"{100 * share:.2g} %"
