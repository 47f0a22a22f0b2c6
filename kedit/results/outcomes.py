"""The outcome of editing one benchmark case: its score, its costs, and why it failed if it did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.records import from_record
from kedit.results.scores import EditScore


@dataclass(frozen=True)
class Outcome:
    """What the edit of one case by one editor did.

    Args:
        trouble: why the edit counts as failed: a reason from `kedit.editing.checks`, or the editor
            gave up; "" if nothing is wrong.
        score: scores of the edited model; None if there was no edit to apply.
        seconds: time to make the edit, in seconds.
        memory: peak memory beyond what was in use before, in bytes.
        perplexity: perplexity of held-out text after the edit.
        kl: KL(before ‖ after) of the next token on held-out text, in nats per token. This and the
            perplexity are None if the edit damaged the model so much that they are not finite.
        norm: the largest ‖delta‖ / ‖weight‖ of the edited parameters.
    """

    trouble: str
    score: EditScore | None = None
    seconds: float = 0.0
    memory: int | None = None
    perplexity: float | None = None
    kl: float | None = None
    norm: float | None = None

    def counted(self, before: EditScore) -> EditScore:
        """The score with which the edit enters averages: an edit in trouble counts as no edit."""
        return before if self.trouble or self.score is None else self.score

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Outcome":
        """The inverse of `kedit.records.to_record`; other fields of the record are ignored."""
        return from_record(cls, record)
