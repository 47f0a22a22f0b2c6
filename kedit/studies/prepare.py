"""Editors made ready for a study: every one on every side, with the text that it is to spare."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, Editor, PreparedEditor
from kedit.editing.moments import moments
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
    """An editor on one side, ready for its model.

    Args:
        name: the spec that it was made from, or what tells it from other editors.
    """

    name: str
    side: Side
    make: PreparedEditor

    def key(self, case: EditCase) -> str:
        """Of the record of one case's edit."""
        return f"{key_of(case)}-{self.side}-{self.name}"

    def edit(self, case: EditCase) -> Edit:
        """The edit of one case.

        Raises:
            RecordError: the record has no relation side.
        """
        return self.make(requests_of(case, self.side))


class EditorChoice(NamedTuple):
    """An editor that is to be made ready: on which side, and under which name."""

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
    """Every editor on every side, with its contexts and moments read: before the first edit.

    Args:
        editors: specs such as "rome:layer=5", or editors.
        text, seed: of the statistics that edits spare and of contexts, for editors that have none.
        tokens_per_dim: tokens of that text for each number of an editor's longest key.

    Raises:
        InputError: there is no editor, one that is not known, or a setting that it cannot have.
    """
    if not editors:
        raise InputError("no editor is told: --editors rome,memit,ft")
    wanted = [
        EditorChoice(
            one, side, make_editor(one, model, "relation" if side == "relation" else "entity")
        )
        if isinstance(one, str)
        else EditorChoice(label_of(one), side, one)
        for side in sides
        for one in editors
    ]
    return prepared_arms(model, wanted, text=text, tokens_per_dim=tokens_per_dim, seed=seed)


def prepared_arms(
    model: HookedTransformer,
    wanted: Sequence[EditorChoice],
    *,
    text: str = "",
    tokens_per_dim: int = 4,
    seed: int = 0,
) -> list[Arm]:
    """As `prepare`, for editors that have names and sides already."""
    # all are looked at before the first takes its time
    made: list[EditorChoice] = []
    for one in wanted:
        editor = with_settings(one.editor, {"text": text, "seed": seed})
        editor = trained_for_toy(editor, model, source_of(model))
        made.append(one._replace(editor=with_tokens(model, editor, tokens_per_dim)))
    read_moments(model, [one.editor for one in made])
    with progress("editors") as bars:
        return [
            Arm(name, side, editor.on(model))
            for name, side, editor in bars.track(made, description="contexts")
        ]


def require_sides(cases: Sequence[EditCase], sides: Sequence[Side]) -> None:
    """Raises InputError for a case that has no relation side, if that is to be edited."""
    for case in cases:
        if case.relation is None and list(sides) != ["entity"]:
            raise InputError(
                f"case {case.id} has no relation side: perspective='entity' needs none"
            )


def requests_of(case: EditCase, side: Side) -> list[EditRequest]:
    """What an edit of the case from this side is asked.

    Raises:
        RecordError: the record has no relation side.
    """
    return [one for own in SIDES if side in (own, "together") for one in case.requests(own)]


def with_settings(editor: Editor, shared: Mapping[str, Any]) -> Editor:
    """The editor with settings that it has but that were left empty."""

    def changed(one: Editor) -> Editor:
        unset = {field.name for field in fields(one) if not getattr(one, field.name)}  # pyright: ignore
        return replace(one, **{k: v for k, v in shared.items() if k in unset})  # pyright: ignore

    return with_each(editor, changed)


def read_moments(model: HookedTransformer, editors: Sequence[Editor]) -> None:
    """Reads what `editor.on(model)` would read for each of them, so that it finds it in the cache.

    One pass over each text serves all the editors that are to spare it.
    """
    needed: dict[tuple[str, int, int], list[Sequence[WriteSite]]] = {}
    for one in itertools.chain.from_iterable(map(parts_of, editors)):
        if isinstance(one, Sparing) and not one.moments:
            needed.setdefault((one.text, one.n_tokens, one.seed), []).extend(one.groups)
    for (text, n_tokens, seed), groups in needed.items():
        moments(model, groups, text, n_tokens, seed)


def with_tokens(model: HookedTransformer, editor: Editor, tokens_per_dim: int) -> Editor:
    """The editor, sparing text of so many tokens for each number of its longest key.

    One that has a number of tokens of its own, or spares no text, stays as it is.
    """

    def changed(one: Editor) -> Editor:
        if not isinstance(one, Sparing) or one.moments or one.n_tokens:
            return one
        longest = max(sum(site.d_key(model) for site in group) for group in one.groups)
        return replace(one, n_tokens=tokens_per_dim * longest)  # pyright: ignore

    return with_each(editor, changed)
