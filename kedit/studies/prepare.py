"""Prepares editors for a study: every editor on every side, with the statistics that it needs.

An edit should change little for running text, so that it *spares* the text. Editors that spare text
read its second moments here, before the first edit.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor
from kedit.editing.moments import moments
from kedit.editing.second_moment import Moment
from kedit.editing.spared import Sparing
from kedit.editing.write_sites import WriteSite
from kedit.editors.registry import label_of, make_editor
from kedit.editors.sides import parts_of, with_each
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Perspective
from kedit.models.load import source_of
from kedit.progress import progress
from kedit.records import key_of
from kedit.studies.toy_mend import trained_for_toy

Side = Literal["entity", "relation", "together"]  # together: both requests of a case in one edit
SIDES: tuple[Perspective, ...] = ("entity", "relation")


@dataclass(frozen=True)
class Arm:
    """An editor on one side, prepared for a model.

    Args:
        name: the spec that the editor was made from, or another name that no other editor has.
        side: the side that it edits.
        make: makes the edit of some requests.
        settings: the editor with all its settings, as `label_of` writes it; "": the name says all.
    """

    name: str
    side: Side
    make: PreparedEditor
    settings: str = ""

    def key(self, edited: EditCase | tuple[EditCase, ...]) -> str:
        """Returns the key of the record of the edit of a case, or of several cases.

        A spec means other settings as soon as others are saved for the model. So the key also has a
        digest of the settings, and an edit with other settings is never taken for this one.
        """
        key = f"{key_of(edited)}-{self.side}-{self.name}"
        if self.settings in ("", self.name):
            return key
        return f"{key}-{hashlib.sha256(self.settings.encode()).hexdigest()[:8]}"

    def edit(self, case: EditCase) -> Edit:
        """Makes the edit of one case.

        Raises:
            RecordError: the case has no relation side.
        """
        return self.make(requests_of(case, self.side))


class EditorChoice(NamedTuple):
    """An editor that should be prepared, with the name and the side of its arm."""

    name: str
    side: Side
    editor: Editor


def prepare(
    model: HookedTransformer,
    editors: Sequence[str | Editor],
    sides: Sequence[Side],
    *,
    text: str = "",
    tokens_per_dim: int = 4,
    seed: int = 0,
) -> list[Arm]:
    """Prepares every editor on every side: writes its contexts and reads its moments.

    Args:
        editors: specs such as "rome:layer=5", or editors.
        text: the text that edits spare, for editors that name no text.
        seed: seed of contexts and of text that the model writes, for editors that have no seed.
        tokens_per_dim: number of tokens of the text per dimension of an editor's longest key.

    Raises:
        InputError: no editor is given, an editor is unknown, or it has no such setting.
    """
    if not editors:
        raise InputError("editors: no editor is given, expected for example rome,memit,ft")
    choices = [
        EditorChoice(
            editor, side, make_editor(editor, model, "relation" if side == "relation" else "entity")
        )
        if isinstance(editor, str)
        else EditorChoice(label_of(editor), side, editor)
        for side in sides
        for editor in editors
    ]
    return prepared_arms(model, choices, text=text, tokens_per_dim=tokens_per_dim, seed=seed)


def prepared_arms(
    model: HookedTransformer,
    choices: Sequence[EditorChoice],
    *,
    text: str = "",
    tokens_per_dim: int = 4,
    seed: int = 0,
) -> list[Arm]:
    """Prepares editors like `prepare`, but editors that have their names and sides already."""
    # a wrong setting of any editor is found here, before the slow part begins
    settings = [label_of(choice.editor) for choice in choices]
    complete: list[EditorChoice] = []
    for choice in choices:
        editor = with_settings(choice.editor, {"text": text, "seed": seed})
        editor = trained_for_toy(editor, model, source_of(model))
        complete.append(choice._replace(editor=with_tokens(model, editor, tokens_per_dim)))
    # held until all editors are prepared, so that editors of the same sites share them
    held = read_moments(model, [choice.editor for choice in complete])
    with progress("editors") as bars:
        arms = [
            Arm(choice.name, choice.side, choice.editor.on(model), label)
            for choice, label in zip(
                bars.track(complete, description="contexts"), settings, strict=True
            )
        ]
    del held
    return arms


def require_sides(cases: Sequence[EditCase], sides: Sequence[Side]) -> None:
    """Raises InputError for a case without a relation side, if the relation side is edited."""
    for case in cases:
        if case.relation is None and list(sides) != ["entity"]:
            raise InputError(
                f"case {case.id} has no relation side: perspective='entity' does not need it"
            )


def require_different(editors: Sequence[str | Editor]) -> None:
    """Raises InputError for an editor that is given twice: its results would count twice."""
    names = [editor if isinstance(editor, str) else repr(editor) for editor in editors]
    if len(set(names)) < len(names):
        raise InputError(f"editors: must be different, got {', '.join(names)}")


def one_sided(cases: Sequence[EditCase], side: Perspective) -> list[EditCase]:
    """Returns the cases with the probes of one side only, so that the other side does not count.

    Raises:
        InputError: a case lacks this side.
    """
    require_sides(cases, [side])
    return [
        replace(case, probes=tuple(probe for probe in case.probes if probe.perspective == side))
        for case in cases
    ]


def requests_of(case: EditCase, side: Side) -> list[EditRequest]:
    """Returns the requests of an edit of the case from `side`.

    Raises:
        RecordError: the case has no relation side.
    """
    return [
        request
        for perspective in SIDES
        if side in (perspective, "together")
        for request in case.requests(perspective)
    ]


def with_settings(editor: Editor, shared: Mapping[str, Any]) -> Editor:
    """Returns the editor with the `shared` settings, where the editor has them but left them empty.

    Args:
        shared: values by the names of settings.
    """

    def changed(single: Editor) -> Editor:
        names = [field.name for field in fields(single)]  # pyright: ignore
        unset = {name for name in names if not getattr(single, name)}
        return replace(single, **{k: v for k, v in shared.items() if k in unset})  # pyright: ignore

    return with_each(editor, changed)


def read_moments(model: HookedTransformer, editors: Sequence[Editor]) -> list[Moment]:
    """Returns the moments that the editors need; `editor.on(model)` finds them while they are held.

    Each text is read once for all the editors that spare it. Without this, each editor would read
    it again. The largest moments come first, because those of single sites are parts of them.
    """
    needed: dict[tuple[str, int, int], list[Sequence[WriteSite]]] = {}
    for editor in itertools.chain.from_iterable(map(parts_of, editors)):
        if isinstance(editor, Sparing) and not editor.moments:
            text = (editor.text, editor.n_tokens, editor.seed)
            needed.setdefault(text, []).extend(editor.groups)
    most_first = sorted(needed.items(), key=lambda one: -one[0][1])
    return [
        second
        for (text, n_tokens, seed), groups in most_first
        for second in moments(model, groups, text, n_tokens, seed)
    ]


def with_tokens(model: HookedTransformer, editor: Editor, tokens_per_dim: int) -> Editor:
    """Returns the editor with the number of tokens of the text that it spares.

    An editor that has a number of tokens already, or that spares no text, is returned as it is.

    Args:
        tokens_per_dim: number of tokens per dimension of the editor's longest key.
    """

    def changed(single: Editor) -> Editor:
        if not isinstance(single, Sparing) or single.moments or single.n_tokens:
            return single
        longest = max(sum(site.d_key(model) for site in group) for group in single.groups)
        return replace(single, n_tokens=tokens_per_dim * longest)  # pyright: ignore

    return with_each(editor, changed)
