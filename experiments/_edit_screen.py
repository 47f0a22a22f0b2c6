"""Reports the edit of one fact or of many facts: prints it, and writes report.md."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments._printing import console, say
from experiments._verbosity import is_quiet

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from kedit.results.before_after import BeforeAfter
    from kedit.results.many_facts import FactsEdited
    from kedit.tables import Table

STYLES = {"works": "bold", "at a price": "bold yellow", "fails": "bold red"}


def report_one(found: "BeforeAfter", folder: Any, dtype: str) -> None:
    """Prints what the edit of one fact did, the verdict last, and writes the same to report.md."""
    from kedit.results.before_after import NOTE

    numbers, costs = found.made.in_words(found.editor), found.costs_in_words()
    tables, heading = found.tables(), f"# {found.model}, before and after an edit"
    body = [*(table.to_markdown() for table in tables), NOTE, f"{numbers} {costs}"]
    results = [*map(_before_above_after, tables), NOTE]
    code = _usage(found.model, dtype, folder)
    _report(found, folder, heading, body, results, [numbers, costs], code)


def report_many(found: "FactsEdited", folder: Any, dtype: str) -> None:
    """Prints what the edit of many facts did, the verdict last, and writes it to report.md."""
    from kedit.tables import escaped

    numbers, table = found.made.in_words(found.editor), found.table()
    heading = f"# {found.model}, before and after an edit of {len(found.facts)} facts"
    skipped = [f"- skipped: {id}: {escaped(why)}" for id, why in found.skipped.items()]
    body = list(filter(None, (table.to_markdown(), numbers, "\n".join(skipped))))
    without_note = replace(table, note="").to_rich(console().width)
    code = _usage(found.model, dtype, folder)
    _report(found, folder, heading, body, [without_note, table.note], [numbers], code)


# seven parameters: the result, and each part of its report
def _report(
    found: "BeforeAfter | FactsEdited",
    folder: Any,
    heading: str,
    body: Sequence[str],
    results: Sequence[Any],
    notices: Sequence[str],
    code: str,
) -> None:
    """Writes report.md and prints the report.

    Args:
        heading: the first line of report.md.
        body: the paragraphs and tables of report.md.
        results, notices: the same for the screen; --quiet leaves out the notices and the code.
        code: applies the saved edit.
    """
    from kedit.tables import escaped

    ending, costs = found.in_words(), "\n".join(f"- {price}" for price in found.verdict.prices)
    figure = "![before and after](before-after.png)"
    parts = [heading, escaped(ending), costs, *body, figure, f"```python\n{code}\n```"]
    folder.write("report.md", "\n\n".join(filter(None, parts)) + "\n")
    screen = console()
    for part in (*results, *(() if is_quiet() else notices)):
        screen.print(part, highlight=False)
    # `say` does not wrap lines, so that the code and the path can be copied
    say(f"\n{code}\n")
    say(f"Everything is in {folder.path}\n")
    for text in filter(None, (ending, costs)):
        screen.print(text, highlight=False, style=STYLES[found.verdict.outcome])


def _usage(model: str, dtype: str, folder: Any) -> str:
    """Python code that loads the model and applies the saved edit."""
    more = "" if dtype == "float32" else f", dtype={dtype!r}"
    return (
        "from kedit.editing.edit import Edit\nfrom kedit.models.load import load\n\n"
        f"with Edit.load('{folder.path}/edit.safetensors').applied(load({model!r}{more})) as model:"
        "\n    ...  # inside this block the model is edited; after it, it is unedited again"
    )


def _before_above_after(table: "Table") -> "RichTable":
    """The table for a terminal: each prompt (dim) and its continuation (bright) in one column."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.title, style="bold"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    heads = ("", "", "text", *table.columns[4:])
    for head, ratio in zip(heads, (None, None, 5, 3, None, None), strict=True):
        shown.add_column(head, ratio=ratio)
    for role, when, prompt, continuation, *cells in table.rows:
        text = Text.assemble((f"{prompt} ", "dim"), continuation)
        shown.add_row(Text(role), Text(when), text, *map(Text, cells), end_section=role == "")
    return shown
