"""What the edit of many facts did: on the screen, as JSON and Markdown, and as a figure."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments._before_after import shown
from experiments._edit_report import (
    FILE,
    REPORT,
    STYLES,
    changed,
    drawn,
    one_line,
    record_of,
    sizes_of,
    usage,
)
from experiments._edit_verdict import SAID, judged_of, prices, report_of, short, staying
from experiments._run import RunFolder, console, write_whole
from experiments._tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table
    from transformer_lens import HookedTransformer

    from experiments._edit_many import DoneMany, Edited
    from experiments.edit_fact import Config

HEADS = ("fact", "before", "after", "other wordings", "neighbours", "verdict")
NOTE = (
    "Before and after: what the model says after the edited prompt, and its probability of the "
    "target (exp of its tokens' mean log-probability). Other wordings: how many say the target. "
    "Neighbours: how many keep the answer that the model gave by itself. Verdict: by the fact's "
    "own prompts; what the edit costs as a whole is said below."
)
DRAWN = 40  # facts in the figure


def finish(
    config: "Config", folder: RunFolder, model: "HookedTransformer", done: "DoneMany", held_out: str
) -> None:
    """Saves the edit and all that is known of it; prints it, the verdict last.

    Args:
        held_out: what the text is called that perplexity was measured on.
    """
    from figures.edit import many_facts
    from figures.style import Source, save
    from kedit.markdown import escaped, table

    path = done.edit.save(folder.path / FILE)
    sizes, ending = sizes_of(model, done), in_words(done)
    costs = prices(done.verdict)
    told = report_of(done, sizes, held_out, ending)
    facts = list(map(_record, done.facts))
    folder.write_json(REPORT, {**told, "facts": facts, "skipped": done.skipped})
    lines = [_line(fact) for fact in done.facts]
    numbers, code = changed(config.editor, sizes, done.seconds), usage(config, str(path))
    parts = [
        f"# {config.model}, before and after an edit of {len(done.facts)} facts",
        escaped(ending),
        *(["\n".join(f"- {cost}" for cost in costs)] if costs else []),
        table(HEADS, [tuple(map(escaped, line)) for line in lines]),
        NOTE,
        numbers,
        *(["\n".join(f"- skipped: {id}: {escaped(why)}" for id, why in done.skipped.items())]
          if done.skipped else []),
        "![before and after](before-after.png)",
        f"```python\n{code}\n```",
    ]  # fmt: skip
    write_whole(folder.path / "report.md", "\n\n".join(parts) + "\n")
    source = Source(config.model, f"{config.editor}; seed {config.seed}")
    shown_facts = drawn([fact.rows[0] for fact in done.facts[:DRAWN]])
    figure = many_facts(shown_facts, len(done.facts), source, short(done.verdict))
    save(figure, folder.path, "before-after")
    screen = console()
    screen.print(_table(config, lines))
    for text in (NOTE, numbers):
        screen.print(text, highlight=False)
    # not wrapped: both are there to be copied
    for text in (f"\n{code}\n", f"Everything is in {folder.path}\n"):
        screen.print(text, highlight=False, soft_wrap=True)
    for text in (ending, *(f"- {cost}" for cost in costs)):
        screen.print(text, highlight=False, style=STYLES[done.verdict.outcome])


def in_words(done: "DoneMany") -> str:
    """How many facts came out how, and what became of the others."""
    outcomes = Counter(fact.verdict.outcome for fact in done.facts)
    counted = ", ".join(
        f"{outcomes[outcome]} {words}"
        for outcome, words in (
            ("works", "as they should"), ("at a price", "at a price"), ("fails", "not at all"),
        )
    )  # fmt: skip
    told = [
        f"{SAID[done.verdict.outcome]}: of {len(done.facts)} facts the model now says the targets "
        f"of {done.n_said} ({counted})."
    ]
    stay = staying(done.rows)
    if stay:
        kept = sum(row.works for row in stay)
        told.append(f"{kept} of {len(stay)} neighbours keep their answer.")
    if done.perplexity:
        then, now = done.perplexity
        told.append(f"Perplexity of held-out text: {then:.3g} → {now:.3g}.")
    if done.skipped:
        told.append(f"{len(done.skipped)} records were skipped (report.json says why).")
    return " ".join(told)


def _line(fact: "Edited") -> tuple[str, ...]:
    asked, before, after = fact.rows[0]
    others = [row for row in fact.rows if row.question.role == "paraphrase"]
    stay = staying(fact.rows)
    return (
        f"{one_line(asked.prompt)}: {asked.old} → {asked.new}",
        f"{one_line(before.answer)} {shown(before.new)}",
        f"{one_line(after.answer)} {shown(after.new)}",
        f"{sum(row.works for row in others)} of {len(others)}" if others else "-",
        f"{sum(row.works for row in stay)} of {len(stay)}" if stay else "-",
        fact.verdict.outcome,
    )


def _table(config: "Config", lines: Sequence[tuple[str, ...]]) -> "Table":
    table = plain_table(f"{config.model}, {config.editor}: {len(lines)} facts", "", HEADS)
    for line in lines:
        table.add_row(*line)
    return table


def _record(fact: "Edited") -> dict[str, Any]:
    rows = [record_of(row) for row in fact.rows]
    return {"id": fact.id, **judged_of(fact.verdict), "rows": rows}
