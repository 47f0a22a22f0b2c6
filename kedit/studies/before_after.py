"""Edits one fact, and queries the model before and after the edit.

request = request_of(model, "The Eiffel Tower", "{} is located in the city of", "Rome")
found = edit_and_ask(model, request, "rome", paraphrases=["{} can be found in"])
found.edit.save("rome.safetensors")
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import get_args

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor
from kedit.editing.keys import groups
from kedit.editors.cues import Cues
from kedit.editors.registry import label_of, make_editor
from kedit.errors import InputError
from kedit.facts import EditRequest, Perspective
from kedit.models.load import name_of
from kedit.models.prompts import KeyPosition
from kedit.records import to_record
from kedit.results.before_after import SAID, BeforeAfter
from kedit.results.edit_made import EditMade, WeightChange
from kedit.results.exchanges import Exchange, Question, Reply
from kedit.studies.held_out import held_out_text
from kedit.studies.prepare import with_tokens
from kedit.studies.questions import questions_of, seen_from
from kedit.studies.replies import replies
from kedit.studies.toy_mend import trained_for_toy


# thirteen parameters: the edit, the questions, and the texts that the edit spares or is measured on
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
    held_out: str | None = "",
    n_tokens: int = SAID,
    seed: int = 0,
    make: PreparedEditor | None = None,
) -> BeforeAfter:
    """Makes an edit, and queries the model before and after it; the model is left unedited.

    Args:
        request: the change, seen from the entity side; see `request_of`.
        editor: an editor, or a spec such as "rome:layer=5".
        perspective: the side that is edited.
        paraphrases: other wordings of the prompt, with {} in the place of the subject.
        neighbours: other subjects, whose answers should stay; None: subjects of kedit's own facts,
            drawn by `seed`.
        questions: the questions to ask instead of those that `paraphrases` and `neighbours` give,
            with the edited prompt first.
        text: the text that the edit spares; "": the editor's setting.
        tokens_per_dim: number of tokens of this text per dimension of the editor's longest key.
        held_out: text whose perplexity should not rise; it must not be `text`. None: perplexity is
            not measured, which saves seconds.
        n_tokens: number of tokens that are generated after each prompt.
        seed: seed of the editor's contexts, of text that the model writes, and of neighbours.
        make: the editor as `prepared` has prepared it for this model; None: it is prepared here.

    Raises:
        InputError: there is nothing to edit, a question, a text or a setting cannot be used, or a
            key cannot be read where the editor writes.
    """
    if questions is None:
        questions = questions_of(model, request, perspective, paraphrases, neighbours, seed)
    configured = editor_with_options(model, editor, perspective, text=text, seed=seed)
    asked = seen_from(request, perspective)
    for where in _key_positions(configured):
        groups(model, asked, where)  # refuses a key now: to read the editor's text takes minutes
    other_text = None
    if held_out is not None:
        other_text = held_out_text(model, held_out, configured, seed)

    def measured() -> tuple[list[Reply], float | None]:
        perplexity = None if other_text is None else other_text.perplexity(model)
        return replies(model, questions, n_tokens), perplexity

    before, perplexity_before = measured()
    edits = make or ready(model, configured, tokens_per_dim)
    start = time.perf_counter()
    edit = edits([asked])
    seconds = time.perf_counter() - start
    with edit.applied(model):
        after, perplexity_after = measured()
    perplexity = None
    if perplexity_before is not None and perplexity_after is not None:
        perplexity = (perplexity_before, perplexity_after)
    return BeforeAfter(
        name_of(model), editor if isinstance(editor, str) else label_of(editor), seed,
        made_of(model, edit, seconds, other_text.name if other_text else "", perplexity),
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
    """Returns the editor with its settings for the model, and with the given text and seed.

    Args:
        model: the loaded model, or its name.
        text: the text that the edit spares; "": the editor's setting.
        seed: seed of contexts and of text that the model writes; 0: the editor's setting.

    Raises:
        InputError: the editor is unknown, or a text is given to an editor that reads none.
    """
    plain = make_editor(editor, model, perspective) if isinstance(editor, str) else editor
    if text and "text" not in vars(plain):
        raise InputError(
            f"text={text!r} (--text): the editor {editor} reads no text, leave this option out"
        )
    given = {name: value for name, value in (("text", text), ("seed", seed)) if value}
    changes = {name: value for name, value in given.items() if name in vars(plain)}
    return dataclasses.replace(plain, **changes) if changes else plain  # pyright: ignore


def _key_positions(editor: Editor) -> set[KeyPosition]:
    """The tokens whose keys an editor uses; none if it does not write by keys."""
    if isinstance(editor, Cues):
        return {where for _, _, where in editor.places}
    positions: tuple[KeyPosition, ...] = get_args(KeyPosition)
    return {where for where in positions if where == getattr(editor, "where", "")}


def ready(model: HookedTransformer, editor: Editor, tokens_per_dim: int = 4) -> PreparedEditor:
    """Prepares the editor for the model: reads its text, and trains the toy's MEND if necessary."""
    editor = trained_for_toy(editor, model, name_of(model))
    return with_tokens(model, editor, tokens_per_dim).on(model)


def prepared(model: HookedTransformer, editor: str, perspective: Perspective) -> PreparedEditor:
    """Prepares the editor of a spec for several edits by `edit_and_ask`."""
    return ready(model, editor_with_options(model, editor, perspective))


def made_of(
    model: HookedTransformer,
    edit: Edit,
    seconds: float,
    held_out: str,
    perplexity: tuple[float, float] | None,
) -> EditMade:
    """Summarises an edit: its settings, its time, the weights it changes, and perplexity.

    Args:
        model: the unedited model.
        seconds: how long it took to make the edit.
        held_out: name of the text whose perplexity should not rise; "" if it was not measured.
        perplexity: perplexity of this text before and after the edit; None if not measured.
    """
    made, moved, weights = edit.made, edit.n_moved(model), edit.weights(model)
    changes = {
        name: WeightChange(norm.delta, norm.relative, moved[name], weights[name].numel())
        for name, norm in edit.norms(model).items()
    }
    return EditMade(
        made.requests, made.editor, to_record(made.settings), seconds, changes, held_out, perplexity
    )
