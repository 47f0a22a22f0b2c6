"""What numbers settings and options may have."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kedit.errors import InputError


class Bound(NamedTuple):
    """Numbers from `low` to `high`; `open`: without those two."""

    low: int | float
    high: int | float = math.inf
    open: bool = False

    def holds(self, value: int | float) -> bool:
        """Whether `value` is among them, and finite."""
        within = self.low < value < self.high if self.open else self.low <= value <= self.high
        return within and math.isfinite(value)

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        if self.high < math.inf:
            return f"a number between {self.low} and {self.high}"
        return f"a number {'above' if self.open else 'of at least'} {self.low}"


NOT_NEGATIVE, POSITIVE, AT_LEAST_ONE = Bound(0), Bound(0, open=True), Bound(1)
SHARE = Bound(0, 1)
FINITE = Bound(-math.inf, open=True)
# by field, of all editors and of their training; of others any value is right or looked at there
EDITORS: Mapping[str, Bound] = {
    "steps": AT_LEAST_ONE, "lr": POSITIVE, "weight_decay": NOT_NEGATIVE, "kl": NOT_NEGATIVE,
    "clamp": POSITIVE, "stop": NOT_NEGATIVE, "words": NOT_NEGATIVE, "bound": NOT_NEGATIVE,
    "threshold": SHARE, "agreement": SHARE, "erase": FINITE, "write": FINITE, "scale": FINITE,
    "weight": POSITIVE, "keep": POSITIVE, "shrink": NOT_NEGATIVE, "null_space": SHARE,
    "balance": SHARE, "batch": NOT_NEGATIVE, "wordings": NOT_NEGATIVE, "neighbours": NOT_NEGATIVE,
    "family": NOT_NEGATIVE, "n_tokens": NOT_NEGATIVE, "seed": Bound(0, 2**63 - 1),
}  # fmt: skip


def require_in_bounds(
    settings: Any, bounds: Mapping[str, Bound] = EDITORS, named: str = ""
) -> None:
    """Raises InputError for a number of `settings`, a dataclass, that is out of its bound.

    Args:
        named: how the message names what came, with places for {field} and {value}; "" for the way
            in which editors are told.
    """
    named = named or f"{type(settings).__name__.lower()}:{{field}}={{value}}"
    for field in dataclasses.fields(settings):
        value, bound = getattr(settings, field.name), bounds.get(field.name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if bound and is_number and not bound.holds(value):
            raise InputError(f"{named.format(field=field.name, value=value)}: {bound} is wanted")
