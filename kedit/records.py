"""Values as plain JSON and back: dataclasses to records, records to dataclasses, and no NaN.

A result is a frozen dataclass. Its fields are plain values, arrays, intervals, other dataclasses,
and tuples and mappings of these; their types say how a record is read back.
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
    """`value` as JSON has it: fields by name, arrays as lists, None for NaN and infinity.

    A field that is not compared (`field(compare=False)`) is no part of the record.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.compare]
        return {name: to_record(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_record(one) for name, one in value._asdict().items()}  # pyright: ignore
    if isinstance(value, Mapping):
        return {str(name): to_record(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_record(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_record(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_record(kind: type[Value], record: Any) -> Value:
    """The value of type `kind` that `to_record` made the record of; NaN for None in arrays.

    Raises:
        InputError: a field of a dataclass is missing.
    """
    return _read(kind, record)


def require_finite(
    name: str, record: Mapping[str, Any], tensors: "Mapping[str, Tensor] | None" = None
) -> None:
    """Raises InputError if a number of a record, or of its tensors, is NaN or infinite.

    Args:
        name: what the record is of, for the message.
    """
    bad = [(place, str(value)) for place, value in _floats(record) if not math.isfinite(value)]
    bad += [
        (place, "not finite everywhere")
        for place, tensor in (tensors or {}).items()
        if not tensor.isfinite().all()
    ]
    for place, told in bad:
        raise InputError(
            f"{name}: {place} is {told}, which is no result. Numbers overflow under very large "
            "noise or edits, and early in float16: smaller ones or --dtype float32 are wanted"
        )


def key_of(item: Any) -> str:
    """A digest of all fields of a frozen dataclass, of those in it too: the key of its record.

    Fields that have their defaults do not count: a field that a later kedit adds changes no key.
    """
    told = json.dumps(_told(item), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _told(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_told(one) for one in item]
    if not dataclasses.is_dataclass(item):
        return item
    own = {field: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {field.name: _told(value) for field, value in own.items() if value != field.default}


def _floats(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """The floats inside of plain values, each with where it stands: "heads.L1H0.direct"."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, (Mapping, list, tuple)):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in inner:
            yield from _floats(one, f"{place}.{name}" if place else str(name))


def _read(kind: Any, record: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if record is None and type(None) in inner:
            return None
        return _read(next(one for one in inner if one is not type(None)), record)
    if _is_array(kind):
        return _array(record)
    if kind is float:
        return math.nan if record is None else float(record)
    if kind is Any or origin is Literal or _is_none(record):
        return record
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        return _made(kind, record)
    if origin is not None and issubclass(origin, Mapping):
        return {_read(inner[0], name): _read(inner[1], one) for name, one in record.items()}
    if origin is tuple:
        kinds = [inner[0]] * len(record) if inner[-1:] == (...,) else inner
        return tuple(_read(one, value) for one, value in zip(kinds, record, strict=True))
    if origin is not None and issubclass(origin, (Sequence, frozenset)):
        return (frozenset if origin is frozenset else tuple)(_read(inner[0], one) for one in record)
    return kind(record) if kind in (int, str, bool) else record


def _made(kind: type, record: Mapping[str, Any]) -> Any:
    hints = _hints(kind)
    names = [one.name for one in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else [
        *kind._fields  # pyright: ignore[reportAttributeAccessIssue]
    ]  # fmt: skip
    try:
        # a field that an earlier kedit did not write has its default
        there = {name: _read(hints[name], record[name]) for name in names if name in record}
        return kind(**there)
    except TypeError as error:
        raise InputError(f"no record of a {kind.__name__}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_none(record: Any) -> bool:
    return record is None


def _is_array(kind: Any) -> bool:
    """Whether it is an array of numpy, or one of jaxtyping's of a certain shape."""
    return kind is np.ndarray or getattr(kind, "array_type", None) is np.ndarray


def _array(record: Any) -> np.ndarray:
    values = np.array(record, dtype=object)
    missing = np.vectorize(_is_none, otypes=[bool])(values) if values.size else values
    if values.size and missing.any():
        return np.where(missing, np.nan, values).astype(float)
    return np.array(record)
