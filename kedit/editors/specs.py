"""Reads editor specs and checks them against the editors' settings, without torch.

Importing an editor imports torch and TransformerLens, which takes seconds. So the names and types
of an editor's settings are read from its source code instead.
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
from kedit.editors.hparams import ENDINGS, read_settings
from kedit.errors import InputError
from kedit.models.outline import short_name

SHOWN = 200  # characters of a spec that error messages repeat
SOURCES = Path(__file__).parents[1]
SIDES: tuple[str, ...] = ("entity", "relation")
# the fields that say which layers an editor writes, with an example of each
LAYERS = {"layer": "5", "layers": "(4,5,6)", "places": "((5,'mlp','subject_last'),)"}


def parted(spec: str) -> tuple[str, list[str]]:
    """Splits the spec of one editor into its name and its changes, each `field=value`."""
    name, _, rest = spec.partition(":")
    if not rest:
        return name, []
    # a value may hold a colon outside of quotation marks too: hf:NAME
    colons = [found.start() for found in re.finditer(r":(?=[\w.]+=)", unquoted(rest))]
    return name, [rest[a + 1 : b] for a, b in zip([-1, *colons], [*colons, len(rest)], strict=True)]


def unquoted(spec: str) -> str:
    """Returns `spec` with quoted text, and its quotation marks, replaced by underscores.

    Quotation marks count only where a value or one of its elements can begin: the apostrophe in
    text=Bob's.txt doesn't open a quotation.
    """
    return re.sub(
        r"""(?<=[=(,\s])('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""",
        lambda quoted: "_" * len(quoted[0]),
        spec,
        flags=re.DOTALL,
    )


def by_side(spec: str, perspective: str) -> dict[str, str]:
    """Returns the spec of each side: both around a `&`, or one for `perspective`.

    Raises:
        InputError: there is a `&`, but no spec on either side of it.
    """
    if "&" not in unquoted(spec):
        return {perspective: spec}
    middle = unquoted(spec).index("&")
    sides = dict(zip(SIDES, (spec[:middle].strip(), spec[middle + 1 :].strip()), strict=True))
    if not any(sides.values()):
        raise InputError(f"{shortened(spec)}: at least one side of & needs an editor")
    return sides


def changes_of(spec: str) -> dict[str, Any]:
    """Returns the values that the spec sets, by field name, with dots for nested fields.

    Raises:
        InputError: a change is not of the form field=value.
    """
    values: dict[str, Any] = {}
    for change in parted(spec)[1]:
        field, equals, value = change.partition("=")
        if not equals:
            raise InputError(
                f"{shortened(spec)}: {change[:SHOWN]!r} is not of the form field=value"
            )
        values[field] = _parsed(value)
    return values


def read_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of a spec's editor, and the values that the spec sets.

    In place of a name the spec may have a file of settings (`kedit.editors.hparams`).

    Raises:
        InputError: a change is not of the form field=value, or the file cannot be used.
    """
    (name, _), values = parted(spec), changes_of(spec)
    if name.endswith(ENDINGS):
        name, of_file = read_settings(name)
        values = of_file | values
    return name, values


def varied(spec: str, field: str, value: int | float) -> str:
    """Returns the spec with a setting changed to a number."""
    return f"{spec}:{field}={value:.12g}"


def shortened(spec: str) -> str:
    """Returns the spec, cut to SHOWN characters, for a message."""
    return spec if len(spec) <= SHOWN else f"{spec[:SHOWN]}..."


def require_setting(settings: type, field: str, value: Any, spec: str) -> None:
    """Raises InputError unless `settings` has this field, and the field can have this value."""
    hints = get_type_hints(settings)
    if field not in hints:
        fields = ", ".join(hints)
        raise InputError(
            f"{shortened(spec)}: {settings.__name__} has no {field[:SHOWN]!r}, only {fields}"
        )
    hint = hints[field]
    if not fits(value, hint):
        needed = " or ".join(get_args(hint)) if _is_choice(hint) else hint
        numbers = {float: "a finite number", float | None: "a finite number or None"}
        needed = numbers.get(hint) or getattr(needed, "__name__", str(needed))
        raise InputError(f"{shortened(spec)}: {field} must be {needed}, got {value!r:.{SHOWN}}")


def as_field(hint: Any, value: Any) -> Any:
    """Returns a value that fits the annotated type: integers as floats, where that is needed."""
    if hint == tuple[float, ...] and isinstance(value, tuple):
        return tuple(map(float, value))
    is_number = isinstance(value, (int, float)) and hint in (float, float | None)
    return float(value) if is_number else value


def require_known(name: str) -> None:
    """Raises InputError, with a list of the editors, for a name that is none of them."""
    if name not in names():
        raise InputError(f"there is no editor {name[:SHOWN]!r}, only {', '.join(names())}")


def names() -> tuple[str, ...]:
    """Returns the names of all editors and variants, in the order in which they are listed."""
    return (*kinds(), *_keys("variants", "VARIANTS"))


@functools.cache
def kinds() -> Mapping[str, str]:
    """Returns the class name of every editor that is not a variant, by its name in specs."""
    table = _assigned("editors/registry", "EDITORS")
    assert isinstance(table, ast.Dict)
    return {ast.literal_eval(key): ast.unparse(value)
            for key, value in zip(_all(table.keys), table.values, strict=True)}  # fmt: skip


def require_possible(
    spec: str, model: str, perspective: str = "entity", n_layers: int | None = None
) -> dict[str, dict[str, Any]]:
    """Checks all that `make_editor` would refuse; returns the changes by side.

    Args:
        n_layers: of the model, if known.

    Raises:
        InputError: an unknown editor, field or value; saved settings that are damaged; or an editor
            whose layer must be given, because nothing tells how deep the model is.
    """
    found: dict[str, dict[str, Any]] = {}
    for side, side_spec in by_side(spec, perspective).items():
        if not side_spec:
            continue
        name, values = read_spec(side_spec)
        require_known(name)
        settings = settings_of(name)
        layer = layer_field(name, values)
        if layer and n_layers is None and not has_preset(name, model, side):
            raise InputError(without_depth(name, model, layer))
        for path, value in values.items():
            _require_at(settings, path.split("."), value, side_spec)
        found[side] = values
    return found


def kind_of(name: str) -> str:
    """Returns the editor that a variant is based on; for any other editor, its own name."""
    table = _assigned("editors/variants", "VARIANTS")
    assert isinstance(table, ast.Dict)
    for key, value in zip(_all(table.keys), table.values, strict=True):
        if ast.literal_eval(key) == name and isinstance(value, ast.Call):
            return ast.literal_eval(value.args[0])
    return name


def asked_of_presets(name: str, perspective: str) -> tuple[str, ...]:
    """Returns the names to look for in a model's presets, the best first."""
    kind = kind_of(name)
    return (f"{name} {perspective}", name, f"{kind} {perspective}", kind)


def has_preset(name: str, model: str, perspective: str) -> bool:
    """Returns whether an editor has settings for a model: published, tuned by kedit, or saved.

    Raises:
        InputError: the file of saved settings is damaged.
    """
    from kedit.saved_settings import read_settings  # imports NumPy, which help can do without

    model = short_name(model)
    known = {*_presets().get(model, ()), *read_settings(model)}
    return any(preset in known for preset in asked_of_presets(name, perspective))


def layer_field(name: str, values: Mapping[str, Any]) -> str:
    """Returns the field with an editor's layers, if `values` leave it out; "" otherwise."""
    fields = get_type_hints(settings_of(name))
    return next((field for field in LAYERS if field in {*fields} - {*values}), "")


def without_depth(name: str, model: str, layer: str) -> str:
    """Returns a message on what to do if nothing tells at which layer an editor should edit."""
    return (
        f"{name} has no settings for {model}, and kedit cannot read how many layers the model has: "
        f"give its {layer}, as in {name}:{layer}={LAYERS[layer]}"
    )


def settings_of(name: str) -> type:
    """Returns a dataclass with the fields of an editor or variant, in place of its class."""
    return _Names("editors/registry")[kinds()[kind_of(name)]]


@functools.cache
def _stand_in(name: str, module: str) -> type:
    """Returns a dataclass with the fields of a class in `module`, but without defaults."""
    tree = _tree(module)
    (definition,) = (
        statement
        for statement in tree.body
        if isinstance(statement, ast.ClassDef) and statement.name == name
    )
    scope = _Names(module)
    hints = [
        (statement.target.id, eval(ast.unparse(statement.annotation), {}, scope))
        for statement in definition.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    return dataclasses.make_dataclass(name, hints)


class _Names(dict[str, Any]):
    """Resolves the names in one module's annotations."""

    def __init__(self, module: str) -> None:
        super().__init__({"Literal": Literal, **vars(__import__("builtins"))})
        self.module = module

    def __missing__(self, name: str) -> Any:
        """Returns an alias or dataclass of kedit, or else a class that no value fits."""
        for statement in _tree(self.module).body:
            if isinstance(statement, ast.ImportFrom) and any(
                alias.name == name for alias in statement.names
            ):
                home = str(statement.module).removeprefix("kedit.").replace(".", "/")
                if (SOURCES / f"{home}.py").exists():
                    return _Names(home)[name]
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
                return eval(ast.unparse(statement.value), {}, self)
            if isinstance(statement, ast.ClassDef) and statement.name == name:
                # TypeError: a class with tensors as fields, which a spec cannot set anyway
                with contextlib.suppress(TypeError):
                    return _stand_in(name, self.module)
        return type(name, (), {})


@functools.cache
def _tree(module: str) -> ast.Module:
    """Returns a module's syntax tree."""
    return ast.parse((SOURCES / f"{module}.py").read_text(encoding="utf-8"))


def _assigned(module: str, name: str) -> ast.expr:
    """Returns what a module assigns to an annotated name."""
    for statement in _tree(module).body:
        if (
            isinstance(statement, ast.AnnAssign)
            and ast.unparse(statement.target) == name
            and statement.value
        ):
            return statement.value
    raise AssertionError(f"{module} has no {name}")


@functools.cache
def _keys(module: str, name: str) -> tuple[str, ...]:
    """Returns the keys of a table in `kedit/editors`."""
    table = _assigned(f"editors/{module}", name)
    assert isinstance(table, ast.Dict)
    return tuple(ast.literal_eval(key) for key in _all(table.keys))


@functools.cache
def _presets() -> Mapping[str, tuple[str, ...]]:
    """Returns the names of the editors that have settings for a model, by the model's name."""
    table = _assigned("editors/presets", "PRESETS")
    assert isinstance(table, ast.Dict)
    found = {}
    for key, value in zip(_all(table.keys), table.values, strict=True):
        assert isinstance(value, ast.Dict)
        found[ast.literal_eval(key)] = tuple(map(ast.literal_eval, _all(value.keys)))
    return found


def _all(keys: Sequence[ast.expr | None]) -> Iterator[ast.expr]:
    """Yields the keys of a literal dictionary; ** entries, which have none, are not allowed."""
    for key in keys:
        assert key is not None
        yield key


def _require_at(settings: type, path: list[str], value: Any, spec: str) -> None:
    """Checks the type and bounds of the value for the field at `path`.

    Raises:
        InputError: there is no such field, or it cannot have this value.
    """
    field, *inner = path
    hint = get_type_hints(settings).get(field)
    if inner:
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            raise InputError(f"{shortened(spec)}: {field[:SHOWN]!r} has no fields")
        _require_at(hint, inner, value, spec)
        return
    require_setting(settings, field, value, spec)
    value = as_field(hint, value)
    owner = settings.__name__.lower()
    if found := broken(owner, field, value):
        raise InputError(f"{owner}:{field}={found[0]}: must be {found[1]}")


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value is of the annotated type."""
    if _is_choice(hint):
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        hints = get_args(hint)[:1] * len(value) if get_args(hint)[-1] is ... else get_args(hint)
        return len(hints) == len(value) and all(map(fits, value, hints))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # False for NaN
    if get_origin(hint) is UnionType:
        return any(fits(value, option) for option in get_args(hint))
    return type(value) is hint


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _parsed(text: str) -> Any:
    """Returns the text as a number, a truth value or a tuple; otherwise the text itself."""
    try:
        return ast.literal_eval(text)
    # RecursionError and MemoryError: texts with thousands of signs or brackets
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
