"""The result of editing one fact: prompts with the replies before and after, and the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kedit.forward.saying import opens_with_answer
from kedit.results.base import Result
from kedit.results.edit_made import EditMade
from kedit.results.exchanges import (
    Exchange,
    judged_exchanges,
    most_repetitive,
    one_line,
    probability,
    staying,
)
from kedit.results.verdict import Verdict
from kedit.tables import Table

SAID = 20  # tokens that are generated after each prompt
CHUNKS, WINDOW = 8, 64  # chunks of held-out text, and tokens per chunk (studies.held_out)
COLUMNS = (
    "role", "edit", "prompt", "continuation", "likeliest next tokens", "new answer", "old answer",
)  # fmt: skip
NOTE = (
    "Answers: exp of the mean log-probability of their tokens. A neighbour's old answer is what "
    "the unedited model says. ✓: after the edit, the continuation starts with the expected answer."
)
ROLE_SENTENCES = {  # by role: "3 of 4 ..."
    "removed": "prompts with the old pair are answered with None",
    "paraphrase": "paraphrases have the new answer",
    "other side": "prompts of the side that was not edited have the new answer",
}


@dataclass(frozen=True)
class BeforeAfter(Result):
    """An edit of one fact, and what a model says before and after it.

    Args:
        model: name of the model.
        editor: spec of the editor: its name and changes to its settings.
        seed: seed of the edit.
        made: how the edit was made: its request, settings, time, norms and perplexity.
        exchanges: every prompt with both replies; the edited prompt is first, neighbours are last.
        are_drawn: whether the neighbours were drawn from kedit's own facts.
        edit: the edit itself; None if the result was loaded (`Edit.load` reads the edit).
    """

    FILE = "report.json"

    model: str
    editor: str
    seed: int
    made: EditMade
    exchanges: tuple[Exchange, ...]
    are_drawn: bool = False
    edit: Any = field(default=None, compare=False, repr=False)

    @cached_property
    def verdict(self) -> Verdict:
        return judged_exchanges(self.exchanges, self.made.perplexity, self.made.largest_norm)

    @property
    def stay(self) -> list[Exchange]:
        """The exchanges of the neighbours."""
        return staying(self.exchanges)

    @property
    def about(self) -> str:
        """What is edited: the subject, or the subject and object that should get the relation."""
        request = self.made.requests[0]
        return " and ".join(filter(None, (request["subject"], request["mentioned"])))

    def in_words(self) -> str:
        """The verdict in sentences: on the edited prompt, then on the other prompts by role."""
        return " ".join([_edited_in_words(self), *_others_in_words(self.exchanges)])

    def costs_in_words(self) -> str:
        """How repetitive the model's text and how high its perplexity became, in sentences."""
        worst = most_repetitive(self.exchanges)
        variety = (
            f"The variety of the generated text falls most after {worst.question.prompt!r}: "
            f"{worst.before.variety:.2f} → {worst.after.variety:.2f} (n-gram entropy of the {SAID} "
            "tokens above, divided by its maximum: 1 if nothing is repeated, 0 if only one token "
            "is repeated)."
        )
        if self.made.perplexity is None:
            return variety
        then, now = self.made.perplexity
        return (
            f"Perplexity of held-out text: {then:.3g} → {now:.3g} ({self.made.held_out}; at most "
            f"{CHUNKS} chunks of {WINDOW} tokens). {variety}"
        )

    def tables(self) -> list[Table]:
        """One table of the prompts that should change, and one of those that should stay."""
        question = self.exchanges[0].question
        neighbours = "neighbours, drawn from kedit's own facts" if self.are_drawn else "neighbours"
        titled = {
            f"Should change ({self.about}: {question.old} → {question.new})": [
                exchange for exchange in self.exchanges if exchange.question.changes
            ],
            f"Should stay ({neighbours})": self.stay,
        }
        return [
            Table(
                title, COLUMNS, tuple(line for exchange in exchanges for line in _lines(exchange))
            )
            for title, exchanges in titled.items()
            if exchanges
        ]

    def table(self) -> Table:
        """Both tables as one, under the verdict in words."""
        tables = self.tables()
        parts = tuple(table.title for table in tables for _ in table.rows)
        rows = tuple(row for table in tables for row in table.rows)
        return Table(self.in_words(), COLUMNS, rows, NOTE, parts)

    def rows(self) -> list[dict[str, Any]]:
        return [row for exchange in self.exchanges for row in exchange.rows()]

    def to_record(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "spec": self.editor,
            "seed": self.seed,
            **self.made.to_record(self.verdict, self.in_words()),
            "are_drawn": self.are_drawn,
            "rows": [exchange.to_record() for exchange in self.exchanges],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "BeforeAfter":
        return cls(
            record["model"], record["spec"], record["seed"], EditMade.from_record(record),
            tuple(map(Exchange.from_record, record["rows"])), record["are_drawn"],
        )  # fmt: skip


def _edited_in_words(found: BeforeAfter) -> str:
    """What the model says after the edited prompt, in sentences."""
    first, outcome = found.exchanges[0], found.verdict.outcome
    question, after = first.question, first.after
    rise = f"probability {probability(first.before.new)} → {probability(after.new)}"
    if outcome == "fails":
        now = f"still says {question.old}"
        if not opens_with_answer(after.said, [question.old]):
            now = f"says {after.answer or 'nothing'}"
        return (
            f"The edit fails: after the edited prompt the model {now}, not {question.new} "
            f"({rise}). The edit is saved nevertheless."
        )
    beginnings = {
        "works": "The edit works",
        "at a price": "Warning: the model says the target, but at a price",
    }
    start = beginnings[outcome]
    return f"{start}: after the edited prompt the model now says {question.new} ({rise})."


def _others_in_words(exchanges: Sequence[Exchange]) -> Iterator[str]:
    """How many prompts of each role have the expected answer, one sentence for each role."""
    for role, description in ROLE_SENTENCES.items():
        same_role = [exchange for exchange in exchanges if exchange.question.role == role]
        if same_role:
            then = sum(
                opens_with_answer(exchange.before.said, [exchange.question.new])
                for exchange in same_role
            )
            now = sum(exchange.works for exchange in same_role)
            before = f" ({then} before the edit)." if then else "."
            yield f"{now} of {len(same_role)} {description}{before}"
    stay = staying(exchanges)
    if not stay:
        yield (
            "No neighbours were tested: --neighbours gives none, and kedit has no facts of this "
            "relation that the model knows."
        )
        return
    then, now = (
        probability(sum(reply.old for reply in replies) / len(stay))
        for replies in (
            [exchange.before for exchange in stay],
            [exchange.after for exchange in stay],
        )
    )
    yield (
        f"{sum(kept.works for kept in stay)} of {len(stay)} neighbours keep their answer (its mean "
        f"probability {then} → {now})."
    )


def _lines(exchange: Exchange) -> Iterator[tuple[str, ...]]:
    """The rows of COLUMNS before and after the edit."""
    question = exchange.question
    for role, when, prompt, reply in (
        (question.role, "before", one_line(question.prompt), exchange.before),
        ("", "after " + ("✓" if exchange.works else "✗"), "…", exchange.after),
    ):
        yield (
            role,
            when,
            prompt,
            one_line(reply.said),
            "  ".join(f"{_token(text)} {probability(p)}" for text, p in reply.likeliest),
            f"{question.new} {probability(reply.new)}",
            f"{question.old} {probability(reply.old)}",
        )


def _token(text: str) -> str:
    return one_line(text).strip() or "␣"
