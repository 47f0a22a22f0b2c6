"""Editors by name, with settings for models that they were published for or tuned on."""

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

# "ft" is not bounded, "ft+l" is; RaKE's FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {
    "rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT, "kn": KN, "mend": MEND,
    "joint": Joint,
}  # fmt: skip


def make_editor(
    told: str, model: str | HookedTransformer, perspective: Perspective = "entity"
) -> Editor:
    """An editor with its settings for a model, and changes to them.

        make_editor("rome", "gpt2-xl")
        make_editor("rome:where=last:training.clamp=1", "gemma-3-270m", "relation")
        make_editor("memit&joint", "gemma-3-270m")

    The first has the published settings, with the corrected method. The published method itself is
    "rome:key=legacy:moments=('FILE.npz',)", where FILE.npz holds the authors' C, of Wikipedia. The
    last has entity requests edited by MEMIT and relation requests by the joint editor; either may
    be left out, as in "memit&".

    Args:
        told: a name of EDITORS or VARIANTS, then any number of `:field=value`. In quotation marks a
            value may hold what would else begin another field or editor, as in
            `rome:contexts=('A: x=1 & B. ',)`.
        model: loaded by kedit, or its name as `load` takes it. For one without settings of its own,
            an editor of layers must be told at least these.

    Raises:
        InputError: an unknown editor, field or value; says what there is.
    """
    model = model if isinstance(model, str) else source_of(model)
    if "&" in unquoted(told):
        sides = by_side(told, perspective)
        return Sides(
            entity=make_editor(one, model, "entity") if (one := sides["entity"]) else None,
            relation=make_editor(one, model, "relation") if (one := sides["relation"]) else None,
        )
    name, _ = parted(told)
    require_known(name)
    kind, fixed = VARIANTS.get(name, Variant(name, {}))
    values = changes_of(told)
    of_model = PRESETS.get(named(model), {})
    asked = asked_of_presets(name, perspective)
    made = next((of_model[one] for one in asked if one in of_model), None)
    if made is None:
        layers = [one for one in ("layer", "layers") if one in get_type_hints(EDITORS[kind])]
        for layer in layers:
            if layer not in values:
                raise InputError(without_preset(name, model, layer))
            require_setting(EDITORS[kind], layer, values[layer], told)
        made = EDITORS[kind](**{layer: values[layer] for layer in layers})
    made = dataclasses.replace(made, **fixed)  # pyright: ignore[reportArgumentType]
    for field, value in values.items():
        made = _with(made, field.split("."), value, told)
    return made


def with_setting(editor: Editor, field: str, value: Any) -> Editor:
    """A copy with another value of a field, which is dotted where it lies in another.

    Raises:
        InputError: there is no such field, or it cannot have such a value.
    """
    return _with(editor, field.split("."), value, f"{label_of(editor)}:{field}={value}")


def _with(settings: Any, path: list[str], value: Any, told: str) -> Any:
    """A copy in which the field at `path` is `value`."""
    field, *inner = path
    if inner:
        within = getattr(settings, field, None)
        if not dataclasses.is_dataclass(within):
            raise InputError(f"{shortened(told)}: there is nothing inside of {field[:SHOWN]!r}")
        value = _with(within, inner, value, told)
    else:
        require_setting(type(settings), field, value, told)
        value = float(value) if get_type_hints(type(settings))[field] is float else value
    return dataclasses.replace(settings, **{field: value})


def label_of(editor: Editor) -> str:
    """What tells an editor from others: its name, and the settings that are not its defaults."""
    if isinstance(editor, Sides):
        return " & ".join(label_of(one) if one else "" for one in (editor.entity, editor.relation))
    names = [name for name, kind in EDITORS.items() if type(editor) is kind]
    if not names or not dataclasses.is_dataclass(editor):
        return repr(editor)
    changed = [
        f":{field.name}={getattr(editor, field.name)!r}".replace(" ", "")
        for field in dataclasses.fields(editor)
        if getattr(editor, field.name) != field.default
    ]
    return names[0] + "".join(changed)
