"""Questions that show what an edit does, a model's replies before and after it, and the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kedit.forward.saying import opens_with_answer
from kedit.records import from_record, to_record
from kedit.results.verdict import Verdict, judged

Role = Literal["edited", "removed", "paraphrase", "other side", "neighbour"]


@dataclass(frozen=True)
class Question:
    """A prompt, and two answers to it.

    Args:
        new: what an edit that works makes the model say; after a neighbour's prompt, what it must
            not come to say.
        old: the fact's answer before the edit; a neighbour's is what the model says by itself.
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
    """What a model makes of a question.

    Args:
        likeliest: next tokens with their probabilities, the likeliest first.
        new, old: of the two answers, exp of the mean log-probability of their tokens.
        said: greedily, to the end of the line at most.
        answer: what that opens with.
        variety: `kedit.forward.generation.variety` of what is said, markup aside.
    """

    likeliest: tuple[tuple[str, float], ...]
    new: float
    old: float
    said: str
    answer: str
    variety: float


@dataclass(frozen=True)
class Exchange:
    """A question, with the replies of the unedited and of the edited model."""

    question: Question
    before: Reply
    after: Reply

    @property
    def works(self) -> bool:
        """Whether the edited model's text opens with what is wanted."""
        asked = self.question
        return opens_with_answer(self.after.said, [asked.new if asked.changes else asked.old])

    def to_record(self) -> dict[str, Any]:
        """For JSON, with what should have happened and whether it has."""
        should = "change" if self.question.changes else "stay"
        both = {"before": to_record(self.before), "after": to_record(self.after)}
        return {**to_record(self.question), "should": should, "as wanted": self.works, **both}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Exchange":
        """The inverse of `to_record`."""
        before, after = (from_record(Reply, record[when]) for when in ("before", "after"))
        return cls(from_record(Question, record), before, after)

    def rows(self) -> Iterator[dict[str, Any]]:
        """For data frames: a row before the edit and one after it."""
        asked = self.question
        for when, reply in (("before", self.before), ("after", self.after)):
            yield {
                "role": asked.role, "prompt": asked.prompt, "when": when, "said": reply.said,
                "new answer": asked.new, "p of new": reply.new, "old answer": asked.old,
                "p of old": reply.old, "variety": reply.variety,
            }  # fmt: skip


def staying(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those of the neighbours."""
    return [one for one in exchanges if not one.question.changes]


def share_kept(exchanges: Sequence[Exchange]) -> float | None:
    """Of the neighbours, the share that keeps its answer; None where none was asked."""
    stay = staying(exchanges)
    return sum(one.works for one in stay) / len(stay) if stay else None


def most_repetitive(exchanges: Sequence[Exchange]) -> Exchange:
    """The one after whose prompt the variety of what the model says fell most.

    A mean over prompts would hide text that repeats itself after the edited prompt alone.
    """

    def kept(one: Exchange) -> float:
        return one.after.variety / one.before.variety if one.before.variety else 1.0

    return min(exchanges, key=kept)


def varieties(exchanges: Sequence[Exchange]) -> tuple[float, float]:
    """Of the most repetitive exchange, before and after."""
    worst = most_repetitive(exchanges)
    return worst.before.variety, worst.after.variety


def judged_exchanges(
    exchanges: Sequence[Exchange],
    perplexity: tuple[float, float] | None = None,
    norm: float | None = None,
) -> Verdict:
    """The verdict on one fact by its prompts, the edited one first.

    Args:
        perplexity, norm: of the whole edit; None where they are no price of this fact.
    """
    return judged(
        exchanges[0].works,
        perplexity=perplexity,
        variety=varieties(exchanges),
        norm=norm,
        kept=share_kept(exchanges),
    )


def probability(value: float) -> str:
    """Two significant digits, as the figure has them."""
    return f"{value:.2g}".replace("e-0", "e-")


def one_line(text: str) -> str:
    return text.replace("\n", "↵")
