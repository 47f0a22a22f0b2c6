"""What the edit of one fact did: on the screen, as JSON and Markdown, and as a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._before_after import Row, shown
from experiments._edit_verdict import Done, in_words, prices, report_of, short
from experiments._run import RunFolder, console, write_whole

if TYPE_CHECKING:
    from rich.table import Table
    from transformer_lens import HookedTransformer

    from experiments._edit_many import DoneMany
    from experiments.edit_fact import Config
    from figures.edit import Prompt

FILE, REPORT = "edit.safetensors", "report.json"
HEADS = ("", "", "text", "likeliest next tokens", "new answer", "old answer")
EXPLAINED = (
    "Answers: exp of their tokens' mean log-probability. A neighbour's old answer is what the "
    "model says by itself. ✓: after the edit the text opens with the answer that it should."
)
STYLES = {"works": "bold", "at a price": "bold yellow", "fails": "bold red"}


def finish(
    config: "Config", folder: RunFolder, model: "HookedTransformer", done: Done, held_out: str
) -> None:
    """Saves the edit and all that is known of it; prints it, the verdict last.

    Args:
        held_out: what the text is called that perplexity was measured on.
    """
    from figures.edit import before_after
    from figures.style import Source, save
    from kedit.markdown import escaped

    path, rows = done.edit.save(folder.path / FILE), done.rows
    verdict, ending, costs = done.verdict, in_words(done), prices(done.verdict)
    sizes = sizes_of(model, done)
    spent = _measured(done, held_out)
    told = report_of(done, sizes, held_out, ending)
    folder.write_json(REPORT, {**told, "rows": [record_of(row) for row in rows]})
    numbers = changed(config.editor, sizes, done.seconds)
    titles = _titles(config, rows)
    code = usage(config, str(path))
    parts = [
        f"# {config.model}, before and after an edit",
        escaped(ending),
        *(["\n".join(f"- {cost}" for cost in costs)] if costs else []),
        *(f"## {escaped(title)}\n\n{_markdown(own)}" for title, own in titles.items()),
        EXPLAINED,
        f"{numbers} {spent}",
        "![before and after](before-after.png)",
        f"```python\n{code}\n```",
    ]
    write_whole(folder.path / "report.md", "\n\n".join(parts) + "\n")
    source = Source(config.model, f"{config.editor}; seed {config.seed}")
    (_, before, after), answers = rows[0], (rows[0].question.new, rows[0].question.old)
    likeliest = (before.likeliest, after.likeliest)
    figure = before_after(likeliest, answers, drawn(rows), source, short(verdict))
    save(figure, folder.path, "before-after")
    screen = console()
    for title, own in titles.items():
        screen.print(_table(title, own))
    for text in (EXPLAINED, numbers, spent):
        screen.print(text, markup=False, highlight=False)
    # not wrapped: both are there to be copied
    for text in (f"\n{code}\n", f"Everything is in {folder.path}\n"):
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
    for text in (ending, *(f"- {cost}" for cost in costs)):
        screen.print(text, markup=False, highlight=False, style=STYLES[verdict.outcome])


def exit_code(folder: Path) -> int:
    """1 where the edit of this run fails."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return int(report["outcome"] == "fails")


def sizes_of(
    model: "HookedTransformer", done: "Done | DoneMany"
) -> Mapping[str, Mapping[str, Any]]:
    """How far each parameter was moved."""
    moved, weights = done.edit.n_moved(model), done.edit.weights(model)
    return {
        name: {
            "norm": norm.delta,
            "of its own": norm.relative,
            "numbers moved": moved[name],
            "of": weights[name].numel(),
        }
        for name, norm in done.norms.items()
    }


def _measured(done: Done, held_out: str) -> str:
    """What was looked at for prices, and how, in words."""
    from experiments._before_after import SAID
    from experiments._edit_price import CHUNKS, WINDOW

    worst = done.most_repetitive
    then, now = done.perplexity
    return (
        f"Perplexity of held-out text: {then:.3g} → {now:.3g} ({held_out}; at most {CHUNKS} chunks "
        f"of {WINDOW} tokens). Variety of what the model says falls most after "
        f"{worst.question.prompt!r}: {worst.before.variety:.2f} → {worst.after.variety:.2f} "
        f"(n-gram entropy of the {SAID} tokens above, over the most that it can be: 1 where "
        "nothing is repeated, 0 where one token is all that is said)."
    )


