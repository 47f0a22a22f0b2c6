"""What the edit of many facts did: a verdict for each fact, and one for the edit as a whole."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kedit.records import to_record
from kedit.results.base import Result
from kedit.results.edit_made import EditMade
from kedit.results.exchanges import (
    Exchange,
    judged_exchanges,
    one_line,
    probability,
    share_kept,
    staying,
    varieties,
)
from kedit.results.verdict import SAID, Verdict, judged
from kedit.tables import Table

LEAST_SAID = 0.5  # of the targets: an edit that brings fewer of them fails
COLUMNS = ("fact", "before", "after", "other wordings", "neighbours", "verdict")
NOTE = (
    "Before and after: what the model says after the edited prompt, and its probability of the "
    "target (exp of its tokens' mean log-probability). Other wordings: how many say the target. "
    "Neighbours: how many keep the answer that the model gave by itself. Verdict: by the fact's "
    "own prompts; what the edit costs as a whole is said below."
)


@dataclass(frozen=True)
class FactEdited:
    """One fact of many.

    Args:
        id: of its record.
        exchanges: the edited prompt first.
    """

    id: str
    exchanges: tuple[Exchange, ...]

    @cached_property
    def verdict(self) -> Verdict:
        """By the fact's own prompts; what the whole edit costs is no price of one fact."""
        return judged_exchanges(self.exchanges)

    def to_record(self) -> dict[str, Any]:
        """For JSON, with the verdict."""
        rows = [one.to_record() for one in self.exchanges]
        return {"id": self.id, **to_record(self.verdict), "rows": rows}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FactEdited":
        """The inverse of `to_record`."""
        return cls(record["id"], tuple(map(Exchange.from_record, record["rows"])))


@dataclass(frozen=True)
class FactsEdited(Result):
    """One edit of many facts, and what a model says before and after it.

    Args:
        editor: as it was told, with changes to its settings.
        made: the edit as a whole.
        skipped: why other records are not in it, by their ids.
        edit: itself; None where the result was loaded (`Edit.load` has it).
    """

    FILE = "report.json"

    model: str
    editor: str
    seed: int
    made: EditMade
    facts: tuple[FactEdited, ...]
    skipped: Mapping[str, str]
    edit: Any = field(default=None, compare=False, repr=False)

    @property
    def exchanges(self) -> list[Exchange]:
        """Of all facts."""
        return [one for fact in self.facts for one in fact.exchanges]

    @property
    def n_said(self) -> int:
        """Facts after whose prompts the edited model says their targets."""
        return sum(fact.exchanges[0].works for fact in self.facts)

    @cached_property
    def verdict(self) -> Verdict:
        """Over all facts together: it works if all targets are said, and at no price."""
        said = self.n_said / len(self.facts)
        return judged(
            said >= LEAST_SAID,
            said=said,
            perplexity=self.made.perplexity,
            variety=varieties(self.exchanges),
            norm=self.made.largest_norm,
            kept=share_kept(self.exchanges),
        )

    def in_words(self) -> str:
        """How many facts came out how, and what became of the others."""
        outcomes = Counter(fact.verdict.outcome for fact in self.facts)
        counted = (
            f"{outcomes['works']} as they should, {outcomes['at a price']} at a price, "
            f"{outcomes['fails']} not at all"
        )
        told = [
            f"{SAID[self.verdict.outcome]}: of {len(self.facts)} facts the model now says the "
            f"targets of {self.n_said} ({counted})."
        ]
        stay = staying(self.exchanges)
        if stay:
            kept = sum(one.works for one in stay)
            told.append(f"{kept} of {len(stay)} neighbours keep their answer.")
        if self.made.perplexity:
            then, now = self.made.perplexity
            told.append(f"Perplexity of held-out text: {then:.3g} → {now:.3g}.")
        if self.skipped:
            told.append(f"{len(self.skipped)} records were skipped (report.json says why).")
        return " ".join(told)

    def table(self) -> Table:
        """A row for each fact."""
        title = f"{self.model}, {self.editor}: {len(self.facts)} facts"
        return Table(title, COLUMNS, tuple(map(_line, self.facts)), NOTE)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"id": fact.id, **row}
            for fact in self.facts
            for one in fact.exchanges
            for row in one.rows()
        ]

    def to_record(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "spec": self.editor,
            "seed": self.seed,
            **self.made.to_record(self.verdict, self.in_words()),
            "facts": [fact.to_record() for fact in self.facts],
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FactsEdited":
        return cls(
            record["model"], record["spec"], record["seed"], EditMade.from_record(record),
            tuple(map(FactEdited.from_record, record["facts"])), record["skipped"],
        )  # fmt: skip


def _line(fact: FactEdited) -> tuple[str, ...]:
    first = fact.exchanges[0]
    asked, before, after = first.question, first.before, first.after
    others = [one for one in fact.exchanges if one.question.role == "paraphrase"]
    stay = staying(fact.exchanges)
    return (
        f"{one_line(asked.prompt)}: {asked.old} → {asked.new}",
        f"{one_line(before.answer)} {probability(before.new)}",
        f"{one_line(after.answer)} {probability(after.new)}",
        f"{sum(one.works for one in others)} of {len(others)}" if others else "-",
        f"{sum(one.works for one in stay)} of {len(stay)}" if stay else "-",
        fact.verdict.outcome,
    )
