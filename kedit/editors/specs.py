"""Editors as a command line tells them, taken apart and held against their settings: no torch.

Importing an editor brings torch and TransformerLens, which takes seconds. What settings it has, and
of what types, is read from its source instead.
"""

import ast
import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kedit.bounds import broken
from kedit.errors import InputError, ModelUnavailable
from kedit.models.outline import official_name

SHOWN = 200  # characters of what was told that a message repeats
SOURCES = Path(__file__).parents[1]
SIDES: tuple[str, ...] = ("entity", "relation")


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


def by_side(told: str, perspective: str) -> dict[str, str]:
    """The editor of each side, "" for none: two of them around a `&`, or one for `perspective`.

    Raises:
        InputError: none on either side of the `&`.
    """
    if "&" not in unquoted(told):
        return {perspective: told}
    at = unquoted(told).index("&")
    sides = dict(zip(SIDES, (told[:at].strip(), told[at + 1 :].strip()), strict=True))
    if not any(sides.values()):
        raise InputError(f"{shortened(told)}: an editor is wanted at least for one side")
    return sides


def changes_of(told: str) -> dict[str, Any]:
    """What is to be changed, by the field's name, dotted where it lies in another.

    Raises:
        InputError: not of the form field=value.
    """
    values: dict[str, Any] = {}
    for change in parted(told)[1]:
        field, equals, value = change.partition("=")
        if not equals:
            raise InputError(
                f"{shortened(told)}: {change[:SHOWN]!r} is not of the form field=value"
            )
        values[field] = _parsed(value)
    return values


def shortened(told: str) -> str:
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}..."


def require_setting(settings: type, field: str, value: Any, told: str) -> None:
    """Raises InputError unless `settings` has such a field, which can have such a value."""
    hints = get_type_hints(settings)
    if field not in hints:
        there = ", ".join(hints)
        raise InputError(
            f"{shortened(told)}: {settings.__name__} has no {field[:SHOWN]!r}, but {there}"
        )
    hint = hints[field]
    if not _fits(value, hint):
        wanted = " or ".join(get_args(hint)) if _is_choice(hint) else hint
        wanted = "a finite number" if hint is float else getattr(wanted, "__name__", str(wanted))
        raise InputError(
            f"{shortened(told)}: {field} is {value!r:.{SHOWN}}, but {wanted} is wanted"
        )


def require_known(name: str) -> None:
    """Raises InputError for an editor that does not exist; says what there is."""
    if name not in names():
        raise InputError(f"there is no editor {name[:SHOWN]!r}, only {', '.join(names())}")


def names() -> tuple[str, ...]:
    """Of all editors and variants, in the order in which they are listed."""
    return (*kinds(), *_keys("variants", "VARIANTS"))


@functools.cache
def kinds() -> Mapping[str, str]:
    """The class of every editor that is no variant of another, by the name that it is told by."""
    table = _assigned("editors/registry", "EDITORS")
    assert isinstance(table, ast.Dict)
    return {ast.literal_eval(key): ast.unparse(value)
            for key, value in zip(_all(table.keys), table.values, strict=True)}  # fmt: skip


def require_possible(
    told: str, model: str, perspective: str = "entity", n_layers: int | None = None
) -> dict[str, dict[str, Any]]:
    """Looks at all that `kedit.editors.editor` would refuse, and gives the changes by side.

    Args:
        n_layers: of the model, if that is known.

    Raises:
        InputError: an unknown editor, field or value; or an editor that must be told its layer.
    """
    found: dict[str, dict[str, Any]] = {}
    for side, one in by_side(told, perspective).items():
        if not one:
            continue
        name, _ = parted(one)
        require_known(name)
        settings, values = settings_of(name), changes_of(one)
        if not has_preset(name, model, side):
            for layer in ("layer", "layers"):
                if layer in get_type_hints(settings) and layer not in values:
                    raise InputError(without_preset(name, model, layer, n_layers))
        for path, value in values.items():
            _require_at(settings, path.split("."), value, one)
        found[side] = values
    return found


def kind_of(name: str) -> str:
    """The editor that a variant is one of; any other's own name."""
    table = _assigned("editors/variants", "VARIANTS")
    assert isinstance(table, ast.Dict)
    for key, value in zip(_all(table.keys), table.values, strict=True):
        if ast.literal_eval(key) == name and isinstance(value, ast.Call):
            return ast.literal_eval(value.args[0])
    return name


def asked_of_presets(name: str, perspective: str) -> tuple[str, ...]:
    """The names by which the presets of a model may have settings of an editor, the best first."""
    kind = kind_of(name)
    return (f"{name} {perspective}", name, f"{kind} {perspective}", kind)


