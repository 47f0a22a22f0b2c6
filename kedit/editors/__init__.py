"""Editors by name, with settings for models that they were published for or tuned on."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from kedit.edit import Editor
from kedit.editors.ft import FT
from kedit.editors.joint import Joint
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.mend import MEND
from kedit.editors.presets import PRESETS
from kedit.editors.rome import ROME
from kedit.editors.sides import Sides
from kedit.editors.variants import VARIANTS, Variant
from kedit.errors import InputError
from kedit.facts import Perspective
from kedit.told import (
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

# "ft" is not bounded, "ft+l" is; RaKE's FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {
    "rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT, "kn": KN, "mend": MEND,
    "joint": Joint,
}  # fmt: skip


def editor(told: str, model: str, perspective: Perspective = "entity") -> Editor:
    """An editor with its settings for a model, and changes to them.

        editor("rome", "gpt2-xl")                    published settings, the corrected method
        editor("rome:key=legacy:moments=('FILE.npz',)", "gpt2-xl")     the published method too, if
                                                     FILE.npz is the authors' C, of Wikipedia
        editor("rome:where=last:training.clamp=1", "gemma-3-270m", "relation")
        editor("memit&joint", "gemma-3-270m")        entity requests by one, relation requests by
                                                     the other; either may be left out: "memit&"

    Args:
        told: a name of EDITORS or VARIANTS, then any number of `:field=value`. In quotation marks a
            value may hold what would else begin another field or editor, as in
            `rome:contexts=('A: x=1 & B. ',)`.
        model: as `load` takes it. For one without settings of its own, an editor of layers must be
            told at least these.

    Raises:
        InputError: an unknown editor, field or value; says what there is.
    """
    if "&" in unquoted(told):
        sides = by_side(told, perspective)
        return Sides(
            entity=editor(sides["entity"], model, "entity") if sides["entity"] else None,
            relation=editor(sides["relation"], model, "relation") if sides["relation"] else None,
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
