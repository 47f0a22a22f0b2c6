"""Builds editors from their names, with the best known settings for each model."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from kedit.editing.edit import Editor
from kedit.editors.cues import Cues
from kedit.editors.defaults import defaults
from kedit.editors.ft import FT
from kedit.editors.joint import Joint
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.mend import MEND
from kedit.editors.presets import PRESETS
from kedit.editors.rome import ROME
from kedit.editors.separate import Separate
from kedit.editors.sides import Sides
from kedit.editors.specs import (
    LAYERS,
    SHOWN,
    as_field,
    asked_of_presets,
    by_side,
    changes_of,
    layer_field,
    parted,
    read_spec,
    require_known,
    require_setting,
    shortened,
    unquoted,
    without_depth,
)
from kedit.editors.variants import VARIANTS, Variant
from kedit.errors import InputError, ModelUnavailable
from kedit.facts import Perspective
from kedit.models.load import source_of
from kedit.models.masked import AnyModel
from kedit.models.outline import outline_of, short_name
from kedit.saved_settings import SavedEditor, read_settings, settings_file

log = logging.getLogger("kedit")

# "ft" is unbounded, "ft+l" has a bound in its presets; what RaKE calls FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {
    "rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT, "kn": KN, "mend": MEND,
    "joint": Joint, "separate": Separate, "cues": Cues,
}  # fmt: skip


def make_editor(spec: str, model: str | AnyModel, perspective: Perspective = "entity") -> Editor:
    """Builds an editor from a spec such as `rome:layer=5`: its settings for the model, changed.

    The settings are the first of these that there are: those that the user saved
    (`kedit.results.tuning.Tuning.save_settings`), kedit's own (`kedit.editors.presets`), or those
    that are derived from other models' (`kedit.editors.defaults`). A message says once if they are
    saved or derived.

        make_editor("rome", "gpt2-xl")
        make_editor("rome:where=last:training.clamp=1", "gemma-3-270m", "relation")
        make_editor("memit&joint", "gemma-3-270m")

    The first has the published settings, with the corrected method. The published method itself is
    "rome:key=legacy:moments=('FILE.npz',)", where FILE.npz is the authors' C, measured on
    Wikipedia. The last one edits entity requests with MEMIT and relation requests with the joint
    editor. One of the two may be left out, as in "memit&".

    Args:
        spec: a file of settings that comes with the code of ROME, MEMIT or EasyEdit (see
            `kedit.editors.hparams`); or a name from EDITORS or VARIANTS, then any number of
            `:field=value`. If a value contains a character that would begin another field or
            editor, put it in quotation marks, as in `rome:contexts=('A: x=1 & B. ',)`.
        model: a model that kedit loaded, or its name as for `load`.
        perspective: the side whose settings are used: "entity" or "relation".

    Raises:
        InputError: an unknown editor, field or value; the message lists the known ones. Or the
            saved settings are damaged, or there are none and nothing tells how deep the model is.
    """
    if "&" in unquoted(spec):
        sides = by_side(spec, perspective)
        return Sides(
            entity=make_editor(side, model, "entity") if (side := sides["entity"]) else None,
            relation=make_editor(side, model, "relation") if (side := sides["relation"]) else None,
        )
    name, values = read_spec(spec)
    require_known(name)
    kind, fixed = VARIANTS.get(name, Variant(name, {}))
    editor = _known(name, model, perspective) or _derived(name, values, model, perspective)
    editor = dataclasses.replace(editor, **fixed)  # pyright: ignore[reportArgumentType]
    for field, value in values.items():
        editor = _with(editor, field.split("."), value, spec)
    return editor


def _known(name: str, model: str | AnyModel, perspective: Perspective) -> Editor | None:
    """Returns the editor with its saved settings or kedit's own for the model, if there are any.

    Raises:
        InputError: the file of saved settings is damaged.
    """
    short = short_name(_name(model))
    saved, presets = read_settings(short), PRESETS.get(short, {})
    for key in asked_of_presets(name, perspective):
        if key in saved:
            editor = _rebuilt(key, saved[key], short)
            _tell_once(
                logging.INFO,
                f"{key}: the settings for {_name(model)} are those that were saved in "
                f"{settings_file(short)}, {saved[key].saved}",
            )
            return editor
        if key in presets:
            return presets[key]
    return None


def _derived(
    name: str,
    values: Mapping[str, Any],
    model: str | AnyModel,
    perspective: Perspective,
) -> Editor:
    """Returns the editor with settings that are derived from those of other models.

    Args:
        values: the settings that the spec gives; if the layers are among them, the model's depth is
            not needed.

    Raises:
        InputError: the depth is needed, and unknown.
    """
    layer, n_layers = layer_field(name, values), 1
    if not isinstance(model, str):
        n_layers = model.cfg.n_layers
    elif layer:
        try:
            outline = outline_of(model)
        except ModelUnavailable as error:
            raise InputError(f"{without_depth(name, model, layer)} ({error})") from None
        if outline is None:
            raise InputError(without_depth(name, model, layer))
        n_layers = outline.n_layers
    of_model = defaults(n_layers)
    editor = next(of_model[key] for key in asked_of_presets(name, perspective) if key in of_model)
    if not isinstance(editor, MEND):
        scaled = "its settings are"
        if layer:
            scaled = f"its {layer} {getattr(editor, layer)} and its other settings are"
        _tell_once(
            logging.WARNING,
            f"{name} has no tuned settings for {_name(model)}: {scaled} scaled "
            f"from those of other models; python -m experiments.tune_editors --model "
            f"{_name(model)} --editors {name} --perspective {perspective} --save finds better ones",
        )
    return editor


def _rebuilt(key: str, saved: SavedEditor, model: str) -> Editor:
    """Returns the editor of which `label_of` wrote the saved settings.

    Raises:
        InputError: they are not settings of this editor.
    """
    kind, _ = VARIANTS.get(key.split(" ")[0], Variant(key.split(" ")[0], {}))
    try:
        name, _ = parted(saved.settings)
        if EDITORS.get(name) is not EDITORS.get(kind):
            raise InputError(f"{saved.settings:.{SHOWN}} is not {key}")
        values = changes_of(saved.settings)
        layers = {field: values[field] for field in LAYERS if field in values}
        for field, value in layers.items():
            require_setting(EDITORS[kind], field, value, saved.settings)
        editor = EDITORS[kind](**layers)
        for field, value in values.items():
            editor = _with(editor, field.split("."), value, saved.settings)
        return editor
    except (InputError, TypeError) as error:
        raise InputError(
            f"{settings_file(model)}: the settings of {key} cannot be used: {error}"
        ) from None


def _name(model: str | AnyModel) -> str:
    return model if isinstance(model, str) else source_of(model)


@functools.cache
def _tell_once(level: int, message: str) -> None:
    """Logs a message; a message that was logged before is not logged again."""
    log.log(level, "%s", message)


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
        value = as_field(get_type_hints(type(settings))[field], value)
    return dataclasses.replace(settings, **{field: value})


def label_of(editor: Editor) -> str:
    """Returns the editor as a spec: its name, and the settings that differ from its defaults."""
    if isinstance(editor, Sides):
        sides = (editor.entity, editor.relation)
        return " & ".join(label_of(side) if side else "" for side in sides)
    names = [name for name, kind in EDITORS.items() if type(editor) is kind]
    if not names or not dataclasses.is_dataclass(editor):
        return repr(editor)
    return names[0] + "".join(f":{field}={value}" for field, value in _changed(editor))


def _changed(settings: Any, default: Any = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the settings that are not the defaults, as a spec has them, with nested ones apart.

    Args:
        default: the values that count as defaults; None: those of the fields.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        usual = field.default if default is None else getattr(default, field.name)
        if value == usual:
            continue
        if dataclasses.is_dataclass(value) and type(value) is type(usual):
            yield from _changed(value, usual, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _in_spec(value)


def _in_spec(value: Any) -> str:
    """Returns a value as specs have it: as Python writes it, without blanks between elements."""
    if not isinstance(value, tuple):
        return repr(value)
    return f"({','.join(map(_in_spec, value))}{',' * (len(value) == 1)})"
