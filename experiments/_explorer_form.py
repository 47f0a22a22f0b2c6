"""The widgets of `explore`, and where they stand on the page."""

import html
from typing import TYPE_CHECKING, Literal

import panel as pn

from experiments._edit_example import Example, template_of
from kedit.editors.specs import names
from kedit.errors import InputError
from kedit.facts import Fact, Relation
from kedit.forward.metrics import METRICS
from kedit.results.before_after import BeforeAfter
from kedit.studies.replies import answer_of

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

SITES = ("resid_post", "mlp_out", "attn_out")
EXPLAINED = """\
The prompt ends where the answer begins, and has {} or the subject in it.

**Trace** replaces the words of the relation or of the subject by others (or adds noise to them),
and puts back activations of the original run, one cell at a time. A red cell brings the answer
back. Point at a cell or a head to see its effect, and click a head to see its attention.

**Edit** makes the model give the new answer, and asks it about both sides of the fact and about
neighbours, before and after. Trace then shows the edited model, until Undo.
"""


class Form:
    """The widgets. Their values are what the user chose, and `Explorer` fills the panes.

    Args:
        example: the values at first.
    """

    def __init__(self, example: Example) -> None:
        text, choice = pn.widgets.TextInput, pn.widgets.Select
        self.prompt = text(
            label="Prompt", value=example.prompt, css_classes=["prompt"],
        )  # fmt: skip
        self.subject = text(label="Subject", value=example.subject)
        self.answer = text(label="Answer (empty: what the model says)")
        self.relation = text(label="Name of the relation", value=example.relation)
        self.corrupt = choice(label="Corrupt", options=["relation", "subject"])
        self.trace = pn.widgets.Button(label="Trace", color="primary", css_classes=["trace"])
        self.target = text(label="New answer", value=example.target, css_classes=["target"])
        self.editor = pn.widgets.AutocompleteInput(
            label="Editor, with changes to its settings if you like", options=list(names()),
            value="rome", restrict=False, min_characters=1, case_sensitive=False,
        )  # fmt: skip
        self.side = choice(label="Edit from the side of the", options=["entity", "relation"])
        self.edit = pn.widgets.Button(label="Edit", color="primary", css_classes=["edit"])
        self.undo = pn.widgets.Button(label="Undo", disabled=True, css_classes=["undo"])
        self.save = pn.widgets.FileDownload(
            filename="edit.safetensors", label="Save the edit", disabled=True, embed=False
        )
        self.site = pn.widgets.RadioButtonGroup(options=list(SITES), value=SITES[0])
        self.metric = pn.widgets.RadioButtonGroup(options=list(METRICS), value=METRICS[0])
        self.message = pn.pane.Alert("", visible=False, css_classes=["message"])
        self.effects, self.heads, self.attention = (
            pn.pane.Bokeh(None, sizing_mode="stretch_width", css_classes=[name])
            for name in ("effects", "heads", "attention")
        )
        self.result = pn.pane.HTML("", css_classes=["result"], sizing_mode="stretch_width")

    def fact(self, model: "HookedTransformer") -> Fact:
        """Returns the fact; if no answer is given, it is what the model says.

        Raises:
            InputError: a text is missing, or the model gives no answer.
        """
        subject, relation, answer = (
            text.value.strip() for text in (self.subject, self.relation, self.answer)
        )
        template = template_of(self.prompt.value, subject, "Prompt")
        answer = answer or answer_of(model, template.replace("{}", subject))
        if not answer:
            raise InputError("Answer: the model gives no answer to this prompt: name one")
        return Fact(subject, Relation(relation, relation), answer, template)

    def say(self, text: str, kind: Literal["success", "danger"] = "success") -> None:
        """Shows a message; it can have words of the user or the model, so it is escaped."""
        self.message.param.update(object=html.escape(text), alert_type=kind, visible=True)

    def busy(self, is_busy: bool) -> None:
        """Shows that the model is at work; the buttons are disabled meanwhile."""
        for button in (self.trace, self.edit):
            button.param.update(disabled=is_busy, loading=is_busy)

    def show_edit(self, found: BeforeAfter | None) -> None:
        """Shows an edit's prompts before and after; None: there is no edit."""
        tables = [] if found is None else found.tables()
        self.result.object = "<br>".join(table._repr_html_() for table in tables)
        self.undo.disabled = self.save.disabled = found is None

    def page(self) -> pn.viewable.Viewable:
        """Returns the form at the left, and what was found at the right."""
        form = pn.Column(
            self.prompt, self.subject, self.answer, self.relation, self.corrupt, self.trace,
            pn.layout.Divider(), self.target, self.editor, self.side,
            pn.Row(self.edit, self.undo), self.save, pn.pane.Markdown(EXPLAINED), width=330,
        )  # fmt: skip
        maps = pn.Row(
            pn.Column(self.effects, sizing_mode="stretch_width"),
            pn.Column(self.heads, self.attention, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )
        found = pn.Column(
            self.message, pn.Row(self.site, self.metric), maps, self.result,
            sizing_mode="stretch_width",
        )  # fmt: skip
        return pn.Row(form, found, sizing_mode="stretch_width")
