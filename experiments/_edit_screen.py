"""How an edit of one fact or of many is told: on the screen, and in report.md."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments._printing import console

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from kedit.results.before_after import BeforeAfter
    from kedit.results.many_facts import FactsEdited
    from kedit.tables import Table

STYLES = {"works": "bold", "at a price": "bold yellow", "fails": "bold red"}


def tell_one(found: "BeforeAfter", folder: Any, dtype: str) -> None:
    """Prints what became of one fact, the verdict last; the same as report.md."""
    from kedit.results.before_after import NOTE

    numbers, costs = found.made.in_words(found.editor), found.costs_in_words()
    tables, heading = found.tables(), f"# {found.model}, before and after an edit"
    body = [*(table.to_markdown() for table in tables), NOTE, f"{numbers} {costs}"]
    shown = [*map(_by_exchange, tables), NOTE, numbers, costs]
    _tell(found, folder, heading, body, shown, _usage(found.model, dtype, folder))


def tell_many(found: "FactsEdited", folder: Any, dtype: str) -> None:
    """Prints what became of many facts, the verdict last; the same as report.md."""
    from kedit.tables import escaped

    numbers, table = found.made.in_words(found.editor), found.table()
    heading = f"# {found.model}, before and after an edit of {len(found.facts)} facts"
    skipped = [f"- skipped: {id}: {escaped(why)}" for id, why in found.skipped.items()]
    body = list(filter(None, (table.to_markdown(), numbers, "\n".join(skipped))))
    plain = replace(table, note="").to_rich(console().width)
    shown = [plain, table.note, numbers]
    _tell(found, folder, heading, body, shown, _usage(found.model, dtype, folder))


# six parameters: the result, and each part of what is told of it
def _tell(
    found: "BeforeAfter | FactsEdited",
    folder: Any,
    heading: str,
    body: Sequence[str],
    shown: Sequence[Any],
    code: str,
) -> None:
    from kedit.tables import escaped

    ending, costs = found.in_words(), "\n".join(f"- {price}" for price in found.verdict.prices)
    figure = "![before and after](before-after.png)"
    parts = [heading, escaped(ending), costs, *body, figure, f"```python\n{code}\n```"]
    folder.write("report.md", "\n\n".join(filter(None, parts)) + "\n")
    screen = console()
    for one in shown:
        screen.print(one, highlight=False)
    # not wrapped: both are there to be copied
    for text in (f"\n{code}\n", f"Everything is in {folder.path}\n"):
        screen.print(text, highlight=False, soft_wrap=True)
    for text in filter(None, (ending, costs)):
        screen.print(text, highlight=False, style=STYLES[found.verdict.outcome])


def _usage(model: str, dtype: str, folder: Any) -> str:
    told = "" if dtype == "float32" else f", dtype={dtype!r}"
    return (
        "from kedit.editing.edit import Edit\nfrom kedit.models.load import load\n\n"
        f"with Edit.load('{folder.path}/edit.safetensors').applied(load({model!r}{told})) as model:"
        "\n    ...  # edited in here, and as it was behind"
    )


def _by_exchange(table: "Table") -> "RichTable":
    """Prompts dim, what follows them bright, in one column; before and after under each other."""
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
    for role, when, prompt, goes_on, *cells in table.rows:
        text = Text.assemble((f"{prompt} ", "dim"), goes_on)
        shown.add_row(Text(role), Text(when), text, *map(Text, cells), end_section=role == "")
    return shown
