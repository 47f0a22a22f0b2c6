"""What the edit of one fact did: every question with both replies, and the verdict in words."""

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

SAID = 20  # tokens that a model goes on for after a prompt
CHUNKS, WINDOW = 8, 64  # of held-out text, and tokens of each; as studies.held_out reads it
COLUMNS = ("", "", "prompt", "goes on", "likeliest next tokens", "new answer", "old answer")
NOTE = (
    "Answers: exp of their tokens' mean log-probability. A neighbour's old answer is what the "
    "model says by itself. ✓: after the edit the text opens with the answer that it should."
)
ALSO = {
    "removed": "prompts of the old pair say None",
    "paraphrase": "other wordings say so too",
    "other side": "prompts of the side that was not edited follow",
}


@dataclass(frozen=True)
class BeforeAfter(Result):
    """An edit of one fact, and what a model says before and after it.

    Args:
        editor: as it was told, with changes to its settings.
        made: the edit as a whole.
        exchanges: the edited prompt first, neighbours last.
        are_drawn: neighbours were drawn from kedit's own facts.
        edit: itself; None where the result was loaded (`Edit.load` has it).
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
        """Those of the neighbours."""
        return staying(self.exchanges)

    @property
    def about(self) -> str:
        """What the edit is of: the subject, or the pair that is to get the relation."""
        asked = self.made.requests[0]
        return " and ".join(filter(None, (asked["subject"], asked["mentioned"])))

    def in_words(self) -> str:
        """What happened: the edited prompt, then all others by their roles."""
        return " ".join([_edited_in_words(self), *_others_in_words(self.exchanges)])

    def costs_in_words(self) -> str:
        """What was looked at for prices, and how."""
        worst = most_repetitive(self.exchanges)
        told = (
            f"Variety of what the model says falls most after {worst.question.prompt!r}: "
            f"{worst.before.variety:.2f} → {worst.after.variety:.2f} (n-gram entropy of the {SAID} "
            "tokens above, over the most that it can be: 1 where nothing is repeated, 0 where one "
            "token is all that is said)."
        )
        if self.made.perplexity is None:
            return told
        then, now = self.made.perplexity
        return (
            f"Perplexity of held-out text: {then:.3g} → {now:.3g} ({self.made.held_out}; at most "
            f"{CHUNKS} chunks of {WINDOW} tokens). {told}"
        )

    def tables(self) -> list[Table]:
        """What should change and what should stay, under a title each."""
        asked = self.exchanges[0].question
        whose = "neighbours, drawn from kedit's own facts" if self.are_drawn else "neighbours"
        titled = {
            f"Should change ({self.about}: {asked.old} → {asked.new})": [
                one for one in self.exchanges if one.question.changes
            ],
            f"Should stay ({whose})": self.stay,
        }
        return [
            Table(title, COLUMNS, tuple(line for one in own for line in _lines(one)))
            for title, own in titled.items()
            if own
        ]

    def table(self) -> Table:
        """Both tables in one."""
        both = self.tables()
        parts = tuple(one.title for one in both for _ in one.rows)
        rows = tuple(row for one in both for row in one.rows)
        return Table(self.in_words(), COLUMNS, rows, NOTE, parts)

    def rows(self) -> list[dict[str, Any]]:
        return [row for one in self.exchanges for row in one.rows()]

    def to_record(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "spec": self.editor,
            "seed": self.seed,
            **self.made.to_record(self.verdict, self.in_words()),
            "are_drawn": self.are_drawn,
            "rows": [one.to_record() for one in self.exchanges],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "BeforeAfter":
        return cls(
            record["model"], record["spec"], record["seed"], EditMade.from_record(record),
            tuple(map(Exchange.from_record, record["rows"])), record["are_drawn"],
        )  # fmt: skip


def _edited_in_words(found: BeforeAfter) -> str:
    first, outcome = found.exchanges[0], found.verdict.outcome
    asked, after = first.question, first.after
    rise = f"probability {probability(first.before.new)} → {probability(after.new)}"
    if outcome == "fails":
        now = f"still says {asked.old}"
        if not opens_with_answer(after.said, [asked.old]):
            now = f"says {after.answer or 'nothing'}"
        return (
            f"The edit fails: after its prompt the model {now}, not {asked.new} ({rise}). "
            "It is saved all the same."
        )
    told = {
        "works": "The edit works",
        "at a price": "Warning: the model says it, but at a price",
    }
    return f"{told[outcome]}: after its prompt the model now says {asked.new} ({rise})."


def _others_in_words(exchanges: Sequence[Exchange]) -> Iterator[str]:
    for role, also in ALSO.items():
        own = [one for one in exchanges if one.question.role == role]
        if own:
            then = sum(opens_with_answer(one.before.said, [one.question.new]) for one in own)
            now = sum(one.works for one in own)
            yield f"{now} of {len(own)} {also}" + (f" ({then} did before)." if then else ".")
    stay = staying(exchanges)
    if not stay:
        yield (
            "No neighbours were asked: --neighbours names none, and kedit has no facts of this "
            "relation that the model answers."
        )
        return
    then, now = (
        probability(sum(reply.old for reply in replies) / len(stay))
        for replies in ([one.before for one in stay], [one.after for one in stay])
    )
    yield (
        f"{sum(one.works for one in stay)} of {len(stay)} neighbours keep their answer (its mean "
        f"probability {then} → {now})."
    )


def _lines(one: Exchange) -> Iterator[tuple[str, ...]]:
    """Before and after: role, when, prompt, how it goes on, likeliest tokens, both answers."""
    asked = one.question
    for role, when, prompt, reply in (
        (asked.role, "before", one_line(asked.prompt), one.before),
        ("", "after " + ("✓" if one.works else "✗"), "…", one.after),
    ):
        yield (
            role,
            when,
            prompt,
            one_line(reply.said),
            "  ".join(f"{_token(text)} {probability(p)}" for text, p in reply.likeliest),
            f"{asked.new} {probability(reply.new)}",
            f"{asked.old} {probability(reply.old)}",
        )


def _token(text: str) -> str:
    return one_line(text).strip() or "␣"
