"""Edits both sides of a fact: entity requests with one editor, relation requests with another."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor, combined
from kedit.errors import InputError
from kedit.facts import EditRequest


@dataclass(frozen=True)
class Sides:
    """Edits entity requests with `entity`, then relation requests with `relation`, as one edit.

    If one of the two is None, requests of its side are ignored.
    """

    entity: Editor | None
    relation: Editor | None

    @property
    def parts(self) -> tuple[Editor, ...]:
        """The editors that are not None."""
        return tuple(editor for editor in (self.entity, self.relation) if editor is not None)

    def on(self, model: HookedTransformer) -> PreparedEditor:
        """Prepares both editors for a model.

        Raises:
            InputError: see the editors; later: no request belongs to a side that is edited.
        """
        editors = {"entity": self.entity, "relation": self.relation}
        prepared = {
            side: editor.on(model) for side, editor in editors.items() if editor is not None
        }

        def edits(requests: Sequence[EditRequest]) -> Edit:
            made: list[Edit] = []
            with contextlib.ExitStack() as applied:
                for side, make in prepared.items():
                    of_side = [request for request in requests if request.perspective == side]
                    if of_side:
                        made.append(make(of_side))
                        applied.enter_context(made[-1].applied(model))
            if not made:
                edited = " and ".join(prepared) or "no side"
                raise InputError(
                    f"sides: {edited} would be edited, but no request has this perspective"
                )
            return combined(made)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """Makes one edit for all requests."""
        return self.on(model)(requests)


def parts_of(editor: Editor) -> tuple[Editor, ...]:
    """Returns the editors of both sides, or the editor itself if it is not made of two."""
    return editor.parts if isinstance(editor, Sides) else (editor,)


def with_each(editor: Editor, change: Callable[[Editor], Editor]) -> Editor:
    """Applies `change` to an editor, or to the editor of each side."""
    if not isinstance(editor, Sides):
        return change(editor)
    return Sides(
        editor.entity and change(editor.entity), editor.relation and change(editor.relation)
    )
