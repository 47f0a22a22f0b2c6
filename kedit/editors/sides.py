"""Both sides of a fact edited: entity requests by one editor, relation requests by another."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor, combined
from kedit.errors import InputError
from kedit.facts import EditRequest


@dataclass(frozen=True)
class Sides:
    """First `entity` on the entity requests, then `relation`, on what that left, on the others.

    None leaves the requests of its side alone.
    """

    entity: Editor | None
    relation: Editor | None

    @property
    def parts(self) -> tuple[Editor, ...]:
        return tuple(one for one in (self.entity, self.relation) if one is not None)

    def on(self, model: HookedTransformer) -> PreparedEditor:
        """What hangs on the model alone is done once for each.

        Raises:
            InputError: as both do; later: none of the requests is of a side that is edited.
        """
        editors = {"entity": self.entity, "relation": self.relation}
        ready = {side: one.on(model) for side, one in editors.items() if one is not None}

        def edits(requests: Sequence[EditRequest]) -> Edit:
            made: list[Edit] = []
            with contextlib.ExitStack() as applied:
                for side, make in ready.items():
                    own = [one for one in requests if one.perspective == side]
                    if own:
                        made.append(make(own))
                        applied.enter_context(made[-1].applied(model))
            if not made:
                told = " and ".join(ready) or "none"
                raise InputError(f"sides: {told} is edited, but no request is of it")
            return combined(made)

        return edits

    def __call__(self, model: HookedTransformer, requests: Sequence[EditRequest]) -> Edit:
        """All requests."""
        return self.on(model)(requests)


def parts_of(editor: Editor) -> tuple[Editor, ...]:
    """The editors of both sides, or the one that there is."""
    return editor.parts if isinstance(editor, Sides) else (editor,)


def with_each(editor: Editor, change: Callable[[Editor], Editor]) -> Editor:
    """What `change` makes of an editor, or of the editor of each side."""
    if not isinstance(editor, Sides):
        return change(editor)
    return Sides(
        editor.entity and change(editor.entity), editor.relation and change(editor.relation)
    )
