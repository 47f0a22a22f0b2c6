"""Builds editors from their names, with published or tuned settings for each model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from transformer_lens import HookedTransformer

from kedit.editing.edit import Editor
from kedit.editors.ft import FT
from kedit.editors.joint import Joint
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.mend import MEND
from kedit.editors.presets import PRESETS
from kedit.editors.rome import ROME
from kedit.editors.sides import Sides
from kedit.editors.specs import (
    SHOWN,
    asked_of_presets,
    by_side,
    changes_of,
    named,
    parted,
    require_known,
    require_setting,
    shortened,
    unquoted,
    without_preset,
)
from kedit.editors.variants import VARIANTS, Variant
from kedit.errors import InputError
from kedit.facts import Perspective
from kedit.models.load import source_of

# "ft" is unbounded, "ft+l" has a bound in its presets; what RaKE calls FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {
    "rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT, "kn": KN, "mend": MEND,
    "joint": Joint,
}  # fmt: skip


def make_editor(
    spec: str, model: str | HookedTransformer, perspective: Perspective = "entity"
) -> Editor:
    """Builds an editor from a spec such as `rome:layer=5`: the model's preset, then the overrides.

        make_editor("rome", "gpt2-xl")
        make_editor("rome:where=last:training.clamp=1", "gemma-3-270m", "relation")
        make_editor("memit&joint", "gemma-3-270m")

    The first has the published settings, with the corrected method. The published method itself is
    "rome:key=legacy:moments=('FILE.npz',)", where FILE.npz is the authors' C, measured on
    Wikipedia. The last one edits entity requests with MEMIT and relation requests with the joint
    editor. One of the two may be left out, as in "memit&".

    Args:
        spec: a name from EDITORS or VARIANTS, then any number of `:field=value`. If a value
            contains a character that would begin another field or editor, put it in quotation
            marks, as in `rome:contexts=('A: x=1 & B. ',)`.
        model: a model that kedit loaded, or its name as for `load`. If it has no preset, an editor
            that needs layers must at least be given these.
        perspective: the side whose preset is used: "entity" or "relation".

    Raises:
        InputError: an unknown editor, field or value; the message lists the known ones.
    """
    model = model if isinstance(model, str) else source_of(model)
    if "&" in unquoted(spec):
        sides = by_side(spec, perspective)
        return Sides(
            entity=make_editor(side, model, "entity") if (side := sides["entity"]) else None,
            relation=make_editor(side, model, "relation") if (side := sides["relation"]) else None,
        )
    name, _ = parted(spec)
    require_known(name)
    kind, fixed = VARIANTS.get(name, Variant(name, {}))
    values = changes_of(spec)
    of_model = PRESETS.get(named(model), {})
    preset_names = asked_of_presets(name, perspective)
    editor = next((of_model[preset] for preset in preset_names if preset in of_model), None)
    if editor is None:
        fields = get_type_hints(EDITORS[kind])
        layers = [field for field in ("layer", "layers") if field in fields]
        for layer in layers:
            if layer not in values:
                raise InputError(without_preset(name, model, layer))
            require_setting(EDITORS[kind], layer, values[layer], spec)
        editor = EDITORS[kind](**{layer: values[layer] for layer in layers})
    editor = dataclasses.replace(editor, **fixed)  # pyright: ignore[reportArgumentType]
    for field, value in values.items():
        editor = _with(editor, field.split("."), value, spec)
    return editor


def with_setting(editor: Editor, field: str, value: Any) -> Editor:
    """Returns a copy of the editor with another value of one setting, such as "training.clamp".

    Raises:
        InputError: there is no such setting, or it cannot have this value.
    """
    return _with(editor, field.split("."), value, f"{label_of(editor)}:{field}={value}")


def _with(settings: Any, path: list[str], value: Any, spec: str) -> Any:
    """Returns a copy of the settings in which the field at `path` is `value`."""
    field, *inner = path
    if inner:
        nested = getattr(settings, field, None)
        if not dataclasses.is_dataclass(nested):
            raise InputError(f"{shortened(spec)}: {field[:SHOWN]!r} has no fields")
        value = _with(nested, inner, value, spec)
    else:
        require_setting(type(settings), field, value, spec)
        value = float(value) if get_type_hints(type(settings))[field] is float else value
    return dataclasses.replace(settings, **{field: value})


def label_of(editor: Editor) -> str:
    """Returns the editor as a spec: its name, and the settings that differ from its defaults."""
    if isinstance(editor, Sides):
        sides = (editor.entity, editor.relation)
        return " & ".join(label_of(side) if side else "" for side in sides)
    names = [name for name, kind in EDITORS.items() if type(editor) is kind]
    if not names or not dataclasses.is_dataclass(editor):
        return repr(editor)
    changed = [
        f":{field.name}={getattr(editor, field.name)!r}".replace(" ", "")
        for field in dataclasses.fields(editor)
        if getattr(editor, field.name) != field.default
    ]
    return names[0] + "".join(changed)