def _titles(config: "Config", rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Those that should change and those that should stay, under a title each."""
    asked = rows[0].question
    change = [row for row in rows if row.question.changes]
    stay = [row for row in rows if not row.question.changes]
    about = config.subject
    if config.perspective == "relation":
        about = f"{config.subject} and {config.target}"
    titled = {f"Should change ({about}: {asked.old} → {asked.new})": change}
    whose = "neighbours" if config.neighbours else "neighbours, drawn from kedit's own facts"
    return titled | ({f"Should stay ({whose})": stay} if stay else {})


def changed(name: str, sizes: Mapping[str, Mapping[str, Any]], seconds: float) -> str:
    each = [
        f"{parameter} by a norm of {own['norm']:.3g} ({_percent(own['of its own'])} of its "
        f"own; {own['numbers moved']:,} of {own['of']:,} numbers)"
        for parameter, own in sizes.items()
    ]
    return f"{name} changed {', '.join(each)}, in {seconds:.1f} s."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.095 else f"{100 * share:.2g} %"


def usage(config: "Config", path: str) -> str:
    dtype = "" if config.dtype == "float32" else f", dtype={config.dtype!r}"
    return (
        "from kedit.editing.edit import Edit\nfrom kedit.models.load import load\n\n"
        f"with Edit.load({path!r}).applied(load({config.model!r}{dtype})) as model:\n"
        "    ...  # edited in here, and as it was behind"
    )


def _lines(row: Row) -> list[tuple[str, str, str, str, str, str, str]]:
    """Before and after: role, when, prompt, how it goes on, likeliest tokens, both answers."""
    asked = row.question
    return [
        (
            role,
            when,
            prompt,
            one_line(reply.said),
            "  ".join(f"{_token(text)} {shown(p)}" for text, p in reply.likeliest),
            f"{asked.new} {shown(reply.new)}",
            f"{asked.old} {shown(reply.old)}",
        )
        for role, when, prompt, reply in (
            (asked.role, "before", one_line(asked.prompt), row.before),
            ("", "after " + ("✓" if row.works else "✗"), "…", row.after),
        )
    ]


def _table(title: str, rows: Sequence[Row]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, style="bold"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    for head, ratio in zip(HEADS, (None, None, 5, 3, None, None), strict=True):
        table.add_column(head, ratio=ratio)
    for row in rows:
        for role, when, prompt, goes_on, *cells in _lines(row):
            text = Text.assemble((f"{prompt} ", "dim"), goes_on)
            table.add_row(Text(role), Text(when), text, *map(Text, cells))
        table.add_section()
    return table


def _markdown(rows: Sequence[Row]) -> str:
    from kedit.markdown import escaped, table

    lines = []
    for row in rows:
        for role, when, *told in _lines(row):
            prompt, goes_on, *cells = map(escaped, told)
            lines.append((role, when, f"{prompt} **{goes_on}**" if goes_on else prompt, *cells))
    return table(HEADS, lines)


def one_line(text: str) -> str:
    return text.replace("\n", "↵")


def _token(text: str) -> str:
    return one_line(text).strip() or "␣"


def record_of(row: Row) -> dict[str, Any]:
    asked = asdict(row.question)
    should = "change" if row.question.changes else "stay"
    replies = {"before": asdict(row.before), "after": asdict(row.after)}
    return {**asked, "should": should, "as wanted": row.works, **replies}


def drawn(rows: Sequence[Row]) -> "list[Prompt]":
    """Rows as figures take them."""
    from figures.edit import Prompt, Shift

    return [
        Prompt(
            text=row.question.prompt,
            changes=row.question.changes,
            new=Shift(row.before.new, row.after.new),
            old=Shift(row.before.old, row.after.old),
            says=(row.before.answer, row.after.answer),
            works=row.works,
        )
        for row in rows
    ]
