"""Converts results to plain JSON and back.

A result is a frozen dataclass. Its fields are plain values, arrays, intervals, other dataclasses,
and tuples and mappings of these. The types of the fields decide how a record is read back. JSON has
no NaN and no infinity: null replaces them.
"""

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from kedit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


def to_record(value: Any) -> Any:
    """Converts `value` to plain JSON: fields by name, arrays as lists, None for NaN and infinity.

    A field that is not compared (`field(compare=False)`) is left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.compare]
        return {name: to_record(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_record(part) for name, part in value._asdict().items()}  # pyright: ignore
    if isinstance(value, Mapping):
        return {str(name): to_record(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_record(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_record(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_record(kind: type[Value], record: Any) -> Value:
    """Reads back what `to_record` converted, as a value of type `kind`; None in arrays becomes NaN.

    Raises:
        InputError: a field of a dataclass is missing, or a value is none of the allowed ones.
    """
    return _read(kind, record)


def require_finite(
    name: str, record: Mapping[str, Any], tensors: "Mapping[str, Tensor] | None" = None
) -> None:
    """Checks that all numbers of a record and of its tensors are finite.

    Args:
        name: the name of the record in the message.

    Raises:
        InputError: a number is NaN or infinite.
    """
    bad = [(path, str(value)) for path, value in _floats(record) if not math.isfinite(value)]
    bad += [
        (path, "not finite everywhere")
        for path, tensor in (tensors or {}).items()
        if not tensor.isfinite().all()
    ]
    for path, found in bad:
        raise InputError(
            f"{name}: {path} is {found}, which is no result. Very large noise or edits overflow, "
            "most of all in float16: use smaller noise or edits, or --dtype float32"
        )


def key_of(item: Any) -> str:
    """Computes the key of an item's record: a digest of all fields of a frozen dataclass.

    Fields of dataclasses inside of it count too. Fields that have their default values do not, so
    that a field that a later version of kedit adds does not change the keys of older records.
    """
    text = json.dumps(_set_fields(item), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _set_fields(item: Any) -> Any:
    """A dataclass as a dictionary of the fields that differ from their defaults."""
    if isinstance(item, (list, tuple)):
        return [_set_fields(part) for part in item]
    if not dataclasses.is_dataclass(item):
        return item
    values = {field: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {
        field.name: _set_fields(value) for field, value in values.items() if value != field.default
    }


def _floats(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yields all floats inside of plain values, each with its path, such as "heads.L1H0.direct"."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in inner:
            yield from _floats(part, f"{path}.{name}" if path else str(name))


def _read(kind: Any, record: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if record is None and type(None) in inner:
            return None
        return _read(next(option for option in inner if option is not type(None)), record)
    if _is_array(kind):
        return _array(record)
    if kind is float:
        return math.nan if record is None else float(record)
    if origin is Literal:
        if record not in inner:
            raise InputError(f"must be one of {', '.join(map(repr, inner))}, got {record!r:.60}")
        return record
    if kind is Any or _is_none(record):
        return record
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        return _from_fields(kind, record)
    if origin is not None and issubclass(origin, Mapping):
        return {_read(inner[0], name): _read(inner[1], part) for name, part in record.items()}
    if origin is tuple:
        kinds = [inner[0]] * len(record) if inner[-1:] == (...,) else inner
        return tuple(_read(part, value) for part, value in zip(kinds, record, strict=True))
    if origin is not None and issubclass(origin, (Sequence, frozenset)):
        parts = (_read(inner[0], part) for part in record)
        return frozenset(parts) if origin is frozenset else tuple(parts)
    return kind(record) if kind in (int, str, bool) else record


def _from_fields(kind: type, record: Mapping[str, Any]) -> Any:
    """Makes a dataclass or a named tuple from a record of its fields."""
    hints = _hints(kind)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        names = [*kind._fields]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        # a field that an earlier version of kedit did not write gets its default
        values = {name: _read(hints[name], record[name]) for name in names if name in record}
        return kind(**values)
    except TypeError as error:
        raise InputError(f"this is not the record of a {kind.__name__}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_none(record: Any) -> bool:
    return record is None


def _is_array(kind: Any) -> bool:
    """Whether a type is numpy's array, with or without a shape from jaxtyping."""
    return kind is np.ndarray or getattr(kind, "array_type", None) is np.ndarray


def _array(record: Any) -> np.ndarray:
    values = np.array(record, dtype=object)
    missing = np.vectorize(_is_none, otypes=[bool])(values) if values.size else values
    if values.size and missing.any():
        return np.where(missing, np.nan, values).astype(float)
    return np.array(record)
