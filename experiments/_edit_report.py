"""What the edit of one fact did: on the screen, as JSON and Markdown, and as a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from experiments._before_after import Row, shown
from experiments._run import RunFolder, console, write_whole

if TYPE_CHECKING:
    from rich.table import Table
    from transformer_lens import HookedTransformer

    from experiments.edit_fact import Config
    from figures.edit import Likeliest, Prompt
    from kedit.edit import Edit

FILE = "edit.safetensors"
HEADS = ("", "", "text", "likeliest next tokens", "new answer", "old answer")
EXPLAINED = (
    "Answers: exp of their tokens' mean log-probability. A neighbour's old answer is what the "
    "model says by itself. ✓: after the edit the text opens with the answer that it should."
)
ALSO = {
    "removed": "prompts of the old pair say None",
    "paraphrase": "other wordings say so too",
    "other side": "prompts of the side that was not edited follow",
}


def finish(
    config: "Config",
    folder: RunFolder,
    model: "HookedTransformer",
    edit: "Edit",
    rows: Sequence[Row],
    seconds: float,
) -> None:
    """Saves the edit and all that is known of it; prints it, the verdict last."""
    from figures.edit import before_after
    from figures.style import save

    path = edit.save(folder.path / FILE)
    norms, moved = edit.norms(model), edit.n_moved(model)
    sizes = {
        name: {
            "norm": norm.delta,
            "of its own": norm.relative,
            "numbers moved": moved[name],
            "of": edit.weights(model)[name].numel(),
        }
        for name, norm in norms.items()
    }
    ending, changed = verdict(rows), _changed(config.editor, sizes, seconds)
    record = {
        "request": list(edit.made.requests),
        "editor": edit.made.editor,
        "settings": dict(edit.made.settings),
        "seconds": seconds,
        "changed": sizes,
        "rows": [_record(row) for row in rows],
        "verdict": ending,
    }
    folder.write_json("report.json", record)
    titles = _titles(config, rows)
    usage = _usage(config, str(path))
    parts = [
        f"# {config.model}, before and after an edit",
        ending,
        *(f"## {title}\n\n{_markdown(own)}" for title, own in titles.items()),
        EXPLAINED,
        changed,
        "![before and after](before-after.png)",
        f"```python\n{usage}\n```",
    ]
    write_whole(folder.path / "report.md", "\n\n".join(parts) + "\n")
    study = f"{config.model}, {config.editor}; seed {config.seed}"
    save(before_after(*_drawn(rows), study), folder.path, "before-after")
    screen = console()
    for title, own in titles.items():
        screen.print(_table(title, own))
    for text in (EXPLAINED, changed, f"\n{usage}\n", f"Everything is in {folder.path}\n"):
        screen.print(text, markup=False, highlight=False)
    screen.print(ending, markup=False, highlight=False, style="bold")


def verdict(rows: Sequence[Row]) -> str:
    """What happened, in words: the edited prompt, then all others by their roles."""
    from kedit.generation import says

    asked, before, after = rows[0]
    rise = f"probability {shown(before.new)} → {shown(after.new)}"
    if rows[0].works:
        told = [f"The edit works: after its prompt the model now says {asked.new} ({rise})."]
    else:
        now = f"still says {asked.old}"
        if not says(after.said, [asked.old]):
            now = f"says {after.answer or 'nothing'}"
        told = [f"The edit fails: after its prompt the model {now}, not {asked.new} ({rise})."]
    for role, also in ALSO.items():
        own = [row for row in rows if row.question.role == role]
        if own:
            then = sum(says(row.before.said, [row.question.new]) for row in own)
            now = sum(row.works for row in own)
            told.append(f"{now} of {len(own)} {also}" + (f" ({then} did before)." if then else "."))
    stay = [row for row in rows if not row.question.changes]
    if stay:
        told.append(f"{sum(row.works for row in stay)} of {len(stay)} neighbours keep their answer")
        then, now = (
            sum(one.old for one in ones) / len(stay)
            for ones in ([row.before for row in stay], [row.after for row in stay])
        )
        told[-1] += f" (its mean probability {shown(then)} → {shown(now)})."
    else:
        told.append("No neighbours were asked: --neighbours would show what else it changes.")
    return " ".join(told)


def _titles(config: "Config", rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Those that should change and those that should stay, under a title each."""
    asked = rows[0].question
    change = [row for row in rows if row.question.changes]
    stay = [row for row in rows if not row.question.changes]
    about = config.subject
    if config.perspective == "relation":
        about = f"{config.subject} and {config.target}"
    titled = {f"Should change ({about}: {asked.old} → {asked.new})": change}
    return titled | ({"Should stay (neighbours)": stay} if stay else {})


def _changed(name: str, sizes: Mapping[str, Mapping[str, Any]], seconds: float) -> str:
    each = [
        f"{parameter} by a norm of {own['norm']:.3g} ({_percent(own['of its own'])} of its "
        f"own; {own['numbers moved']:,} of {own['of']:,} numbers)"
        for parameter, own in sizes.items()
    ]
    return f"{name} changed {', '.join(each)}, in {seconds:.1f} s."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.095 else f"{100 * share:.2g} %"


def _usage(config: "Config", path: str) -> str:
    dtype = "" if config.dtype == "float32" else f", dtype={config.dtype!r}"
    return (
        "from kedit.edit import Edit\nfrom kedit.model import load\n\n"
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
            _one_line(reply.said),
            "  ".join(f"{_token(text)} {shown(p)}" for text, p in reply.likeliest),
            f"{asked.new} {shown(reply.new)}",
            f"{asked.old} {shown(reply.old)}",
        )
        for role, when, prompt, reply in (
            (asked.role, "before", _one_line(asked.prompt), row.before),
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
    lines = [HEADS, ("---",) * len(HEADS)]
    for row in rows:
        for role, when, prompt, goes_on, *cells in _lines(row):
            lines.append((role, when, f"{prompt} **{goes_on}**" if goes_on else prompt, *cells))
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _one_line(text: str) -> str:
    return text.replace("\n", "↵")


def _token(text: str) -> str:
    return _one_line(text).strip() or "␣"


def _record(row: Row) -> dict[str, Any]:
    asked = asdict(row.question)
    should = "change" if row.question.changes else "stay"
    replies = {"before": asdict(row.before), "after": asdict(row.after)}
    return {**asked, "should": should, "as wanted": row.works, **replies}


def _drawn(
    rows: Sequence[Row],
) -> "tuple[tuple[Likeliest, Likeliest], tuple[str, str], list[Prompt]]":
    """What figures.edit.before_after takes."""
    from figures.edit import Prompt, Shift

    asked, before, after = rows[0]
    return (
        (before.likeliest, after.likeliest),
        (asked.new, asked.old),
        [
            Prompt(
                text=row.question.prompt,
                changes=row.question.changes,
                new=Shift(row.before.new, row.after.new),
                old=Shift(row.before.old, row.after.old),
                says=(row.before.answer, row.after.answer),
                works=row.works,
            )
            for row in rows
        ],
    )
