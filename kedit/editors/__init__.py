"""Editors by name, with settings for models that they were published for or tuned on."""

import ast
import contextlib
import dataclasses
import re
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transformer_lens.loading_from_pretrained import get_official_model_name

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

# "ft" is not bounded, "ft+l" is; RaKE's FT is ft+l
EDITORS: Mapping[str, type[Editor]] = {
    "rome": ROME, "memit": MEMIT, "ft": FT, "ft+l": FT, "kn": KN, "mend": MEND,
    "joint": Joint,
}  # fmt: skip
SHOWN = 200  # characters of what was told that a message repeats


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
    shown = told if len(told) <= SHOWN else f"{told[:SHOWN]}..."
    if "&" in unquoted(told):
        at = unquoted(told).index("&")
        ones = dict(
            zip(get_args(Perspective), (told[:at].strip(), told[at + 1 :].strip()), strict=True)
        )
        if not any(ones.values()):
            raise InputError(f"{shown}: an editor is wanted at least for one side")
        return Sides(
            **{side: editor(one, model, side) if one else None for side, one in ones.items()}
        )
    name, changes = parted(told)
    kind, fixed = VARIANTS.get(name, Variant(name, {}))
    if kind not in EDITORS:
        there = ", ".join((*EDITORS, *VARIANTS))
        raise InputError(f"there is no editor {name[:SHOWN]!r}, only {there}")
    values: dict[str, Any] = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"{shown}: {change[:SHOWN]!r} is not of the form field=value")
        values[field] = _parsed(value)
    of_model = PRESETS.get(_named(model), {})
    asked = (f"{name} {perspective}", name, f"{kind} {perspective}", kind)
    made = next((of_model[one] for one in asked if one in of_model), None)
    if made is None:
        layers = [one for one in ("layer", "layers") if one in get_type_hints(EDITORS[kind])]
        for layer in layers:
            if layer not in values:
                raise InputError(
                    f"{name} has no settings for {model}: tell its {layer}, as in {name}:{layer}="
                    + ("(4,5,6)" if layer == "layers" else "5")
                )
            _require(EDITORS[kind], layer, values[layer], shown)
        made = EDITORS[kind](**{layer: values[layer] for layer in layers})
    made = dataclasses.replace(made, **fixed)  # pyright: ignore[reportArgumentType]
    for field, value in values.items():
        made = _with(made, field.split("."), value, shown)
    return made


def parted(told: str) -> tuple[str, list[str]]:
    """The name of one editor, and its changes, each `field=value`."""
    name, _, rest = told.partition(":")
    if not rest:
        return name, []
    # a value may hold a colon outside of quotation marks too: hf:NAME
    at = [found.start() for found in re.finditer(r":(?=[\w.]+=)", unquoted(rest))]
    return name, [rest[a + 1 : b] for a, b in zip([-1, *at], [*at, len(rest)], strict=True)]


def unquoted(told: str) -> str:
    """`told` with a stroke for each character that stands in quotation marks, and for the marks.

    Marks count where a value or one of its elements can begin: the apostrophe in text=Bob's.txt
    opens nothing.
    """
    return re.sub(
        r"""(?<=[=(,\s])('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""",
        lambda quoted: "_" * len(quoted[0]),
        told,
        flags=re.DOTALL,
    )


def _with(settings: Any, path: list[str], value: Any, told: str) -> Any:
    """A copy in which the field at `path` is `value`."""
    field, *inner = path
    if inner:
        within = getattr(settings, field, None)
        if not dataclasses.is_dataclass(within):
            raise InputError(f"{told}: there is nothing inside of {field[:SHOWN]!r}")
        value = _with(within, inner, value, told)
    else:
        _require(type(settings), field, value, told)
        value = float(value) if get_type_hints(type(settings))[field] is float else value
    return dataclasses.replace(settings, **{field: value})


def _require(settings: type, field: str, value: Any, told: str) -> None:
    """Raises InputError unless `settings` has such a field, which can have such a value."""
    hints = get_type_hints(settings)
    if field not in hints:
        there = ", ".join(hints)
        raise InputError(f"{told}: {settings.__name__} has no {field[:SHOWN]!r}, but {there}")
    hint = hints[field]
    if not _fits(value, hint):
        wanted = " or ".join(get_args(hint)) if _is_choice(hint) else hint
        wanted = "a finite number" if hint is float else getattr(wanted, "__name__", str(wanted))
        raise InputError(f"{told}: {field} is {value!r:.{SHOWN}}, but {wanted} is wanted")


def _fits(value: Any, hint: Any) -> bool:
    if _is_choice(hint):
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        own = get_args(hint)[:1] * len(value) if get_args(hint)[-1] is ... else get_args(hint)
        return len(own) == len(value) and all(map(_fits, value, own))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # nor is NaN
    if get_origin(hint) is UnionType:
        return any(_fits(value, one) for one in get_args(hint))
    return type(value) is hint


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _named(model: str) -> str:
    """The name that PRESETS knows a model by."""
    with contextlib.suppress(ValueError):  # not one of TransformerLens'
        model = get_official_model_name(model)
    return model.rsplit("/")[-1].removesuffix(".gguf").lower()


def _parsed(text: str) -> Any:
    """A number, a truth value, a tuple, or the text itself."""
    try:
        return ast.literal_eval(text)
    # the last two: thousands of signs or brackets
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
