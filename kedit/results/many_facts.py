"""The result of one edit of many facts: a verdict for each fact and one for the whole edit."""

from collections import Counter
from collections.abc import Mapping, Sequence
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

LEAST_SAID = 0.5  # share of the targets; an edit after which the model says fewer of them fails
COLUMNS = ("fact", "before", "after", "paraphrases", "neighbours", "verdict")
NOTE = (
    "Before and after: the model's answer to the edited prompt, and the probability of the target "
    "(exp of the mean log-probability of its tokens). Paraphrases: how many are answered with the "
    "target. Neighbours: how many keep the answer of the unedited model. Verdict: on this fact's "
    "prompts only; the costs of the whole edit are given below."
)


@dataclass(frozen=True)
class FactEdited:
    """One fact of an edit of many facts.

    Args:
        id: id of the fact's record.
        exchanges: the fact's prompts with both replies; the edited prompt is first.
    """

    id: str
    exchanges: tuple[Exchange, ...]

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on this fact's prompts; costs of the whole edit are no prices of a fact."""
        return judged_exchanges(self.exchanges)

    def to_record(self) -> dict[str, Any]:
        """The record for JSON, with the verdict."""
        rows = [exchange.to_record() for exchange in self.exchanges]
        return {"id": self.id, **to_record(self.verdict), "rows": rows}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FactEdited":
        """The inverse of `to_record`."""
        return cls(record["id"], tuple(map(Exchange.from_record, record["rows"])))


@dataclass(frozen=True)
class FactsEdited(Result):
    """One edit of many facts, and what a model says before and after it.

    Args:
        model: name of the model.
        editor: spec of the editor: its name and changes to its settings.
        seed: seed of the edit.
        made: how the edit was made: its requests, settings, time, norms and perplexity.
        facts: the facts that were edited.
        skipped: why other records were not edited, by their ids.
        edit: the edit itself; None if the result was loaded (`Edit.load` reads the edit).
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
        """The exchanges of all facts."""
        return [exchange for fact in self.facts for exchange in fact.exchanges]

    @property
    def n_said(self) -> int:
        """The number of facts whose target the edited model says after the edited prompt."""
        return sum(fact.exchanges[0].works for fact in self.facts)

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on the whole edit: it works if all targets are said, without a price."""
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
        """The verdict in sentences, with the number of facts for each outcome."""
        outcomes = Counter(fact.verdict.outcome for fact in self.facts)
        counted = (
            f"{outcomes['works']} facts work, {outcomes['at a price']} work at a price, "
            f"{outcomes['fails']} fail"
        )
        sentences = [
            f"{SAID[self.verdict.outcome]}: the model now says the targets of {self.n_said} of "
            f"{len(self.facts)} facts ({counted})."
        ]
        stay = staying(self.exchanges)
        if stay:
            kept = sum(exchange.works for exchange in stay)
            sentences.append(f"{kept} of {len(stay)} neighbours keep their answer.")
        if self.made.perplexity:
            then, now = self.made.perplexity
            sentences.append(f"Perplexity of held-out text: {then:.3g} → {now:.3g}.")
        if self.skipped:
            sentences.append(f"{len(self.skipped)} records were skipped (report.json says why).")
        return " ".join(sentences)

    def table(self) -> Table:
        """A row for each fact."""
        title = f"{self.model}, {self.editor}: {len(self.facts)} facts"
        return Table(title, COLUMNS, tuple(map(_line, self.facts)), NOTE)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"id": fact.id, **row}
            for fact in self.facts
            for exchange in fact.exchanges
            for row in exchange.rows()
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
    """The row of a fact, by COLUMNS."""
    first = fact.exchanges[0]
    question, before, after = first.question, first.before, first.after
    paraphrases = [
        exchange for exchange in fact.exchanges if exchange.question.role == "paraphrase"
    ]
    return (
        f"{one_line(question.prompt)}: {question.old} → {question.new}",
        f"{one_line(before.answer)} {probability(before.new)}",
        f"{one_line(after.answer)} {probability(after.new)}",
        _counted(paraphrases),
        _counted(staying(fact.exchanges)),
        fact.verdict.outcome,
    )


def _counted(exchanges: Sequence[Exchange]) -> str:
    """How many exchanges work, as in "3 of 4"; "-" if there are none."""
    if not exchanges:
        return "-"
    return f"{sum(exchange.works for exchange in exchanges)} of {len(exchanges)}"
