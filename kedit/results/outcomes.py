"""What the edit of one case did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.records import from_record
from kedit.results.scores import EditScore


@dataclass(frozen=True)
class Outcome:
    """The edit of one case by one editor, scored and taken back.

    Args:
        trouble: why it must not count as a success (kedit.editing.checks, or the editor gave up);
            "" if nothing is wrong.
        score: of the edited model; None where there was no edit to apply.
        seconds, memory: that making the edit took, and bytes at the peak beyond those before.
        perplexity, kl: of held-out text, after the edit; KL(before ‖ after) a token, in nats. None
            where an edit that wrecks the model leaves no finite number.
        norm: the largest ‖delta‖ / ‖weight‖ of its parameters.
    """

    trouble: str
    score: EditScore | None = None
    seconds: float = 0.0
    memory: int | None = None
    perplexity: float | None = None
    kl: float | None = None
    norm: float | None = None

    def counted(self, before: EditScore) -> EditScore:
        """The score that the edit counts with: in trouble it is taken back, and changes nothing."""
        return before if self.trouble or self.score is None else self.score

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Outcome":
        """What `kedit.records.to_record` made of it; other fields of the record do not matter."""
        return from_record(cls, record)
