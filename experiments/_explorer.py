"""What the page of `explore` does: traces a fact, edits it, and takes the edit back or saves it.

Panel runs the callbacks of all windows in one thread, since a model belongs to one thread.
"""

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._edit_example import Example
from experiments._explorer_form import SITES, Form
from figures import interactive
from kedit.editing.edit import Edit
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.heads import Head
from kedit.models.prompts import encode
from kedit.results.traces import FactTrace
from kedit.studies.before_after import edit_and_ask, prepared
from probes.attention import attention_from
from probes.studies.tracing import trace_fact

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer


class Explorer:
    """What one browser window shows: a form, which begins with an example, and what was found.

    All windows share the model. Between two callbacks it is unedited.
    """

    def __init__(self, model: "HookedTransformer", example: Example) -> None:
        self.model = model
        self.example = example
        self.prepared = functools.cache(functools.partial(prepared, model))  # by spec and side
        self.edit: Edit | None = None
        self.trace: FactTrace | None = None
        self.attention: Tensor | None = None  # [layer, head, pos]
        self.form = form = Form(example)
        form.trace.on_click(lambda event: self._do(self._trace))
        form.edit.on_click(lambda event: self._do(self._edit))
        form.undo.on_click(lambda event: self._do(self._undo))
        for choice in (form.site, form.metric):
            choice.param.watch(lambda event: self._draw(), "value")
        form.save.callback = self._file

    def _do(self, work: Callable[[], str]) -> None:
        """Does what a button asks for and says what was done, or what is wrong with the input."""
        self.form.busy(True)
        try:
            self.form.say(work())
        except InputError as error:
            self.form.say(str(error), "danger")
        finally:
            self.form.busy(False)

    def _trace(self) -> str:
        """Traces the fact in the model, with the window's edit if it has one."""
        with self.edit.applied(self.model) if self.edit else contextlib.nullcontext():
            fact, part = self.form.fact(self.model), self.form.corrupt.value
            # a single sample if noise has to be added: ten take ten times as long
            self.trace = trace_fact(self.model, fact, part, samples=1, sites=(*SITES, "z"))
            prompt = encode(self.model, replace(fact, rival=self.trace.rival))
            self.attention = attention_from(self.model, prompt)
        self._draw()
        scores, state = self.trace.summary(), "edited" if self.edit else "unedited"
        return f"Traced in the {state} model. Corrupted: {self.trace.corrupted_how}. {scores}"

    def _edit(self) -> str:
        """Edits the unedited model, and shows what it says before and after, on both sides."""
        form, example, fact = self.form, self.example, self.form.fact(self.model)
        if not form.target.value.strip():
            raise InputError("New answer: name what the model should say after the edit")
        request = EditRequest(fact, form.target.value)
        spec, side = form.editor.value.strip(), form.side.value
        is_example = (fact.subject, fact.template) == (example.subject, example.prompt)
        found = edit_and_ask(
            self.model, request, spec, perspective=side, make=self.prepared(spec, side),
            paraphrases=example.paraphrases if is_example else (),
            neighbours=example.neighbours if is_example else None,
            held_out=None, n_tokens=6,  # texts and perplexity would take most of the time
        )  # fmt: skip
        self.edit = found.edit
        form.show_edit(found)
        return f"{found.in_words()} Trace shows the edited model now, until Undo."

    def _undo(self) -> str:
        """Takes the edit back."""
        self.edit = None
        self.form.show_edit(None)
        return "The edit is taken back. Trace shows the unedited model."

    def _file(self) -> io.BytesIO:
        """Returns the edit as a file that `Edit.load` reads; it is asked only if there is one."""
        assert self.edit
        with tempfile.TemporaryDirectory() as folder:
            return io.BytesIO(self.edit.save(Path(folder) / "edit.safetensors").read_bytes())

    def _draw(self) -> None:
        """Draws the trace with the chosen site and metric, and the strongest head's attention."""
        if not self.trace:
            return
        form, metric, last = self.form, self.form.metric.value, len(self.trace.labels) - 1
        form.effects.object = interactive.effects(self.trace, form.site.value, metric)
        form.heads.object = interactive.heads(self.trace, metric, last, self._look)
        effects = self.trace.grids["z"].indirect_effect(metric)[:, last]
        self._look(Head(*divmod(int(effects.argmax()), effects.shape[1])))

    def _look(self, head: Head) -> None:
        """Draws the attention of a head."""
        assert self.trace and self.attention is not None
        labels, weights = self.trace.labels, self.attention[head].numpy()
        self.form.attention.object = interactive.attention(labels, weights, head, labels[-1])
