"""Prompts that test an edit, the model's replies before and after it, and the verdict on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kedit.forward.saying import opens_with_answer
from kedit.records import from_record, to_record
from kedit.results.verdict import Verdict, judged

Role = Literal["edited", "removed", "paraphrase", "other side", "neighbour"]


@dataclass(frozen=True)
class Question:
    """A prompt that tests an edit, with the new and the old answer.

    Args:
        role: what the prompt tests.
        prompt: text of the prompt.
        new: the answer that a working edit makes the model give; for a neighbour, the answer that
            the edit must not bring about.
        old: the fact's answer before the edit; for a neighbour, what the unedited model says.
    """

    role: Role
    prompt: str
    new: str
    old: str

    @property
    def changes(self) -> bool:
        """Whether the edit should change the reply."""
        return self.role != "neighbour"


@dataclass(frozen=True)
class Reply:
    """A model's reply to a question.

    Args:
        likeliest: the likeliest next tokens with their probabilities, the likeliest first.
        new, old: exp of the mean log-probability of the tokens of the new and of the old answer.
        said: the greedy continuation of the prompt, up to the end of the line.
        answer: the answer with which the continuation starts.
        variety: `kedit.forward.generation.variety` of the continuation without markup.
    """

    likeliest: tuple[tuple[str, float], ...]
    new: float
    old: float
    said: str
    answer: str
    variety: float


@dataclass(frozen=True)
class Exchange:
    """A question with the replies of the unedited and of the edited model."""

    question: Question
    before: Reply
    after: Reply

    @property
    def works(self) -> bool:
        """Whether the edited model's continuation starts with the expected answer."""
        question = self.question
        return opens_with_answer(
            self.after.said, [question.new if question.changes else question.old]
        )

    def to_record(self) -> dict[str, Any]:
        """The record for JSON, with what should happen to the reply and whether it did."""
        should = "change" if self.question.changes else "stay"
        both = {"before": to_record(self.before), "after": to_record(self.after)}
        return {**to_record(self.question), "should": should, "as wanted": self.works, **both}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Exchange":
        """The inverse of `to_record`."""
        before, after = (from_record(Reply, record[when]) for when in ("before", "after"))
        return cls(from_record(Question, record), before, after)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Two rows for a data frame: the reply before the edit and the reply after it."""
        question = self.question
        for when, reply in (("before", self.before), ("after", self.after)):
            yield {
                "role": question.role, "prompt": question.prompt, "when": when, "said": reply.said,
                "new answer": question.new, "p of new": reply.new, "old answer": question.old,
                "p of old": reply.old, "variety": reply.variety,
            }  # fmt: skip


def staying(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The exchanges of the neighbours, whose answers should stay."""
    return [exchange for exchange in exchanges if not exchange.question.changes]


def share_kept(exchanges: Sequence[Exchange]) -> float | None:
    """The share of neighbours that keep their answer, from 0 to 1; None without neighbours."""
    stay = staying(exchanges)
    return sum(exchange.works for exchange in stay) / len(stay) if stay else None


def most_repetitive(exchanges: Sequence[Exchange]) -> Exchange:
    """The exchange in which the variety of the model's text falls most.

    A mean over prompts would hide text that repeats itself after the edited prompt only.
    """

    def ratio(exchange: Exchange) -> float:
        before, after = exchange.before.variety, exchange.after.variety
        return after / before if before else 1.0

    return min(exchanges, key=ratio)


def varieties(exchanges: Sequence[Exchange]) -> tuple[float, float]:
    """Variety before and after the edit in the most repetitive exchange."""
    worst = most_repetitive(exchanges)
    return worst.before.variety, worst.after.variety


def judged_exchanges(
    exchanges: Sequence[Exchange],
    perplexity: tuple[float, float] | None = None,
    norm: float | None = None,
) -> Verdict:
    """The verdict on the edit of one fact.

    Args:
        exchanges: the fact's prompts with the replies; the edited prompt must be first.
        perplexity: perplexity of held-out text before and after the whole edit; None if it should
            not count as a price of this fact.
        norm: largest ratio of a delta's norm to its weight's norm; None if it should not count.
    """
    return judged(
        exchanges[0].works,
        perplexity=perplexity,
        variety=varieties(exchanges),
        norm=norm,
        kept=share_kept(exchanges),
    )


def probability(value: float) -> str:
    """A probability with two significant digits."""
    return f"{value:.2g}".replace("e-0", "e-")


def one_line(text: str) -> str:
    """The text with line ends written as ↵."""
    return text.replace("\n", "↵")
