"""NaN and infinity are no results, and JSON has neither: where they are refused, or left out."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def require_finite(
    name: str, record: Mapping[str, Any], tensors: "Mapping[str, Tensor] | None" = None
) -> None:
    """Raises InputError if a number of a record, or of its tensors, is NaN or infinite.

    Args:
        name: what the record is of, for the message.
    """
    from kedit.errors import InputError

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


def without_nan(value: Any) -> Any:
    """Plain values with None wherever there is a NaN or an infinity."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """The floats inside of plain values, each with where it stands: "heads.L1H0.direct"."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, (Mapping, list, tuple)):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in inner:
            yield from _floats(one, f"{place}.{name}" if place else str(name))
