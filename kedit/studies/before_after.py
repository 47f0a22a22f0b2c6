"""Edits one fact, and asks a model before and after it.

request = request_of(model, "The Eiffel Tower", "{} is located in the city of", "Rome")
found = edit_and_ask(model, request, "rome", paraphrases=["{} can be found in"])
found.edit.save("rome.safetensors")
"""

import dataclasses
import time
from collections.abc import Sequence

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor
from kedit.editors.registry import label_of, make_editor
from kedit.errors import InputError
from kedit.facts import EditRequest, Perspective
from kedit.models.load import name_of
from kedit.records import to_record
from kedit.results.before_after import BeforeAfter
from kedit.results.edit_made import EditMade, WeightChange
from kedit.results.exchanges import Exchange, Question
from kedit.studies.held_out import held_out_text
from kedit.studies.prepare import with_tokens
from kedit.studies.questions import questions_of, seen_from
from kedit.studies.replies import replies
from kedit.studies.toy_mend import trained_for_toy


# eleven parameters: the edit, what is asked, and the texts of both
def edit_and_ask(
    model: HookedTransformer,
    request: EditRequest,
    editor: str | Editor = "rome",
    *,
    perspective: Perspective = "entity",
    paraphrases: Sequence[str] = (),
    neighbours: Sequence[str] | None = None,
    questions: Sequence[Question] | None = None,
    text: str = "",
    tokens_per_dim: int = 4,
    held_out: str = "",
    seed: int = 0,
) -> BeforeAfter:
    """Makes the edit, and asks before and after it; the model is left as it was.

    Args:
        request: the change as the entity side has it (`request_of`).
        editor: one, or its spec, such as "rome:layer=5".
        perspective: the side that is edited.
        paraphrases: other wordings of the prompt, with a {} for the subject.
        neighbours: other subjects, whose answers should stay; None for some that are drawn.
        questions: what is asked in place of these, the edited prompt first.
        text, tokens_per_dim: what the edit is to spare (`editor_with_options`,
            `prepare.with_tokens`).
        held_out: text whose perplexity should not rise, another one than `text`.
        seed: of the editor's contexts, of texts, and of neighbours.

    Raises:
        InputError: there is nothing to edit, or a question, a text or a setting cannot be used.
    """
    if questions is None:
        questions = questions_of(model, request, perspective, paraphrases, neighbours, seed)
    told = editor_with_options(model, editor, perspective, text=text, seed=seed)
    other_text = held_out_text(model, held_out, told, seed)
    before, then = replies(model, questions), other_text.perplexity(model)
    edits = ready(model, told, tokens_per_dim)
    start = time.perf_counter()
    edit = edits([seen_from(request, perspective)])
    seconds = time.perf_counter() - start
    with edit.applied(model):
        after, now = replies(model, questions), other_text.perplexity(model)
    return BeforeAfter(
        name_of(model), editor if isinstance(editor, str) else label_of(editor), seed,
        made_of(model, edit, seconds, other_text.name, (then, now)),
        tuple(map(Exchange, questions, before, after)), neighbours is None, edit,
    )  # fmt: skip


def editor_with_options(
    model: str | HookedTransformer,
    editor: str | Editor,
    perspective: Perspective,
    *,
    text: str = "",
    seed: int = 0,
) -> Editor:
    """The editor with its settings for the model, and text and seed as they are told.

    Args:
        model: loaded, or its name.
        text, seed: of the statistics that the edit spares; "" and 0 for the editor's own.

    Raises:
        InputError: an unknown one, or a text for one that reads none.
    """
    made = make_editor(editor, model, perspective) if isinstance(editor, str) else editor
    told = {name: value for name, value in (("text", text), ("seed", seed)) if value}
    if text and "text" not in vars(made):
        raise InputError(f"--text {text}: {editor} reads no text, leave it out")
    own = {name: value for name, value in told.items() if name in vars(made)}
    return dataclasses.replace(made, **own) if own else made  # pyright: ignore


def ready(model: HookedTransformer, editor: Editor, tokens_per_dim: int) -> PreparedEditor:
    """The editor on its model, with what it has to read."""
    editor = trained_for_toy(editor, model, name_of(model))
    return with_tokens(model, editor, tokens_per_dim).on(model)


def made_of(
    model: HookedTransformer,
    edit: Edit,
    seconds: float,
    held_out: str,
    perplexity: tuple[float, float] | None,
) -> EditMade:
    """What is known of an edit as a whole; the model is the unedited one.

    Args:
        held_out, perplexity: of the text that should not get more surprising; "" and None for none.
    """
    made, moved, weights = edit.made, edit.n_moved(model), edit.weights(model)
    changes = {
        name: WeightChange(norm.delta, norm.relative, moved[name], weights[name].numel())
        for name, norm in edit.norms(model).items()
    }
    return EditMade(
        made.requests, made.editor, to_record(made.settings), seconds, changes, held_out, perplexity
    )
