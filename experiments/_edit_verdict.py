"""The verdict on an edit: from what was measured, in words, and as JSON has it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiments._before_after import Row, shown

if TYPE_CHECKING:
    from experiments._edit_many import DoneMany
    from kedit.editing.edit import Edit, Norm
    from kedit.scoring.verdict import Verdict

ALSO = {
    "removed": "prompts of the old pair say None",
    "paraphrase": "other wordings say so too",
    "other side": "prompts of the side that was not edited follow",
}


@dataclass(frozen=True)
class Done:
    """An edit that was made, and what was measured of it.

    Args:
        rows: the edited prompt first.
        norms: `Edit.norms` of the unedited model.
        perplexity: of held-out text, before and after the edit.
        seconds: that making the edit took.
    """

    edit: "Edit"
    rows: Sequence[Row]
    norms: "Mapping[str, Norm]"
    perplexity: tuple[float, float]
    seconds: float

    @property
    def stay(self) -> list[Row]:
        """Of the neighbours."""
        return staying(self.rows)

    @property
    def most_repetitive(self) -> Row:
        return most_repetitive(self.rows)

    @cached_property
    def verdict(self) -> "Verdict":
        return judged_rows(self.rows, self.perplexity, largest_norm(self.norms))


def staying(rows: Sequence[Row]) -> list[Row]:
    """Of the neighbours."""
    return [row for row in rows if not row.question.changes]


def most_repetitive(rows: Sequence[Row]) -> Row:
    """The prompt after which the variety of what the model says fell most.

    A mean over prompts would hide text that repeats itself after the edited prompt alone.
    """

    def kept(row: Row) -> float:
        return row.after.variety / row.before.variety if row.before.variety else 1.0

    return min(rows, key=kept)


def largest_norm(norms: "Mapping[str, Norm]") -> float:
    """Of a delta over its weight's; of matrices only, since some biases are next to nothing."""
    matrices = [
        norm.relative
        for name, norm in norms.items()
        if not name.rpartition(".")[2].startswith("b_")
    ]
    return max(matrices or [norm.relative for norm in norms.values()])


def judged_rows(
    rows: Sequence[Row], perplexity: tuple[float, float] | None = None, norm: float | None = None
) -> "Verdict":
    """The verdict on one fact by its prompts, the edited one first.

    Args:
        perplexity, norm: of the whole edit; None where they are no price of this fact.
    """
    from kedit.scoring.verdict import judged

    stay, worst = staying(rows), most_repetitive(rows)
    return judged(
        rows[0].works,
        perplexity=perplexity,
        variety=(worst.before.variety, worst.after.variety),
        norm=norm,
        kept=sum(row.works for row in stay) / len(stay) if stay else None,
    )


def in_words(done: Done) -> str:
    """What happened: the edited prompt, then all others by their roles."""
    from kedit.forward.generation import says

    asked, before, after = done.rows[0]
    rise = f"probability {shown(before.new)} → {shown(after.new)}"
    says_it = f"after its prompt the model now says {asked.new} ({rise})"
    if done.verdict.outcome == "works":
        told = [f"The edit works: {says_it}."]
    elif done.verdict.outcome == "at a price":
        told = [f"Warning: the model says it, but at a price: {says_it}."]
    else:
        now = f"still says {asked.old}"
        if not says(after.said, [asked.old]):
            now = f"says {after.answer or 'nothing'}"
        told = [
            f"The edit fails: after its prompt the model {now}, not {asked.new} ({rise}). "
            "It is saved all the same."
        ]
    for role, also in ALSO.items():
        own = [row for row in done.rows if row.question.role == role]
        if own:
            then = sum(says(row.before.said, [row.question.new]) for row in own)
            now = sum(row.works for row in own)
            told.append(f"{now} of {len(own)} {also}" + (f" ({then} did before)." if then else "."))
    stay = done.stay
    if stay:
        told.append(f"{sum(row.works for row in stay)} of {len(stay)} neighbours keep their answer")
        then, now = (
            sum(one.old for one in ones) / len(stay)
            for ones in ([row.before for row in stay], [row.after for row in stay])
        )
        told[-1] += f" (its mean probability {shown(then)} → {shown(now)})."
    else:
        told.append(
            "No neighbours were asked: --neighbours names none, and kedit has no facts of this "
            "relation that the model answers."
        )
    return " ".join(told)


def prices(verdict: "Verdict") -> list[str]:
    """Each price with its number and its limit, as a sentence."""
    return [SENTENCES[price.name].format(price=price) for price in verdict.prices]


def short(verdict: "Verdict") -> str:
    """For a figure's title."""
    costs = ", ".join(SHORT[price.name].format(price=price) for price in verdict.prices)
    said = SAID[verdict.outcome]
    return f"{said}{f': {costs}' if costs else ''}"


SAID = {
    "works": "The edit works",
    "at a price": "The model says it, but at a price",
    "fails": "The edit fails",
}
SENTENCES = {
    "targets": "The model says {price.value:.0%} of the targets; all of them are wanted.",
    "perplexity": "Perplexity of held-out text is {price.value:.3g} times what it was; at most "
    "{price.limit:g} times is wanted.",
    "repetition": "What the model says repeats itself: it has {price.value:.0%} of the variety "
    "that it had; at least {price.limit:.0%} is wanted.",
    "norm": "The norm of the delta is {price.value:.3g} times that of the weight it is added to; "
    "at most {price.limit:g} times is wanted.",
    "neighbours": "{price.value:.0%} of the neighbours keep their answer; at least "
    "{price.limit:.0%} is wanted.",
}
SHORT = {
    "targets": "{price.value:.0%} of targets said",
    "perplexity": "perplexity of held-out text × {price.value:.3g}",
    "repetition": "text repeats itself (variety × {price.value:.2g})",
    "norm": "norm of delta / weight {price.value:.3g}",
    "neighbours": "{price.value:.0%} of neighbours kept",
}


def report_of(
    done: "Done | DoneMany", sizes: Mapping[str, Mapping[str, Any]], held_out: str, ending: str
) -> dict[str, Any]:
    """What report.json has of every edit, of one fact or of many; not what was asked."""
    made, both = done.edit.made, done.perplexity or (None, None)
    return {
        "request": list(made.requests),
        "editor": made.editor,
        "settings": dict(made.settings),
        "seconds": done.seconds,
        "changed": sizes,
        "held-out text": held_out,
        "perplexity": dict(zip(("before", "after"), both, strict=True)),
        **judged_of(done.verdict),
        "verdict": ending,
    }


def judged_of(verdict: "Verdict") -> dict[str, Any]:
    """A verdict's outcome and prices, as JSON has them."""
    return {
        "outcome": verdict.outcome,
        "prices": [asdict(price) for price in verdict.prices],
    }
