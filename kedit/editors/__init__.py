"""Editors by name, with settings for models that they were published for or tuned on."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kedit.edit import Editor
from kedit.editors.ft import FT
from kedit.editors.memit import MEMIT
from kedit.editors.presets import PRESETS
from kedit.editors.rome import ROME
from kedit.errors import InputError
from kedit.facts import Perspective

# "ft" is not bounded, "ft+l" is; RaKE's FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {"rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT}


def editor(told: str, model: str, perspective: Perspective = "entity") -> Editor:
    """An editor with its settings for a model, and changes to them.

        editor("rome", "gpt2-xl")                    as published
        editor("rome:where=last:training.clamp=1", "gemma-3-270m", "relation")

    Args:
        told: a name of EDITORS, then any number of `:field=value`.
        model: as `load` takes it. One without settings of its own must be told at least a layer.

    Raises:
        InputError: an unknown editor, field or value; says what there is.
    """
    name, *changes = told.split(":")
    if name not in EDITORS:
        raise InputError(f"there is no editor {name!r}, only {', '.join(EDITORS)}")
    values: dict[str, Any] = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"{told}: {change!r} is not of the form field=value")
        values[field] = _parsed(value)
    of_model = PRESETS.get(model.rsplit("/")[-1].removesuffix(".gguf"), {})
    made = of_model.get(f"{name} {perspective}", of_model.get(name))
    if made is None:
        layer = "layers" if name == "memit" else "layer"
        if layer not in values:
            raise InputError(
                f"{name} has no settings for {model}: tell its {layer}, as in {name}:{layer}="
                + ("(4,5,6)" if name == "memit" else "5")
            )
        made = EDITORS[name](**{layer: values[layer]})
    for field, value in values.items():
        made = _with(made, field.split("."), value, told)
    return made


def _with(settings: Any, path: list[str], value: Any, told: str) -> Any:
    """A copy in which the field at `path` is `value`."""
    field, *inner = path
    hints = get_type_hints(type(settings))
    if field not in hints:
        raise InputError(
            f"{told}: {type(settings).__name__} has no {field!r}, but {', '.join(hints)}"
        )
    if inner:
        if not dataclasses.is_dataclass(getattr(settings, field)):
            raise InputError(f"{told}: there is nothing inside of {field!r}")
        value = _with(getattr(settings, field), inner, value, told)
    elif not _fits(value, hints[field]):
        wanted = " or ".join(get_args(hints[field])) if _is_choice(hints[field]) else hints[field]
        wanted = getattr(wanted, "__name__", str(wanted))
        raise InputError(f"{told}: {field} is {value!r}, but {wanted} is wanted")
    return dataclasses.replace(settings, **{field: value})


def _fits(value: Any, hint: Any) -> bool:
    if _is_choice(hint):
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        own = get_args(hint)[:1] * len(value) if get_args(hint)[-1] is ... else get_args(hint)
        return len(own) == len(value) and all(map(_fits, value, own))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _parsed(text: str) -> Any:
    """A number, a truth value, a tuple, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