def has_preset(name: str, model: str, perspective: str) -> bool:
    """Whether an editor has settings that were published for a model or tuned on it."""
    of_model = _presets().get(named(model), ())
    return any(one in of_model for one in asked_of_presets(name, perspective))


def without_preset(name: str, model: str, layer: str, n_layers: int | None = None) -> str:
    """What to do about an editor that has no settings for a model."""
    third = n_layers // 3 if n_layers else 5
    around = (third - 1, third, third + 1) if third else (0, 1)
    example = f"({','.join(map(str, around))})" if layer == "layers" else str(third)
    start = f" (a third of its {n_layers} layers is a start)" if n_layers else ""
    return (
        f"{name} has no settings for {model}: tell its {layer}, as in {name}:{layer}={example}"
        f"{start}; python -m experiments.choose_sites --model {model} finds a layer by trying"
    )


def named(model: str) -> str:
    """The name that the presets know a model by."""
    with contextlib.suppress(ModelUnavailable):  # not one of TransformerLens'
        model = official_name(model)
    return model.rsplit("/")[-1].removesuffix(".gguf").lower()


def settings_of(name: str) -> type:
    """A dataclass with the fields of an editor or variant, in the place of its class."""
    return _Names("editors/registry")[kinds()[kind_of(name)]]


@functools.cache
def _stand_in(name: str, module: str) -> type:
    """A dataclass with the fields of a class that `module` defines, without their defaults."""
    tree = _tree(module)
    (defined,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name)
    scope = _Names(module)
    hints = [
        (one.target.id, eval(ast.unparse(one.annotation), {}, scope))
        for one in defined.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    ]
    return dataclasses.make_dataclass(name, hints)


class _Names(dict[str, Any]):
    """What names in the annotations of one module stand for."""

    def __init__(self, module: str) -> None:
        super().__init__({"Literal": Literal, **vars(__import__("builtins"))})
        self.module = module

    def __missing__(self, name: str) -> Any:
        """An alias or a dataclass of kedit; for anything else a class that nothing told fits."""
        for one in _tree(self.module).body:
            if isinstance(one, ast.ImportFrom) and any(alias.name == name for alias in one.names):
                home = str(one.module).removeprefix("kedit.").replace(".", "/")
                if (SOURCES / f"{home}.py").exists():
                    return _Names(home)[name]
            if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
                return eval(ast.unparse(one.value), {}, self)
            if isinstance(one, ast.ClassDef) and one.name == name:
                with contextlib.suppress(TypeError):  # its fields are tensors, which nobody tells
                    return _stand_in(name, self.module)
        return type(name, (), {})


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((SOURCES / f"{module}.py").read_text(encoding="utf-8"))


def _assigned(module: str, name: str) -> ast.expr:
    """What a module assigns to a name with an annotation."""
    for one in _tree(module).body:
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == name and one.value:
            return one.value
    raise AssertionError(f"{module} has no {name}")


@functools.cache
def _keys(module: str, name: str) -> tuple[str, ...]:
    table = _assigned(f"editors/{module}", name)
    assert isinstance(table, ast.Dict)
    return tuple(ast.literal_eval(key) for key in _all(table.keys))


@functools.cache
def _presets() -> Mapping[str, tuple[str, ...]]:
    """The editors that have settings for a model, by its name."""
    table = _assigned("editors/presets", "PRESETS")
    assert isinstance(table, ast.Dict)
    found = {}
    for key, value in zip(_all(table.keys), table.values, strict=True):
        assert isinstance(value, ast.Dict)
        found[ast.literal_eval(key)] = tuple(map(ast.literal_eval, _all(value.keys)))
    return found


def _all(keys: Sequence[ast.expr | None]) -> Iterator[ast.expr]:
    """The keys of a table that is spelt out; ** has none."""
    for key in keys:
        assert key is not None
        yield key


def _require_at(settings: type, path: list[str], value: Any, told: str) -> None:
    """Looks at the value of the field at `path`, its type and its bounds.

    Raises:
        InputError: there is no such field, or it cannot have such a value.
    """
    field, *inner = path
    hint = get_type_hints(settings).get(field)
    if inner:
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            raise InputError(f"{shortened(told)}: there is nothing inside of {field[:SHOWN]!r}")
        _require_at(hint, inner, value, told)
        return
    require_setting(settings, field, value, told)
    value = float(value) if hint is float else value
    owner = settings.__name__.lower()
    if found := broken(owner, field, value):
        raise InputError(f"{owner}:{field}={found[0]}: {found[1]} is wanted")


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


def _parsed(text: str) -> Any:
    """A number, a truth value, a tuple, or the text itself."""
    try:
        return ast.literal_eval(text)
    # the last two: thousands of signs or brackets
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
